"""What a filter fitted on so many labelled answers is worth: cross-validated by image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from vtokens.eval.detectors.figures import Figures, baselines, figures
from vtokens.filter.calibrators.calibrator import Calibrator
from vtokens.filter.calibrators.fitting import kinds_of, lot
from vtokens.filter.calibrators.records import LabelledResponse

FOLDS = 5


def crossvalidated(
    records: Sequence[LabelledResponse],
    folds: int = FOLDS,
    estimator: str = "auto",
    resamples: int = 500,
    seed: int = 0,
) -> list[Figures]:
    """Figures of a filter fitted on the other folds' images, of each kind of mention, and of the baselines.

    Raises:
        ValueError: too few images or mentions of a class to fit on (`Calibrator.fit`), which the message counts.
    """
    fold = [lot(record.image, f"fold {seed}") % folds for record in records]
    p: list[list[float]] = [[] for _ in records]
    for number in range(folds):
        inside = [record for record, at in zip(records, fold, strict=True) if at != number]
        held = [i for i, at in enumerate(fold) if at == number]
        if not any(records[i].mentions for i in held):
            continue
        fitted = Calibrator.fit(inside, estimator=estimator, seed=seed)
        for i in held:
            said = kinds_of([records[i]])
            p[i] = fitted.predict(records[i].signals, said).tolist() if said else []
    pairs = [(record, mention) for record in records for mention in record.mentions]
    scores = np.array([one for row in p for one in row])
    labels = np.array([one for record in records for one in record.labels], dtype=bool)
    groups = [record.image for record, _ in pairs]
    kinds = np.array([mention.kind for _, mention in pairs], dtype=object)
    more: dict[str, Any] = {"resamples": resamples, "seed": seed}
    found = [figures("filter", scores, labels, groups, **more)]
    several = sorted(set(kinds.tolist()))
    for kind in several if len(several) > 1 else ():
        here = np.flatnonzero(kinds == kind)
        found.append(figures(f"filter, {kind}", scores[here], labels[here], [groups[i] for i in here], **more))
    position = [mention.start for _, mention in pairs]
    length = [len(record.response) for record, _ in pairs]
    return [*found, *baselines(position, length, labels, groups, resamples)]
