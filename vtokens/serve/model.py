"""The model behind the server, and what stands around it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import vtokens
from vtokens.core.errors import unknown
from vtokens.engine import Handle
from vtokens.filter import ACTIONS
from vtokens.filter.calibrators.calibrator import CalibrationWarning
from vtokens.filter.filter import HallucinationFilter
from vtokens.loading.hardware import check_device
from vtokens.serve.batcher import Batcher
from vtokens.serve.checked import wrong
from vtokens.serve.coming import Coming
from vtokens.serve.jobs import Full
from vtokens.serve.limits import Limits
from vtokens.serve.media import Media
from vtokens.serve.metrics import Metrics
from vtokens.serve.programs import Programs
from vtokens.serve.settings import Settings


@dataclass(frozen=True)
class Served:
    """What requests need.

    Attributes:
        settings, limits: of the server.
        model, processor, handle: loaded, and attached without a strategy.
        programs: what a request may run.
        hf: the filter; None if there is none.
        batcher: owns the model.
        coming: requests on their way to it.
        media: opens pictures.
        metrics: counts.
    """

    settings: Settings
    model: Any
    processor: Any
    handle: Handle
    programs: Programs
    hf: HallucinationFilter | None
    batcher: Batcher
    coming: Coming
    media: Media
    metrics: Metrics

    @property
    def limits(self) -> Limits:
        """Of one request."""
        return self.settings.limits

    @property
    def actions(self) -> tuple[str, ...]:
        """What the filter may be asked for."""
        return ACTIONS if self.hf is not None else ()

    def check_queue(self, count: int) -> None:
        """Raise `Full` where so many more requests would not fit, before their pictures are decoded.

        Raises:
            Refused: they never would.
        """
        if count > self.settings.queue:
            raise wrong(f"n={count}: this server lets {self.settings.queue} requests wait, and so many at most", "n")
        queued = self.batcher.queued
        if queued + count > self.settings.queue:
            raise Full(queued, (self.batcher.pace or 1.0) * queued)

    def end(self) -> None:
        """Drain, and let go of everything."""
        self.batcher.drain(self.settings.drain)
        self.batcher.close()
        self.media.close()


def _check_filtered(hf: HallucinationFilter, handle: Handle, programs: Programs, settings: Settings) -> None:
    """Raise `ValueError` if the filter cannot do what it is to do with every answer under one of the programs."""
    for name, program in programs.programs.items():
        try:
            with handle.running(*program):
                hf.check_action(settings.action or "flag", risk=settings.risk, threshold=settings.threshold)
        except ValueError as error:
            raise ValueError(
                f"{name}: every answer is to be filtered (--action {settings.action}), and this one cannot be: {error}"
            ) from error


def serve_model(settings: Settings) -> Served:
    """Load a model, and begin to serve it.

    Raises:
        TypeError, ValueError: a strategy, preset or filter that this model cannot run.
        OSError, ImportError: the model, or what it needs, is not there.
    """
    programs = Programs(settings)
    if settings.action is not None and settings.action not in ACTIONS:
        raise unknown("action", settings.action, ACTIONS)
    device = check_device(settings.device)
    model: Any
    model, processor = vtokens.load(settings.model, strategy="none", dtype=settings.dtype)
    model.to(device).eval()
    handle = vtokens.attachment(model) or vtokens.attach(model, "none")
    for name, program in programs.programs.items():
        try:
            handle.check(program)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{name}: {error}") from error
    hf = None
    if settings.filter != "none":
        with warnings.catch_warnings():
            if settings.filter == "auto" and settings.action is None:  # nobody asked for it yet
                warnings.simplefilter("ignore", CalibrationWarning)
            hf = HallucinationFilter.from_pretrained(model, processor, calibrator=settings.filter)
        if settings.action is not None:
            _check_filtered(hf, handle, programs, settings)
    coming = Coming()
    batcher = Batcher(
        model, processor, handle, most=settings.most, wait=settings.wait, queue=settings.queue, coming=coming
    )
    media = Media(settings.limits, hosts=settings.hosts, private=settings.private_urls)
    metrics = Metrics()
    metrics.watch("queued", "Requests that wait.", lambda: batcher.queued)
    metrics.watch("running", "Requests in the batch that runs.", lambda: batcher.running)
    return Served(settings, model, processor, handle, programs, hf, batcher, coming, media, metrics)
