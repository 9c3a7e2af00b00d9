"""Calibration responses as a filter stores them, to find thresholds for any risk: scores and labels, no texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from vtokens.filter.actions.action import check_action
from vtokens.filter.calibrators.calibrator import Calibrator
from vtokens.filter.calibrators.records import LabelledResponse
from vtokens.filter.guarantees.conformal import threshold
from vtokens.filter.guarantees.responses import Array
from vtokens.filter.guarantees.risk import Certificate, Risk
from vtokens.filter.guarantees.setting import CalibrationSetting

_UNIT = {"flag": "", "redact": "sentence", "regenerate": "sentence", "abstain": "response"}


@dataclass(frozen=True)
class Calibration:
    """Scored and labelled responses of one setting.

    Attributes:
        setting: what they had in common.
        risk: what was asked for when they were given; a bare `alpha` later means this risk with another bound.
        scores, labels, sentences: by response, of each mention its score, whether the image does not support it, and
            the sentence it stands in.
    """

    setting: CalibrationSetting
    risk: Risk
    scores: tuple[tuple[float, ...], ...]
    labels: tuple[tuple[bool, ...], ...]
    sentences: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, records: Sequence[LabelledResponse], calibrator: Calibrator, risk: Risk) -> Calibration:
        """Score records.

        Raises:
            ValueError: no records, records of several settings or of another one than the calibrator's, or of images
                that it was fitted on.
        """
        setting = CalibrationSetting.of_records(records)
        both = calibrator.images & {record.image for record in records}
        if both:
            raise ValueError(
                f"{len(both)} images of these records are among those that the calibrator was fitted on, such as "
                f"{min(both, key=str)!r}: thresholds take records of other images"
            )
        calibrator.check(setting, "error")
        scores = [tuple(map(float, calibrator.score(r.signals))) if r.mentions else () for r in records]
        labels = [tuple(record.labels) for record in records]
        sentences = [tuple(mention.sentence for mention in record.mentions) for record in records]
        return cls(setting, risk, tuple(scores), tuple(labels), tuple(sentences))

    def meant(self, risk: Risk | float | None) -> Risk:
        """Resolve a risk: None is the calibrated one, a number is another bound alpha of the same kind.

        Raises:
            TypeError: something else. ValueError: a number outside (0, 1).
        """
        if risk is None or isinstance(risk, Risk):
            return self.risk if risk is None else risk
        if isinstance(risk, bool) or not isinstance(risk, float | int):
            raise TypeError(f"risk={risk!r} is not a risk: a number between 0 and 1, or a Risk, is allowed")
        return replace(self.risk, alpha=float(risk))

    def certificate(self, risk: Risk | float | None = None, action: str = "flag") -> Certificate:
        """The threshold for a risk of what is left after an action.

        Redaction drops a mention with its sentence, abstention with its response: there a mention counts with the
        highest score of its sentence or response. The threshold for "regenerate" is that of "redact"; the guarantee is
        about the redacted response, not about sentences written again.
        """
        unit = _UNIT[check_action(action)]
        rows = [pooled(s, places, unit) for s, places in zip(self.scores, self.sentences, strict=True)]
        return threshold(rows, self.labels, self.meant(risk), setting=self.setting)

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Calibration:
        """What `to_dict` gave, also through JSON."""
        rows = {name: tuple(map(tuple, content[name])) for name in ("scores", "labels", "sentences")}
        return cls(CalibrationSetting(**content["setting"]), Risk(**content["risk"]), **rows)


def pooled(scores: Sequence[float], sentences: Sequence[int], unit: str) -> Array:
    """(n,): each mention's score, or the highest of its "sentence" or of the whole "response"."""
    found = np.asarray(scores, dtype=float)
    if unit == "response" and len(found):
        return np.full_like(found, found.max())
    if unit == "sentence":
        places = np.asarray(sentences, dtype=int)
        return np.array([found[places == place].max() for place in places])
    return found
