"""What a filter fitted on so many labelled answers is worth: cross-validated by image."""

from __future__ import annotations

from collections.abc import Sequence

from vtokens.eval.detectors.figures import Figures, by_part
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
    return by_part(
        [one for row in p for one in row],
        [one for record in records for one in record.labels],
        [record.image for record, _ in pairs],
        kinds_of(records),
        [mention.start for _, mention in pairs],
        [len(record.response) for record, _ in pairs],
        resamples,
        seed=seed,
    )
