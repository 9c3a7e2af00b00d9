"""The score interval of a share (Wilson, 1927)."""

from __future__ import annotations

from vtokens.core.extras import needs


def wilson_bounds(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Between what the share of `successes` in `n` independent trials lies.

    Raises:
        ImportError: scipy is missing.
        ValueError: not 0 <= successes <= n, n < 1, or a confidence outside (0, 1).
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"need 0 <= successes <= n and n >= 1, got successes={successes}, n={n}")
    check_confidence(confidence)
    with needs("filter", "Wilson's interval"):
        from scipy.stats import binomtest

    found = binomtest(int(successes), int(n)).proportion_ci(confidence, method="wilson")
    return float(found.low), float(found.high)


def check_confidence(confidence: float) -> None:
    """Raise ValueError unless it lies in (0, 1)."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
