"""What a server is started with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vtokens.core.budget import Keep
from vtokens.core.errors import shorten
from vtokens.serve.limits import Limits

_PRESET = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True)
class Settings:
    """What `vtokens serve` was asked for; it can be pickled, for servers on other machines.

    Attributes:
        model: an embedded model, a folder or a hub id.
        name: what /v1/models calls it; by default `model`, of a folder its last part.
        strategy: what runs where a request says nothing, as `attach` takes it; None for nothing.
        keep: of `strategy`.
        presets: names and the strategies they stand for; a request's model is then `NAME:PRESET`.
        trust: whether requests may name any strategy.
        filter: a calibrated filter's file, "auto" for the model's own, "none" for no filter.
        action: what the filter does with every answer; None for nothing where a request does not ask.
        risk, threshold: of `action`.
        device, dtype: where the model runs, and in what.
        most: requests in one batch.
        wait: seconds that a request waits for others that are on their way, at most.
        queue: requests that may wait; further ones get 429.
        drain: seconds that requests may take once the server is to end.
        hosts: whose pictures are fetched (`--allow-host`).
        private_urls: whether hosts of the own network may be among them.
        limits: bounds of requests.
        page: whether / shows a page.
    """

    model: str = "scenes-llava"
    name: str | None = None
    strategy: str | None = None
    keep: Keep | None = None
    presets: Mapping[str, str] = field(default_factory=dict)
    trust: bool = False
    filter: str = "auto"
    action: str | None = None
    risk: float | None = None
    threshold: float | None = None
    device: str = "cpu"
    dtype: str = "auto"
    most: int = 8
    wait: float = 0.01
    queue: int = 64
    drain: float = 30.0
    hosts: tuple[str, ...] = ()
    private_urls: bool = False
    limits: Limits = field(default_factory=Limits)
    page: bool = True

    @property
    def shown(self) -> str:
        """The model's name in /v1/models."""
        if self.name is not None:
            return self.name
        return Path(self.model).resolve().name if Path(self.model).is_dir() else self.model

    def __post_init__(self) -> None:
        for preset in self.presets:
            if not _PRESET.fullmatch(preset):
                raise ValueError(
                    f"the preset {shorten(preset)} has a name that is not allowed: letters, digits and _.- are"
                )
        if self.action is None and (self.risk is not None or self.threshold is not None):
            raise ValueError("risk and threshold are of an action: say which, such as flag or redact")
        if self.action is not None and self.filter == "none":
            raise ValueError(f"the action {self.action!r} needs a filter, and there is to be none")
