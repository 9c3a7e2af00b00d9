"""AUROC, F1 and ECE of a detector with intervals, beside what position and length alone give."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vtokens.eval.metrics import Interval, bootstrap
from vtokens.eval.metrics.calibration import calibration_error
from vtokens.eval.metrics.detection import auroc

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Figures:
    """Figures of one detector on claims of which `positives` among `n` are unsupported.

    auroc: None where there is one class only. f1: with unsupported as positive, above the threshold. ece: of
    probabilities, without what chance adds to it (`calibration_error`); None for scores that only rank.
    """

    name: str
    n: int
    positives: int
    auroc: Interval | None
    f1: Interval | None
    ece: Interval | None

    def row(self) -> dict[str, Any]:
        """As a table shows it."""

        def told(value: Interval | None) -> str:
            return "-" if value is None else f"{value.value:.3f} ({value.low:.3f} to {value.high:.3f})"

        return {
            "detector": self.name, "claims": self.n, "unsupported": self.positives,
            "AUROC": told(self.auroc), "F1": told(self.f1), "ECE": told(self.ece),
        }  # fmt: skip


def figures(
    name: str,
    scores: Any,
    labels: Any,
    groups: Sequence[Hashable],
    *,
    threshold: float | None = 0.5,
    probabilities: bool = True,
    resamples: int = 500,
    seed: int = 0,
) -> Figures:
    """Figures with 95% intervals by image.

    Args:
        scores: (n,), high where a claim looks unsupported.
        labels: (n,) bools, True where it is.
        groups: of each claim its image; claims of one are drawn together.
        threshold: claims above it are called unsupported; None leaves F1 out.

    Raises:
        ValueError: no claims, or columns of different lengths.
    """
    s, y = np.asarray(scores, dtype=float), np.asarray(labels, dtype=bool)
    if not len(s) or s.shape != y.shape or len(groups) != len(s):
        raise ValueError(f"a score, a label and an image a claim are needed, got {s.shape}, {y.shape}, {len(groups)}")
    rows = np.column_stack([s, y])

    def interval(statistic: Callable[[Array, Array], float]) -> Interval | None:
        if np.isnan(statistic(s, y)):
            return None
        more: dict[str, Any] = {"groups": groups, "resamples": resamples, "seed": seed}
        return bootstrap(rows, lambda drawn: statistic(drawn[:, 0], drawn[:, 1] > 0.5), **more)

    return Figures(
        name, len(s), int(y.sum()), interval(auroc),
        None if threshold is None else interval(lambda a, b: f1(a > threshold, b)),
        calibration_error(s, y, groups=groups, resamples=resamples, seed=seed) if probabilities else None,
    )  # fmt: skip


def f1(called: Array, labels: Array) -> float:
    """2 TP / (2 TP + FP + FN); NaN where there is nothing to find and nothing was called."""
    hit = int((called & labels).sum())
    wrong = int((called != labels).sum())
    return 2 * hit / (2 * hit + wrong) if hit or wrong else float("nan")


def by_part(
    p: Sequence[float],
    labels: Sequence[bool],
    groups: Sequence[Hashable],
    parts: Sequence[str],
    position: Sequence[int],
    length: Sequence[int],
    resamples: int = 500,
    **more: Any,
) -> list[Figures]:
    """Figures of a filter, of each part of the claims if there are several, and of what can be had without looking.

    That is by how late a claim stands in its answer, and by how long the answer is.

    Args:
        p, labels, groups: as of `figures`.
        parts: of each claim its part. position, length: where it stands, and how long its answer is, in characters.
        more: as of `figures`; what is had without looking only ranks, whatever the filter gives.
    """
    found = [figures("filter", p, labels, groups, resamples=resamples, **more)]
    names = sorted(set(parts))
    for name in names if len(names) > 1 else ():
        here = [i for i, one in enumerate(parts) if one == name]
        columns = ([column[i] for i in here] for column in (p, labels, groups))
        found.append(figures(f"filter, {name}", *columns, resamples=resamples, **more))
    plain: dict[str, Any] = {**more, "threshold": None, "probabilities": False, "resamples": resamples}
    return [
        *found,
        figures("position in the answer", position, labels, groups, **plain),
        figures("length of the answer", length, labels, groups, **plain),
    ]
