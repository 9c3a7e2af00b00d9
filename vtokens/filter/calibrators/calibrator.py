"""From signals to the probability that a mention is unsupported; learnt from records, kept as JSON."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from vtokens.core.errors import shorten, unknown
from vtokens.core.reading import read_json
from vtokens.core.writing import line, replacing
from vtokens.filter.calibrators import estimators
from vtokens.filter.calibrators.estimators import Array, Estimator, Isotonic, Sigmoid
from vtokens.filter.calibrators.fitting import by_kind, kinds_of, matrix, regress, split
from vtokens.filter.calibrators.records import LabelledResponse
from vtokens.filter.guarantees.setting import CalibrationSetting
from vtokens.schemas import check

_FORMAT = "vtokens calibrator"
SCHEMA = 1  #: raised when the file or the meaning of a signal changes


class CalibrationWarning(UserWarning):
    """A calibrator is used under other conditions than it was fitted under."""


@dataclass(frozen=True)
class Calibrator:
    """Probabilities from signals, for one setting.

    Attributes:
        setting: what the records it was fitted on had in common.
        names: the signals it reads.
        estimator: gives log-odds from signals, fitted on a part of the images.
        link: gives probabilities from log-odds, fitted on the other images.
        fitted: by part ("fit", "calibration") its `responses`, `images`, `mentions` and `unsupported` mentions.
        links: by kind of mention a link of its own, where the records had enough of it for one.
        kinds: the kinds of mentions among the records it was fitted on, with their number; others are not judged. None
            for one that was saved before this was noted: all are.
        middle: the median of each signal over the records fitted on, beside which `explain` holds a mention; empty for
            one that was saved before.
        images: of the records it was fitted on, for thresholds must come from others; empty for one that was loaded.
    """

    setting: CalibrationSetting
    names: tuple[str, ...]
    estimator: Estimator
    link: Sigmoid | Isotonic
    fitted: dict[str, dict[str, int]]
    links: dict[str, Sigmoid | Isotonic] = field(default_factory=dict)
    kinds: dict[str, int] | None = None
    middle: tuple[float, ...] = ()
    images: frozenset[str | int] = field(default=frozenset(), compare=False, repr=False)

    @classmethod
    def fit(
        cls,
        records: Sequence[LabelledResponse],
        names: Sequence[str] | None = None,
        estimator: str = "auto",
        *,
        calibration: Sequence[LabelledResponse] | None = None,
        seed: int = 0,
    ) -> Calibrator:
        """Fit an estimator, and on other images a link.

        Args:
            records: labelled responses of one setting. With `calibration` they may be of several (responses that were
                given beside those the model wrote, say): the setting is that of `calibration`.
            names: the signals to use, by default all of the first record with mentions.
            estimator: "logistic" (regression on standardised signals), "boosting" (trees) or "auto": boosting from
                5,000 mentions on. The link is a sigmoid below 1,000 calibration mentions, isotonic from there on.
            calibration: records for the link; by default those of a third of the images, drawn with `seed`.

        Raises:
            ValueError: records of several settings, of too few images or of one class; images that are in both parts;
                signals that are missing, NaN or infinite; an unknown estimator.
        """
        if estimator not in ("auto", "logistic", "boosting"):
            raise unknown("estimator", estimator, ("auto", "logistic", "boosting"))
        setting = CalibrationSetting.of_records(records if calibration is None else calibration)
        others = {record.meta.get("model") for record in records} - {setting.model}
        if others:
            raise ValueError(
                f"records to fit on are of the models {sorted(map(str, others))}, not of {setting.model!r}"
            )
        first, second = split(records, calibration, seed)
        chosen = tuple(next((r.signals for r in first if r.mentions), ()) if names is None else names)
        parts = {"fit": matrix(first, chosen, "fit"), "calibration": matrix(second, chosen, "calibration")}
        found, link = regress(*parts["fit"], *parts["calibration"], estimator, seed)
        links = by_kind(found.score(parts["calibration"][0]), parts["calibration"][1], kinds_of(second))
        said = Counter([*kinds_of(first), *kinds_of(second)])
        middle = tuple(map(float, np.median(parts["fit"][0], axis=0)))
        counts = {
            part: {
                "responses": len(rows),
                "images": len({record.image for record in rows}),
                "mentions": len(parts[part][1]),
                "unsupported": int(parts[part][1].sum()),
            }
            for part, rows in (("fit", first), ("calibration", second))
        }
        images = frozenset(record.image for record in (*first, *second))
        return cls(setting, chosen, found, link, counts, links, dict(sorted(said.items())), middle, images)

    def score(self, signals: Mapping[str, ArrayLike]) -> Array:
        """Uncalibrated log-odds (n,), float64.

        Args:
            signals: by name (n,) numbers; more names than needed do no harm.

        Raises:
            ValueError: signals that are missing, of different lengths, NaN or infinite.
        """
        missing = [name for name in self.names if name not in signals]
        if missing:
            raise ValueError(f"signals {missing} are missing; this calibrator reads {list(self.names)}")
        columns = [np.asarray(signals[name], dtype=float) for name in self.names]
        if len({column.shape for column in columns}) != 1 or columns[0].ndim != 1:
            shapes = {name: column.shape for name, column in zip(self.names, columns, strict=True)}
            raise ValueError(f"signals must be of one length, got {shapes}")
        for name, column in zip(self.names, columns, strict=True):
            if not np.isfinite(column).all():
                raise ValueError(f"signal {name!r} has {int((~np.isfinite(column)).sum())} values that are not finite")
        return self.estimator.score(np.column_stack(columns))

    def predict(self, signals: Mapping[str, ArrayLike], kinds: Sequence[str] = ()) -> Array:
        """Probabilities (n,), in the order of the scores of each kind, that mentions are unsupported; as `score`.

        kinds: of each mention, for the links of their own; without them, all go through the one link.
        """
        return self.probabilities(self.score(signals), kinds)

    def probabilities(self, scores: Array, kinds: Sequence[str] = ()) -> Array:
        """(n,): what `predict` makes of (n,) scores."""
        found = np.asarray(self.link(scores))
        for kind, link in self.links.items() if kinds else ():
            here = np.array([one == kind for one in kinds], dtype=bool)
            found[here] = link(scores[here])
        return found

    def check(self, setting: CalibrationSetting, mismatch: str = "warn") -> list[str]:
        """What differs between a setting and the one fitted on, as text; empty if it is the same.

        Args:
            mismatch: "warn" refuses another model and warns of anything else, "error" refuses both, "ignore" neither.

        Raises:
            ValueError: what differs and what to do.
        """
        if mismatch not in ("warn", "error", "ignore"):
            raise unknown("way to treat a mismatch", mismatch, ("warn", "error", "ignore"))
        found = setting.differences(self.setting)
        if found and mismatch != "ignore":
            message = f"this calibrator was fitted under other conditions: {'; '.join(found)} when it was fitted"
            if mismatch == "error" or setting.model != self.setting.model:
                raise ValueError(f"{message}. Fit one on records of this setting, or use the scores uncalibrated")
            warnings.warn(f"{message}. Its probabilities may be off", CalibrationWarning, stacklevel=2)
        return found

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        about = {"format": _FORMAT, "schema": SCHEMA, "setting": asdict(self.setting), "names": list(self.names)}
        found = about | {"estimator": self.estimator.to_dict(), "link": self.link.to_dict(), "fitted": self.fitted}
        links = {kind: link.to_dict() for kind, link in self.links.items()}
        return found | {"links": links, "kinds": self.kinds, "middle": list(self.middle)}

    @classmethod
    def from_dict(cls, content: Any) -> Calibrator:
        """The calibrator that `to_dict` gave; it predicts the same, bit by bit. ValueError for anything else."""
        try:
            if not isinstance(content, dict) or content.get("format") != _FORMAT:
                raise TypeError("it does not say that it is one")
            if content.get("schema") != SCHEMA:
                found = shorten(content.get("schema"))
                raise TypeError(f"it has schema {found} and this vtokens reads {SCHEMA}: fit it again")
            check(content, "calibrator")
            found, link = (estimators.from_dict(content[part]) for part in ("estimator", "link"))
            links = {kind: estimators.from_dict(one) for kind, one in content.get("links", {}).items()}
            return cls(
                CalibrationSetting(**content["setting"]), tuple(content["names"]), found, link, content["fitted"],
                links, content.get("kinds"), tuple(map(float, content.get("middle", ()))),
            )  # fmt: skip
        except (ValueError, TypeError) as error:
            raise ValueError(f"this is no calibrator that can be read: {error}") from error

    def save(self, path: str | Path) -> Path:
        """Write the calibrator as JSON, in one step; OSError if the file cannot be written."""
        with replacing(Path(path)) as put:
            put(line(self.to_dict()))
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> Calibrator:
        """Read what `save` wrote; ValueError naming the file for anything else."""
        try:
            return cls.from_dict(read_json(path))
        except ValueError as error:
            raise ValueError(f"{shorten(str(path))}: {error}") from error
