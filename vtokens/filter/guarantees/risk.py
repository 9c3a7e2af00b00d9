"""Risks of the mentions that a filter keeps, and the certificate of a threshold."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from vtokens.core.errors import unknown
from vtokens.filter.guarantees.setting import CalibrationSetting

#: What is bounded, by the kind of risk; `kept` mentions are those that the filter lets through.
KINDS = {
    "any": "the chance that a response keeps a mention that the image does not support",
    "share": "the expected share of a response's mentions that are kept although the image does not support them",
    "ratio": "the expected number of unsupported mentions kept, divided by the expected number kept (CHAIR_I)",
}


@dataclass(frozen=True)
class Risk:
    """A kind of loss whose expectation, or chance, is to stay below `alpha`.

    Attributes:
        kind: "any" (a response keeps an unsupported mention), "share" (of a response's mentions, those kept wrongly) or
            "ratio" (of all mentions kept, those kept wrongly).
        alpha: the bound, between 0 and 1.
        delta: with what chance the calibration itself may fail. None bounds the average over calibrations instead: more
            is kept, and a single calibration may exceed `alpha`.

    Raises:
        ValueError: a number out of range, an unknown kind, or "ratio" without `delta`, for which no bound is known.
    """

    kind: str = "any"
    alpha: float = 0.1
    delta: float | None = 0.1

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise unknown("kind of risk", self.kind, KINDS)
        for name in ("alpha", "delta"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                raise ValueError(f"{name} must lie between 0 and 1, got {value}")
        if self.alpha is None or (self.kind == "ratio" and self.delta is None):
            raise ValueError(f"a risk of kind {self.kind!r} needs alpha and delta, got {self.alpha} and {self.delta}")

    def __str__(self) -> str:
        how = "on average over calibrations" if self.delta is None else f"with probability {1 - self.delta:g}"
        return f"{KINDS[self.kind]} is at most {self.alpha:g}, {how}"


@dataclass(frozen=True)
class Certificate:
    """A calibrated threshold, what it guarantees and under which assumptions.

    Attributes:
        risk: what is guaranteed.
        threshold: mentions that score at most this are kept; infinite where nothing need be dropped; None where no
            threshold keeps the guarantee, or none that keeps anything.
        reason: why there is no threshold; empty otherwise.
        n: calibration responses; `mentions` and `unsupported` are counted over all of them.
        observed: the risk on the calibration responses at the threshold; `unfiltered` is that without one.
        kept_supported: share of the calibration responses' supported mentions that are kept; None if there are none.
        cap: the most mentions of a response for which a "ratio" holds; None where it does not matter.
        group: the group of mentions that is meant, empty for all.
        setting: what the calibration responses had in common, if it is known.
    """

    risk: Risk
    threshold: float | None
    reason: str
    n: int
    mentions: int
    unsupported: int
    observed: float | None
    unfiltered: float
    kept_supported: float | None
    cap: int | None = None
    group: str = ""
    setting: CalibrationSetting | None = None

    @property
    def infeasible(self) -> bool:
        """Whether there is no threshold."""
        return self.threshold is None

    def keeps(self, scores: ArrayLike) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Which mentions are kept: (n,) bool for scores (n,). An infeasible certificate keeps none.

        Raises:
            ValueError: a score that is NaN.
        """
        found = np.asarray(scores, dtype=float)
        if np.isnan(found).any():
            raise ValueError(f"{int(np.isnan(found).sum())} of {found.size} scores are NaN")
        return found <= (-math.inf if self.threshold is None else self.threshold)

    @property
    def assumptions(self) -> list[str]:
        """What the guarantee rests on, in sentences."""
        same = "model, prompts, decoding, pruning and action"
        if self.setting is not None:
            same += " (" + ", ".join(f"{name} {value!r}" for name, value in asdict(self.setting).items()) + ")"
        found = [
            f"New responses come about as the {self.n} calibration responses did: same kind of images, same {same}; "
            "their images were not used to fit the scores.",
            "'Unsupported' means what the calibration labels mean by it; mentions that the extractor does not find are "
            "outside the guarantee.",
            "It is a statement about many responses, not about this image.",
        ]
        if self.cap is not None:
            found.append(f"No response has more than {self.cap} mentions.")
        return found

    def __str__(self) -> str:
        of = f" among mentions of {self.group}" if self.group else ""
        counted = f"{self.n} responses with {self.mentions} mentions, {self.unsupported} of them unsupported"
        if self.threshold is None:
            return f"infeasible: {self.risk}{of}\n{self.reason} ({counted}; risk unfiltered {self.unfiltered:.3f})"
        kept = "" if self.kept_supported is None else f", keeping {self.kept_supported:.1%} of the supported mentions"
        limit = f"mentions that score at most {self.threshold:.6g}" if math.isfinite(self.threshold) else "all mentions"
        lines = [
            f"{self.risk}{of}",
            f"threshold: keep {limit}",
            f"calibrated on {counted}: risk {self.unfiltered:.3f} unfiltered, {self.observed:.3f} filtered{kept}",
            "assumptions:",
            *(f"- {text}" for text in self.assumptions),
        ]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it; an infinite threshold becomes text."""
        infinite = self.threshold is not None and math.isinf(self.threshold)
        return asdict(self) | ({"threshold": str(self.threshold)} if infinite else {})

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Certificate:
        """The certificate that `to_dict` gave; ValueError for other fields than a certificate's."""
        names = {f.name for f in fields(cls)}
        if not isinstance(content, dict) or set(content) != names:
            raise ValueError(f"a certificate has the fields {sorted(names)}, got {content!r}")
        threshold, setting = content["threshold"], content["setting"]
        return cls(
            **content
            | {
                "risk": Risk(**content["risk"]),
                "threshold": None if threshold is None else float(threshold),
                "setting": None if setting is None else CalibrationSetting(**setting),
            }
        )
