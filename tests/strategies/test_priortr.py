"""`priortr` against eager attention, and against stored results of the released code."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.limits import close
from tests.strategies.staging import FAMILIES, best, run, shown
from tests.strategies.test_fastv import text_after
from vtokens.strategies import Attention, get

STORED = Path(__file__).parent / "parity" / "priortr.npz"


@pytest.mark.parametrize("query", ["question", "last"])
def test_scores_are_those_of_the_release(query: str) -> None:
    """Stored: `compute_scores` of image/LLaVA/llava/vtr/strategy/priortr.py of CodeChildCZJ/PriorTR at b819668.

    Run outside this project on a causal attention matrix of four heads and 30 positions (torch seed 7).
    """
    stored = {name: torch.from_numpy(np.asarray(value)) for name, value in np.load(STORED).items()}
    attention, start, end = stored["attention"], int(stored["start"]), int(stored["end"])
    signals = {
        Attention(2, "after"): attention[:, end].mean(0),
        Attention(2, "text"): attention[:, end:].mean((0, 1)),
        Attention(2, "last"): attention[:, -1].mean(0),
    }
    visuals = shown(signals, torch.zeros(attention.shape[1], 4), start, end)
    found = get("priortr")(query=query).score(visuals)[0]
    close(found, stored[query], terms=attention.shape[1], chain=3)
    assert (found > 0).any()
    assert (found < 0).any()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("query", ["question", "last"])
def test_what_the_question_adds_to_the_prior_stays(family: str, query: str) -> None:
    """P log(P / Q) of each token in float64, from the rows of an eager copy."""
    found = run(family, f"priortr(keep=4, query={query}, layer=2)")
    for seen in found.pictures:
        row, attention = seen.row, found.attentions[1][seen.row].mean(0)
        behind = max(place for one in found.pictures if one.row == row for place in one.places)
        first = min(place for one in found.pictures if one.row == row for place in one.places)
        text = text_after(family, found.batch, row, first)
        after = next(place for place in text if place > behind)
        task = attention[text].mean(0) if query == "question" else attention[found.last[row]]
        p, q = (part[seen.places] / part[seen.places].sum() for part in (task, attention[after]))
        assert seen.left[2] == best(p * (p / q).log(), seen.places, 4)


def test_rounding_is_no_preference() -> None:
    """Where prior and task are one row, all scores are 0, however each was rounded."""
    row = torch.rand(12, generator=torch.Generator().manual_seed(0))
    signals = {Attention(2, "after"): row, Attention(2, "text"): row * (1 + 1e-7)}
    assert not get("priortr")().score(shown(signals, torch.zeros(12, 4), 2, 10)).any()
