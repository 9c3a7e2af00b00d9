"""The conditions under which a response was generated; calibrators and thresholds are valid for one set of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import torch

from vtokens.core.moved import renamed
from vtokens.core.weights import named, whole, whole_shape
from vtokens.engine import attachment
from vtokens.filter.calibrators.records import LabelledResponse
from vtokens.strategies import format_spec

_SAMPLED = 16  # entries read of each tensor


@dataclass(frozen=True)
class CalibrationSetting:
    """The conditions under which calibrated numbers are valid.

    Attributes:
        model: the model's `fingerprint`.
        strategy: what ran while the response was generated and scored, as text (`attached_strategy`).
        prompts: a name of the user's for the family of prompts, such as "captions".
        decoding: how tokens were chosen, such as "greedy" or "sample(temperature=0.7)", with the action if there was
            one: a threshold for regenerated responses comes from regenerated responses.
        extractor: what found the mentions (`Extractor.name`).
    """

    model: str
    strategy: str = "none"
    prompts: str = "any"
    decoding: str = "greedy"
    extractor: str = "any"

    @classmethod
    def of(cls, model: Any, **more: str) -> CalibrationSetting:
        """The setting of a live model, with whatever is attached to it now."""
        return cls(fingerprint(model), attached_strategy(model), **more)

    @classmethod
    def of_records(cls, records: Iterable[LabelledResponse]) -> CalibrationSetting:
        """The one setting that all records share.

        Raises:
            ValueError: no records, records without a setting, or of several, naming what differs.
        """
        found = set()
        for record in records:
            missing = [f.name for f in fields(cls) if f.name not in record.meta]
            if missing:
                raise ValueError(f"the record of image {record.image!r} does not say in meta its {', '.join(missing)}")
            found.add(cls(**{f.name: str(record.meta[f.name]) for f in fields(cls)}))
        if len(found) > 1:
            first, second, *_ = sorted(found, key=lambda s: tuple(asdict(s).values()))
            raise ValueError(f"records of several settings ({'; '.join(first.differences(second))}): fit one on each")
        if not found:
            raise ValueError("there are no records")
        return found.pop()

    @property
    def meta(self) -> dict[str, str]:
        """What goes into `LabelledResponse.meta`."""
        return asdict(self)

    def differences(self, other: CalibrationSetting) -> list[str]:
        """What differs, as text, one entry a field."""
        mine, theirs = asdict(self), asdict(other)
        return [f"{name} {mine[name]!r} against {theirs[name]!r}" for name in mine if mine[name] != theirs[name]]


def attached_strategy(model: Any) -> str:
    """What the calling thread runs on a model, as text; "none" if nothing. Rows that differ stand side by side."""
    handle = attachment(model)
    programs = handle.programs_now if handle is not None else ((),)
    return " | ".join(dict.fromkeys(map(format_spec, programs)))


def fingerprint(model: Any) -> str:
    """The model type and a hash of the parameters' names, shapes and some entries of each, such as 'llava-0f3a...'.

    Entries are compared in bfloat16, so that a model read in half precision is still the same model. Sharded weights
    are gathered and offloaded ones fetched, one at a time; those that cannot be read count by name and shape only.
    """
    digest = hashlib.sha256()
    with torch.no_grad():
        for name, parameter in named(model):
            digest.update(f"{name}{whole_shape(parameter)}".encode())
            tensor = whole(model, name, parameter)
            if tensor is None:
                continue
            flat = tensor.reshape(-1)
            at = torch.linspace(0, flat.numel() - 1, min(_SAMPLED, flat.numel()), dtype=torch.float64).long()
            digest.update(flat[at.to(flat.device)].to(torch.bfloat16).cpu().view(torch.int16).numpy().tobytes())
    return f"{model.config.model_type}-{digest.hexdigest()[:16]}"


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        return renamed(__name__, name)
