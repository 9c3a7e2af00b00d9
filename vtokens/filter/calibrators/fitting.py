"""Fitting a calibrator with scikit-learn: parts share no image, and data that cannot be fitted is refused."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from vtokens.core.extras import needs
from vtokens.filter.calibrators.estimators import Array, Estimator, Isotonic, Logistic, Sigmoid, Trees
from vtokens.filter.calibrators.records import LabelledResponse

_IMAGES = 10  # in each part
_CLASS = 5  # mentions of each class in each part: scikit-learn cross-validates the link in five folds
_KIND = 20  # mentions of each class for a link of a kind
_BOOSTING = 5000  # mentions to fit on from which trees do better than a line
_ISOTONIC = 1000  # mentions to calibrate on from which a free form does not overfit
_SHARE = 1 / 3  # of the images, for the link


def split(
    records: Sequence[LabelledResponse], calibration: Sequence[LabelledResponse] | None, seed: int
) -> tuple[list[LabelledResponse], list[LabelledResponse]]:
    """Records for the estimator and for the link, of different images; ValueError if given ones share images."""
    if calibration is None:
        held = {record.image for record in records if lot(record.image, seed) / 2**64 < _SHARE}
        parts = [r for r in records if r.image not in held], [r for r in records if r.image in held]
    else:
        both = {record.image for record in records} & {record.image for record in calibration}
        if both:
            raise ValueError(
                f"{len(both)} images are in the records to fit on and to calibrate on, {min(both, key=str)!r} among "
                "them: the link must come from other images"
            )
        parts = list(records), list(calibration)
    for part, rows in zip(("fit", "calibration"), parts, strict=True):
        images = len({record.image for record in rows})
        if images < _IMAGES:
            raise ValueError(f"the {part} part has {images} images, it takes at least {_IMAGES}")
    return parts


def matrix(records: Sequence[LabelledResponse], names: Sequence[str], part: str) -> tuple[Array, Array]:
    """Signals (mentions, names) float64 and labels (mentions,) bool of all records.

    Raises:
        ValueError: no names, signals that are missing, NaN or infinite, too few mentions of a class.
    """
    if not names:
        raise ValueError("there are no signals to fit on")
    records = [record for record in records if record.mentions]
    for record in records:
        missing = [name for name in names if name not in record.signals]
        if missing:
            raise ValueError(f"the record of image {record.image!r} has no signals {missing}")
    signals = np.array([[v for r in records for v in r.signals[name]] for name in names], dtype=float).T
    labels = np.array([label for record in records for label in record.labels], dtype=bool)
    for name, column in zip(names, signals.T, strict=True):
        if not np.isfinite(column).all():
            bad = int((~np.isfinite(column)).sum())
            raise ValueError(f"signal {name!r} is not finite for {bad} of {len(column)} mentions")
    wrong = int(labels.sum())
    if min(wrong, len(labels) - wrong) < _CLASS:
        raise ValueError(
            f"the {part} part has {len(labels)} mentions, {wrong} of them unsupported: it takes at least {_CLASS} that "
            f"are and {_CLASS} that are not"
        )
    return signals, labels


def regress(
    signals: Array, labels: Array, held_signals: Array, held_labels: Array, estimator: str, seed: int
) -> tuple[Estimator, Sigmoid | Isotonic]:
    """The estimator of the first part and the link of the second, as plain arrays."""
    model = sklearn_model(estimator, len(labels), seed).fit(signals, labels)
    found = Trees.fitted(model) if hasattr(model, "_predictors") else Logistic.fitted(model)
    link = sklearn_link(model, held_signals, held_labels).calibrated_classifiers_[0].calibrators[0]
    if hasattr(link, "a_"):
        return found, Sigmoid(float(link.a_), float(link.b_))
    return found, Isotonic(link.X_thresholds_, link.y_thresholds_)


def by_kind(scores: Array, labels: Array, kinds: Sequence[str]) -> dict[str, Sigmoid | Isotonic]:
    """A sigmoid of its own for each kind with enough mentions of both classes, if there are several kinds.

    A kind of which all that the held images hold is supported, or nearly, goes through the common link.
    """
    found: dict[str, Sigmoid | Isotonic] = {}
    every = np.array(kinds, dtype=object)
    for kind in sorted(set(kinds)) if len(set(kinds)) > 1 else ():
        here = every == kind
        wrong = int(labels[here].sum())
        if min(wrong, int(here.sum()) - wrong) >= _KIND:
            found[kind] = platt(scores[here], labels[here])
    return found


def platt(scores: Array, labels: Array) -> Sigmoid:
    """Platt's sigmoid 1 / (1 + exp(a score + b)), of the largest likelihood with his smoothed targets."""
    with needs("filter", "fitting a calibrator"):
        from sklearn.calibration import CalibratedClassifierCV
        from sklearn.frozen import FrozenEstimator
        from sklearn.linear_model import LogisticRegression

    scale = max(float(np.abs(scores).max()), 1e-12)
    plain = LogisticRegression().fit(scores[:, None] / scale, labels)
    plain.coef_, plain.intercept_ = np.array([[scale]]), np.zeros(1)  # so that what it decides by is the score
    fitted = CalibratedClassifierCV(FrozenEstimator(plain), method="sigmoid").fit(scores[:, None] / scale, labels)
    one = fitted.calibrated_classifiers_[0].calibrators[0]
    return Sigmoid(float(one.a_), float(one.b_))


def kinds_of(records: Sequence[LabelledResponse]) -> list[str]:
    """The kind of each mention, in the order of `matrix`."""
    return [mention.kind for record in records for mention in record.mentions]


def sklearn_model(estimator: str, mentions: int, seed: int = 0) -> Any:
    """The unfitted scikit-learn estimator for so many mentions."""
    if estimator == "boosting" or (estimator == "auto" and mentions >= _BOOSTING):
        with needs("filter", "fitting a calibrator"):
            from sklearn.ensemble import HistGradientBoostingClassifier

        # Scikit-learn's own settings overfit a few thousand mentions; small trees that each see part of the signals did
        # best on held-out training images of scenes. Its early stopping would tear images apart.
        return HistGradientBoostingClassifier(
            learning_rate=0.05,
            max_iter=200,
            max_leaf_nodes=8,
            min_samples_leaf=20,
            l2_regularization=5.0,
            max_features=0.4,
            early_stopping=False,
            random_state=seed,
        )
    with needs("filter", "fitting a calibrator"):
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))


def sklearn_link(model: Any, signals: Array, labels: Array) -> Any:
    """A fitted `model` with a scikit-learn calibration link on top; the model is not fitted again."""
    with needs("filter", "fitting a calibrator"):
        from sklearn.calibration import CalibratedClassifierCV
        from sklearn.frozen import FrozenEstimator

    method = "sigmoid" if len(labels) < _ISOTONIC else "isotonic"
    return CalibratedClassifierCV(FrozenEstimator(model), method=method).fit(signals, labels)


def lot(image: str | int, seed: int | str) -> int:
    """A hash of the image below 2**64, so that each image falls into the same part in every fit."""
    digest = hashlib.sha256(f"{seed}:{image!r}".encode()).digest()
    return int.from_bytes(digest[:8], "big")
