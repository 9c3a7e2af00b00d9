"""What scores are worth on labelled responses: ranking, calibration, selection, against position and the like."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vtokens.eval.metrics import Interval, bootstrap, chair, detection
from vtokens.eval.metrics.detection import auroc, average_precision, stratified_auroc
from vtokens.filter.calibrators.calibrator import Calibrator
from vtokens.filter.calibrators.records import LabelledResponse

Array = np.ndarray[Any, np.dtype[Any]]
DESCRIBING = ("caption", "story", "given_caption")  # kinds of responses; the last is not the model's own
RISKS = (0.005, 0.02)  # shares of unsupported mentions among what is kept


@dataclass(frozen=True)
class Table:
    """Mentions of many responses side by side; every array is (mentions,).

    images: the cluster. strata: the kind of response and the mention's place in it. caption: whether it is one. claims:
    what is claimed, and whether it is denied.
    """

    signals: dict[str, Array]
    labels: Array
    images: Array
    strata: Array
    caption: Array
    claims: Array

    @classmethod
    def of(cls, records: Sequence[LabelledResponse]) -> Table:
        """All mentions of the records, in their order."""
        pairs = [(record, mention) for record in records for mention in record.mentions]
        names = next(record.signals for record in records if record.mentions)
        kinds = ["caption" if record.meta["kind"] in DESCRIBING else "answer" for record, _ in pairs]
        return cls(
            {name: np.array([v for r in records if r.mentions for v in r.signals[name]]) for name in names},
            np.array([label for record in records for label in record.labels], dtype=bool),
            np.array([record.image for record, _ in pairs]),
            np.array([f"{kind} {mention.sentence}" for kind, (_, mention) in zip(kinds, pairs, strict=True)]),
            np.array(kinds) == "caption",
            np.array([f"{mention.name} {mention.negated}" for _, mention in pairs]),
        )

    def where(self, rows: Array) -> Table:
        """Some of the mentions."""
        parts = {name: values[rows] for name, values in vars(self).items() if name != "signals"}
        return Table({name: values[rows] for name, values in self.signals.items()}, **parts)


def ranking(scores: Array, table: Table, resamples: int) -> dict[str, Any]:
    """AUROC, within strata too, and average precision, with intervals by image."""
    _, strata = np.unique(table.strata, return_inverse=True)
    rows = np.column_stack([scores, table.labels, strata])
    more: dict[str, Any] = {"groups": table.images.tolist(), "resamples": resamples}
    found: dict[str, Any] = {"n": len(rows), "positives": int(table.labels.sum())}
    for name, figure, columns in (
        ("auroc", auroc, (0, 1)),
        ("ap", average_precision, (0, 1)),
        ("stratified", stratified_auroc, (0, 1, 2)),
    ):
        if math.isnan(figure(*rows.T[list(columns)])):
            found[name] = None
        else:
            found[name] = _rounded(bootstrap(rows, lambda r, f=figure, c=columns: f(*r.T[list(c)]), **more))
    return found


def everything(scores: Array, table: Table, resamples: int, probabilities: bool = False) -> dict[str, Any]:
    """Every figure of `detection`."""
    found = detection(
        scores,
        table.labels,
        strata=table.strata.tolist(),
        probabilities=probabilities,
        risks=RISKS,
        groups=table.images.tolist(),
        resamples=resamples,
    )
    row = {name: _rounded(value) if isinstance(value, Interval) else value for name, value in vars(found).items()}
    row["kept_real"] = {str(risk): value and _rounded(value) for risk, value in found.kept_real.items()}
    return row


def advantage(scores: Array, other: Array, table: Table, resamples: int) -> dict[str, Any]:
    """By how much the first AUROC exceeds the second on the same mentions, overall and within strata."""
    _, strata = np.unique(table.strata, return_inverse=True)
    rows = np.column_stack([scores, other, table.labels, strata])
    more: dict[str, Any] = {"groups": table.images.tolist(), "resamples": resamples}
    return {
        "auroc": _rounded(bootstrap(rows, lambda r: auroc(r[:, 0], r[:, 2]) - auroc(r[:, 1], r[:, 2]), **more)),
        "stratified": _rounded(
            bootstrap(
                rows,
                lambda r: stratified_auroc(*r.T[[0, 2, 3]]) - stratified_auroc(*r.T[[1, 2, 3]]),
                **more,
            )
        ),
    }


def added(scores: Array, without: Array, table: Table, resamples: int) -> dict[str, Any]:
    """What a signal adds: AUROC and average precision of scores with it, less those of scores without."""
    rows = np.column_stack([scores, without, table.labels])
    more: dict[str, Any] = {"groups": table.images.tolist(), "resamples": resamples}
    return {
        name: _rounded(bootstrap(rows, lambda r, f=figure: f(r[:, 0], r[:, 2]) - f(r[:, 1], r[:, 2]), **more))
        for name, figure in (("auroc", auroc), ("ap", average_precision))
    }


def baselines(fitted_on: Table, table: Table) -> dict[str, Array]:
    """Scores that know neither the picture nor the model's inside, the model's own confidence aside.

    'what is claimed' is how often that very claim was wrong in the records fitted on, pulled towards the mean: a text
    classifier that has learnt which objects this model makes up.
    """
    mean = fitted_on.labels.mean()
    names, place = np.unique(fitted_on.claims, return_inverse=True)
    rate = (np.bincount(place, weights=fitted_on.labels) + 5 * mean) / (np.bincount(place) + 5)
    learnt = dict(zip(names.tolist(), rate.tolist(), strict=True))
    return {
        "position": table.signals["position"],
        "repetition": table.signals["repetition"],
        "log-probability": table.signals["nll"],
        "what is claimed": np.array([learnt.get(claim, mean) for claim in table.claims.tolist()]),
    }


def predicted(calibrator: Calibrator, records: Sequence[LabelledResponse]) -> list[list[float]]:
    """Probabilities by response."""
    return [calibrator.predict(r.signals).tolist() if r.mentions else [] for r in records]


def captions(records: Sequence[LabelledResponse]) -> list[LabelledResponse]:
    """Those that are captions."""
    return [record for record in records if record.meta["kind"] in DESCRIBING[:-1]]


def chair_row(records: Sequence[LabelledResponse], kept: Sequence[Sequence[bool]], resamples: int) -> dict[str, Any]:
    """CHAIR of captions of which some mentions are kept."""
    named = [
        [mention.name for mention, stays in zip(record.mentions, keeps, strict=True) if stays]
        for record, keeps in zip(records, kept, strict=True)
    ]
    found = chair(named, [set(record.meta["truth"]) for record in records], resamples=resamples)
    return {name: value and _rounded(value) for name, value in vars(found).items() if name != "n"}


def truncation(
    records: Sequence[LabelledResponse], probabilities: Sequence[Sequence[float]], resamples: int
) -> list[dict[str, Any]]:
    """Captions cut after k objects, beside the filter at the lowest threshold that keeps as much recall."""
    rows = []
    thresholds = np.unique(np.quantile([p for row in probabilities for p in row], np.linspace(0, 1, 400)))
    tried = [[[p <= t for p in row] for row in probabilities] for t in thresholds]
    recalls = [_recall(records, keeps) for keeps in tried]
    for k in range(1, 1 + max(len(record.mentions) for record in records)):
        cut = [[i < k for i in range(len(record.mentions))] for record in records]
        recall = _recall(records, cut)
        at = next((i for i, found in enumerate(recalls) if found >= recall), len(tried) - 1)
        rows.append(
            {
                "objects": k,
                "truncated": chair_row(records, cut, resamples),
                "filtered": chair_row(records, tried[at], resamples),
                "threshold": float(f"{thresholds[at]:.6g}"),
            }
        )
    return rows


def _recall(records: Sequence[LabelledResponse], kept: Sequence[Sequence[bool]]) -> float:
    found = total = 0
    for record, keeps in zip(records, kept, strict=True):
        truth = set(record.meta["truth"])
        found += len(truth & {m.name for m, stays in zip(record.mentions, keeps, strict=True) if stays})
        total += len(truth)
    return found / total


def _rounded(interval: Interval) -> dict[str, float]:
    return {name: float(f"{value:.6g}") for name, value in asdict(interval).items()}


def by_image(records: Sequence[LabelledResponse], parts: int = 2) -> list[list[LabelledResponse]]:
    """Records dealt into parts; responses about one picture stay together."""
    places: Mapping[Any, int] = {image: i % parts for i, image in enumerate(dict.fromkeys(r.image for r in records))}
    return [[record for record in records if places[record.image] == part] for part in range(parts)]
