"""What a filter judges by: it is fitted, calibrated, saved, and says under which conditions it holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, Unpack

from transformers import PreTrainedModel

from vtokens.adapters import adapter_for
from vtokens.adapters.wrappers import unwrapped
from vtokens.core.overlay import seen_image
from vtokens.filter.actions.decoding import decoding
from vtokens.filter.calibrators.calibrator import Calibrator
from vtokens.filter.calibrators.records import LabelledResponse
from vtokens.filter.explain import Explanation, explain
from vtokens.filter.guarantees.calibration import Calibration
from vtokens.filter.guarantees.limits import certificate
from vtokens.filter.guarantees.risk import Certificate, Risk
from vtokens.filter.guarantees.setting import CalibrationSetting, attached_strategy, fingerprint
from vtokens.filter.judge import Judge
from vtokens.filter.mentions import Extractor, get_extractor
from vtokens.filter.report import ResponseReport
from vtokens.filter.saved import Saved, write
from vtokens.filter.signals import Signal, get_signals, parts_for
from vtokens.filter.trace import passes
from vtokens.filter.trace.trace import Parts

if TYPE_CHECKING:
    from vtokens.core.generate_options import GenerateOptions


class Fitted:
    """A judge of a model's responses, with what its numbers were learnt from.

    Attributes:
        model, processor, judge, calibration, batch_size: as of `HallucinationFilter`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        processor: Any,
        signals: str | Sequence[str | Signal] = "fast",
        extractor: str | Extractor = "chunks",
        calibrator: Calibrator | None = None,
        calibration: Calibration | None = None,
        batch_size: int = 16,
    ) -> None:
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size={batch_size!r} is not allowed: a whole number from 1 on")
        self.model, self.processor, self.batch_size = unwrapped(model), processor, batch_size
        seen = partial(seen_image, processor)
        self.judge = Judge(get_signals(signals), get_extractor(extractor), calibrator, seen)
        self.calibration = calibration
        self._fingerprint = fingerprint(self.model)
        self._parts: tuple[tuple[Signal, ...], int, Parts] | None = None
        passes.check(self.model, self._wanted())
        if calibrator is not None:
            calibrator.check(self.setting())

    def setting(self, **generate_kwargs: Unpack[GenerateOptions]) -> CalibrationSetting:
        """Under which conditions responses come about now; `generate_kwargs` as they will be given."""
        fitted = self.judge.calibrator
        prompts = "any" if fitted is None else fitted.setting.prompts
        how = decoding(self.model, generate_kwargs)
        return CalibrationSetting(
            self._fingerprint, attached_strategy(self.model), prompts, how, self.judge.extractor.name
        )

    def certificate(self, risk: Risk | float | None = None, action: str = "flag") -> Certificate:
        """The threshold for a risk, with what it guarantees and assumes; printing it shows all of that.

        Args:
            risk: None for the one that was calibrated for, a number for another bound of the same kind, or a Risk.
            action: what will be done with it (`vtokens.filter.ACTIONS`).

        Raises:
            ValueError: the filter was not calibrated.
        """
        return certificate(self.calibration, risk, action)

    def explain(self, report: ResponseReport) -> list[Explanation]:
        """Which signals spoke for or against each mention of a report of this filter, weighed and in words.

        Raises:
            ValueError: the report was judged without a calibrator, or with one that does not know what is usual.
        """
        return explain(report, self.judge.calibrator)

    def fit(
        self,
        records: Sequence[LabelledResponse],
        estimator: str = "auto",
        *,
        names: Sequence[str] | None = None,
        calibration: Sequence[LabelledResponse] | None = None,
        seed: int = 0,
    ) -> Self:
        """Learn probabilities from labelled responses of this model; what was calibrated before is dropped.

        Args:
            records: from `ResponseReport.record`.
            estimator, names, calibration, seed: as of `Calibrator.fit`.

        Returns:
            The filter itself.
        """
        found = Calibrator.fit(records, names, estimator, calibration=calibration, seed=seed)
        found.check(self.setting())
        self.judge, self.calibration = replace(self.judge, calibrator=found), None
        return self

    def calibrate(self, records: Sequence[LabelledResponse], risk: Risk = Risk()) -> Self:  # noqa: B008 (frozen)
        """Set thresholds on labelled responses of other images than it was fitted on.

        Returns:
            The filter itself; `certificate()` says what it guarantees now.

        Raises:
            ValueError: it was not fitted yet, records of another setting, or of images that it was fitted on.
        """
        if self.judge.calibrator is None:
            raise ValueError("fit(records) comes first: thresholds are set on the probabilities that it learns")
        self.calibration = Calibration.of(records, self.judge.calibrator, risk)
        return self

    def save(self, path: str | Path) -> Path:
        """Write signals, extractor, calibrator and calibration; `from_pretrained` reads them.

        One JSON file if `path` ends in .json, and else a folder of JSON and safetensors, which a hub repository can
        hold as it is.

        Raises:
            ValueError: signals with settings of their own, which have no name.
        """
        for signal in self.judge.signals:
            if signal != type(signal)():
                raise ValueError(f"{signal!r} has settings of its own: only signals as they are by name can be saved")
        names = tuple(signal.name for signal in self.judge.signals)
        return write(path, Saved(names, self.judge.extractor.name, self.judge.calibrator, self.calibration))

    def _wanted(self) -> Parts:
        """What the signals need of a trace."""
        depth = len(adapter_for(self.model).layers)
        if self._parts is None or self._parts[:2] != (self.judge.signals, depth):  # asked for each call
            self._parts = self.judge.signals, depth, parts_for(self.judge.signals, depth)
        return self._parts[2]
