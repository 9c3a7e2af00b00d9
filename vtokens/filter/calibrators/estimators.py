"""Estimators fitted by scikit-learn as plain arrays: from signals to log-odds, and from these to probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from vtokens.core.extras import needs

Array = np.ndarray[Any, np.dtype[Any]]


class Estimator(Protocol):
    """Scores mentions."""

    def score(self, signals: Array) -> Array:
        """Uncalibrated log-odds (n,) for signals (n, names), both float64."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """The numbers, as JSON holds them, with the `kind`."""
        ...


@dataclass(frozen=True)
class Logistic:
    """Logistic regression on standardised signals: `mean`, `scale` and `weights` are (names,)."""

    mean: Array
    scale: Array
    weights: Array
    bias: float

    @classmethod
    def fitted(cls, pipeline: Any) -> Logistic:
        """From a fitted pipeline of StandardScaler and LogisticRegression."""
        scaler, model = pipeline[0], pipeline[-1]
        return cls(scaler.mean_, scaler.scale_, model.coef_[0], float(model.intercept_[0]))

    def score(self, signals: Array) -> Array:
        return np.asarray((signals - self.mean) / self.scale @ self.weights + self.bias)

    def to_dict(self) -> dict[str, Any]:
        arrays = {name: getattr(self, name).tolist() for name in ("mean", "scale", "weights")}
        return {"kind": "logistic", **arrays, "bias": self.bias}


@dataclass(frozen=True)
class Trees:
    """A sum of decision trees, all arrays (trees, nodes), node 0 the root; unused nodes are never reached.

    A node sends samples with `signals[feature] <= threshold` to node `left`, others to `right`; `feature` is -1 at
    leaves, whose `value` is added to `base`. `depth` is the longest way down.
    """

    base: float
    depth: int
    feature: Array
    threshold: Array
    left: Array
    right: Array
    value: Array

    @classmethod
    def fitted(cls, model: Any) -> Trees:
        """From a fitted HistGradientBoostingClassifier of two classes, without categories or missing values."""
        trees = [stage[0].nodes for stage in model._predictors]
        shape = (len(trees), max(len(nodes) for nodes in trees))
        whole = {name: np.zeros(shape, dtype=np.int64) for name in ("feature", "left", "right")}
        real = {name: np.zeros(shape) for name in ("threshold", "value")}
        for row, nodes in enumerate(trees):
            n, leaf = len(nodes), nodes["is_leaf"].astype(bool)
            whole["feature"][row, :n] = np.where(leaf, -1, nodes["feature_idx"])
            whole["left"][row, :n], whole["right"][row, :n] = nodes["left"], nodes["right"]
            real["threshold"][row, :n] = np.where(leaf, 0.0, nodes["num_threshold"])
            real["value"][row, :n] = np.where(leaf, nodes["value"], 0.0)
        depth = max(int(nodes["depth"].max()) for nodes in trees)
        return cls(float(np.ravel(model._baseline_prediction)[0]), depth, **whole, **real)

    def score(self, signals: Array) -> Array:
        tree = np.arange(len(self.feature))[None, :]
        sample = np.arange(len(signals))[:, None]
        node = np.zeros((len(signals), len(self.feature)), dtype=np.int64)
        for _ in range(self.depth):
            feature = self.feature[tree, node]
            below = signals[sample, feature] <= self.threshold[tree, node]
            node = np.where(feature < 0, node, np.where(below, self.left[tree, node], self.right[tree, node]))
        return np.asarray(self.value[tree, node].sum(axis=1) + self.base)

    def to_dict(self) -> dict[str, Any]:
        arrays = {name: value.tolist() for name, value in vars(self).items() if isinstance(value, np.ndarray)}
        return {"kind": "trees", "base": self.base, "depth": self.depth, **arrays}


@dataclass(frozen=True)
class Sigmoid:
    """Platt's link: 1 / (1 + exp(a score + b))."""

    a: float
    b: float

    def __call__(self, score: Array) -> Array:
        with needs("filter", "a calibrator"):
            from scipy.special import expit

        return np.asarray(expit(-(self.a * score + self.b)))

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "sigmoid", **vars(self)}


@dataclass(frozen=True)
class Isotonic:
    """A non-decreasing link, linear between the points (x, y) and constant outside, with a trace of the sigmoid.

    Isotonic regression ties many scores. A threshold that falls on such a step drops or keeps all of it, so a
    thousandth of the probability comes from the sigmoid, which keeps the scores in order.
    """

    x: Array
    y: Array
    trace: float = 1e-3

    def __call__(self, score: Array) -> Array:
        with needs("filter", "a calibrator"):
            from scipy.special import expit

        return (1 - self.trace) * np.interp(score, self.x, self.y) + self.trace * np.asarray(expit(score))

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "isotonic", "x": self.x.tolist(), "y": self.y.tolist(), "trace": self.trace}


_KINDS = {"logistic": Logistic, "trees": Trees, "sigmoid": Sigmoid, "isotonic": Isotonic}


def from_dict(content: Mapping[str, Any]) -> Any:
    """The estimator or link that `to_dict` gave; KeyError or TypeError for anything else."""
    kind = _KINDS[content["kind"]]
    return kind(**{name: _number(name, value) for name, value in content.items() if name != "kind"})


def _number(name: str, value: Any) -> Any:
    """A number or an array of them; JSON does not tell 1 from 1.0, and numpy makes objects of large integers."""
    if name in ("feature", "left", "right", "depth"):
        return np.array(value, dtype=np.int64) if isinstance(value, list) else value
    return np.array(value, dtype=np.float64) if isinstance(value, list) else float(value)
