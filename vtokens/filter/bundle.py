"""A calibrator with the responses that thresholds are set on: what a filter is saved as, and what ships."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vtokens._errors import unknown
from vtokens.eval.files import line, replacing
from vtokens.filter.calibrator import Calibrator
from vtokens.filter.conformal import threshold
from vtokens.filter.records import Record
from vtokens.filter.risk import Certificate, Risk
from vtokens.filter.setting import Setting

#: What is dropped as one: a mention, all of its sentence, or the whole response. It is judged by its worst mention.
UNITS = ("mention", "sentence", "response")
_FOLDER = Path(__file__).parent / "calibrators"


@dataclass(frozen=True)
class Bundle:
    """A calibrator, and its probabilities for responses that it was not fitted on.

    Attributes:
        calibrator: gives the probabilities.
        scores, labels, sentences: by response, one a mention: its probability, whether it is unsupported, and which
            sentence it stands in. Empty where there are no such responses; then there are no certificates.
    """

    calibrator: Calibrator
    scores: list[list[float]]
    labels: list[list[bool]]
    sentences: list[list[int]]

    @classmethod
    def of(cls, calibrator: Calibrator, records: Sequence[Record] = ()) -> Bundle:
        """A calibrator with labelled responses of the setting it was fitted in.

        Raises:
            ValueError: records of images that the calibrator was fitted on, of another setting, or without its signals.
        """
        both = calibrator.images & {record.image for record in records}
        if both:
            raise ValueError(
                f"{len(both)} of these records' images, {min(both, key=str)!r} among them, are those the calibrator "
                "was fitted on: a threshold takes records of other images"
            )
        if records:
            calibrator.check(Setting.of_records(records), "error")
        return cls(
            calibrator,
            [calibrator.predict(record.signals).tolist() for record in records],
            [list(record.labels) for record in records],
            [[mention.sentence for mention in record.mentions] for record in records],
        )

    def certificate(self, risk: Risk, unit: str = "mention") -> Certificate:
        """The threshold on probabilities that keeps a promise, where whole units are dropped.

        Raises:
            ValueError: no responses to calibrate on, or an unknown unit.
        """
        if unit not in UNITS:
            raise unknown("unit", unit, UNITS)
        if not self.scores:
            raise ValueError("there are no responses to calibrate a threshold on: calibrate(records, risk) takes them")
        worst = [_worst(p, s, unit) for p, s in zip(self.scores, self.sentences, strict=True)]
        return threshold(worst, self.labels, risk, setting=self.calibrator.setting)

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        calibration = {"scores": self.scores, "labels": self.labels, "sentences": self.sentences}
        return {"calibrator": self.calibrator.to_dict(), "calibration": calibration}

    @classmethod
    def from_dict(cls, content: Any) -> Bundle:
        """The bundle that `to_dict` gave; ValueError for anything else."""
        try:
            return cls(Calibrator.from_dict(content["calibrator"]), **content["calibration"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"this is no calibrator with responses that can be read: {error!r}") from error

    def save(self, path: str | Path) -> Path:
        """Write it as JSON, in one step; OSError if the file cannot be written."""
        with replacing(Path(path)) as put:
            put(line(self.to_dict()))
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> Bundle:
        """Read what `save` wrote; ValueError naming the file for anything else."""
        try:
            return cls.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


def shipped() -> list[Path]:
    """The calibrators that ship with the package, sorted."""
    return sorted(_FOLDER.glob("*.json"))


def find(setting: Setting) -> Bundle | None:
    """The shipped calibrator of this very setting (the prompts may differ), or None."""
    for path in shipped():
        bundle = Bundle.load(path)
        if not [text for text in setting.differences(bundle.calibrator.setting) if not text.startswith("prompts ")]:
            return bundle
    return None


def _worst(probabilities: Sequence[float], sentences: Sequence[int], unit: str) -> list[float]:
    """For each mention the largest probability in its unit."""
    if unit == "mention" or not probabilities:
        return list(probabilities)
    p, inside = np.asarray(probabilities), np.asarray(sentences)
    return [float(p.max() if unit == "response" else p[inside == sentence].max()) for sentence in sentences]
