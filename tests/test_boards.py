"""Leaderboards side by side: the rank correlation against scipy's, and what is said of a few rows, by hand."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

sys.path.insert(0, str(Path(__file__).parent.parent / "tools"))

import board
import boards


def row(strategy: str, value: float, tokens: float = 14, better: bool = True, keep: float = 0.1) -> dict[str, Any]:
    whole = {"value": value, "low": value - 0.03, "high": value + 0.03, "n": 720}
    more = {} if strategy in ("none", "random", "downsample") else {"better": better, "worse": False}
    accuracy = {"all": whole}
    return {"strategy": strategy, "keep": keep, "tokens_per_layer": tokens, "accuracy": accuracy, **more}


def found(**values: Any) -> dict[str, Any]:
    """A leaderboard: strategy -> accuracy, tokens a layer, and whether it is better than both floors."""
    rows = [row("none", 0.97, 144, keep=1.0), row("random", 0.4), row("downsample", 0.45)]
    about = {"questions_per_seed": 240, "seeds": 3, "threads": 1, "device": "a processor"}
    return {"conditions": about, "rows": [*rows, *(row(name, *told) for name, told in values.items())]}


@pytest.mark.parametrize("seed", range(3))
def test_rank_correlation(seed: int) -> None:
    """With ties, too."""
    values = np.random.default_rng(seed).integers(0, 6, (12, 2))
    assert boards.correlation(values) == pytest.approx(spearmanr(*values.T).statistic)


def test_what_is_said() -> None:
    """Who is first before the decoder and inside it, whether that is clear, who is better where, who moved most."""
    one = found(census=(0.94, 14, True), cls=(0.5, 14, False), zoo=(0.9, 14, True), fastv=(0.85, 46, True))
    other = found(census=(0.8, 14, True), cls=(0.84, 14, True), zoo=(0.5, 14, False), fastv=(0.9, 46, True))
    both = {"scenes-llava": one, "scenes-qwen": other}
    said = "\n".join(boards._words(both, "scenes-qwen"))
    assert "720 questions (240 a draw, draws: 3)" in said
    # Ranks 1, 4, 2, 3, 6, 5 and 3, 2, 4, 1, 6, 5: 1 - 6 * 16 / (6 * 35); without fastv 1 - 6 * 6 / (5 * 24).
    assert "a rank correlation of 0.54 [" in said
    assert "over 6 strategies, of 0.70 [" in said
    assert "over the 5 that act before the decoder" in said
    assert "`cls` is first here, with 84.0 [81.0, 87.0]; `census`, first on scenes-llava, has 80.0 [77.0, 83.0]" in said
    assert ", and the intervals overlap." in said
    assert "Inside the decoder `fastv` has most, 90.0 [87.0, 93.0], for 46 tokens a layer." in said
    assert "2 are better than both floors on both models: `census`, `fastv`." in said
    assert "1 is better than both floors only on scenes-llava: `zoo`." in said
    assert "1 is better than both floors only on scenes-qwen: `cls`." in said
    assert "Furthest from their place on scenes-llava: `census` (1 to 3), `cls` (4 to 2), `fastv` (3 to 1)." in said
    lines = boards._table(both, "scenes-qwen").splitlines()
    assert lines[0] == "| strategy | keep 0.1 |"
    assert [line.split("`")[1] for line in lines[2:]] == [
        "none",
        "fastv",
        "cls",
        "census",
        "zoo",
        "downsample",
        "random",
    ]
    assert lines[3] == "| `fastv` | 90.0 [87.0, 93.0] (85.0) |"


def test_a_table_without_times() -> None:
    text = board.table(found(census=(0.94, 14, True)))
    assert "first token" not in text.lower()
    assert "Times were not measured" in text
    assert "| `census` | 94.0 [91.0, 97.0] | | 14.0 | better |" in text
