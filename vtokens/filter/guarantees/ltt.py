"""Learn then test: which settings of a policy keep a guarantee, for losses that need not be monotone.

A policy that regenerates may do more harm when it acts more often, and a ratio such as CHAIR_I can fall when more is
kept. There the largest setting that looks safe is not safe; every setting tried has to be tested (Angelopoulos et al.,
"Learn then Test", 2021), here by betting (Waudby-Smith and Ramdas, JRSS B 2024).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

Array = np.ndarray[Any, np.dtype[Any]]

_STAKE = 0.9  # of what a single observation could take, so that capital never runs out


def ltt(
    losses: ArrayLike,
    alpha: float,
    delta: float,
    *,
    per: ArrayLike | None = None,
    bound: float = 1.0,
    order: Sequence[int] | None = None,
) -> list[int]:
    """Settings whose expected loss is at most alpha, all of them at once with probability 1 - delta.

    Args:
        losses: (n, settings), loss of response i under a setting, between 0 and `bound`; the responses in random order.
        per: (n, settings) between the losses and `bound`, if what is to stay below alpha is the ratio of expectations
            E[losses] / E[per] (unsupported mentions to mentions, say) and not the expected loss.
        bound: the largest loss that is possible, not the largest observed.
        order: in which order settings are tested, chosen without looking at these losses (best safest first); by
            default as they stand. Testing ends at the first that fails.

    Returns:
        Columns that passed, in the order tested; none if it is infeasible.

    Raises:
        ValueError: losses outside their bounds, alpha or delta outside (0, 1), columns that are not there or twice.
    """
    found = np.asarray(losses, dtype=float)
    if found.ndim != 2 or not found.size:
        raise ValueError(f"losses must be (responses, settings), none of them 0, got an array of shape {found.shape}")
    top = np.full(found.shape, bound) if per is None else np.asarray(per, dtype=float)
    if top.shape != found.shape or not ((found >= 0) & (found <= top) & (top <= bound)).all():
        raise ValueError(f"losses must lie between 0 and `per`, `per` at most {bound}, in arrays of one shape")
    for name, value in (("alpha", alpha), ("delta", delta)):
        if not 0 < value < 1:
            raise ValueError(f"{name} must lie between 0 and 1, got {value}")
    columns = list(range(found.shape[1]) if order is None else order)
    if len(set(columns)) != len(columns) or not set(columns) <= set(range(found.shape[1])):
        raise ValueError(f"order must name columns 0 to {found.shape[1] - 1}, each once at most, got {columns}")
    excess = found - alpha * (1.0 if per is None else top)
    passed = fixed_sequence(betting(excess[:, columns], (1 - alpha) * bound), delta)
    return [columns[number] for number in passed]


def betting(excess: Array, high: float) -> Array:
    """P-values of E Z >= 0, (settings,), for independent Z of (n, settings) that never exceed `high`.

    Capital is staked against the hypothesis, as much as the observations before advise and never more than 0.9 / high
    a unit; under the hypothesis it exceeds 1 / p with probability p at most (Ville).
    """
    before = np.zeros((1, excess.shape[1]))
    gain = np.vstack([before, np.cumsum(-excess, axis=0)[:-1]])
    square = np.vstack([before, np.cumsum(excess**2, axis=0)[:-1]])
    stake = np.clip(gain / (square + (high / 2) ** 2), 0, _STAKE / high)
    capital = np.cumsum(np.log1p(-stake * excess), axis=0)
    best = capital.max(axis=0, initial=0.0)
    return np.asarray(np.exp(-best))


def fixed_sequence(p_values: ArrayLike, delta: float) -> list[int]:
    """Places of the p-values before the first that exceeds delta: family-wise error at most delta for an order that
    was fixed beforehand."""
    failed = np.flatnonzero(np.asarray(p_values) > delta)
    return list(range(int(failed[0]) if len(failed) else np.size(p_values)))
