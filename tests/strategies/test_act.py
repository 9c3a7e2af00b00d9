"""ACT: the rule by hand, generation against whole edited matrices, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.engine.compare import check_tokens, one, ragged
from tests.engine.edited import Matrix, both
from tests.limits import close
from tests.strategies.helpers import refuses
from vtokens.strategies import Facts, parse
from vtokens.strategies.attend.act import Act
from vtokens.strategies.base import needs_of


def test_worked_example() -> None:
    """Of .5 + .1 on sinks .36 is freed: the rest, .3 and .1, gets three and one quarters of it."""
    row, sink = torch.tensor([0.5, 0.3, 0.1, 0.1]), torch.tensor([True, False, True, False])
    close(Act().calibrated(row, sink), torch.tensor([0.2, 0.57, 0.04, 0.19]), terms=4)
    assert torch.equal(Act().calibrated(row, torch.zeros(4, dtype=torch.bool)), row)
    alone = torch.tensor([1.0, 0.0, 0.0, 0.0])
    assert torch.equal(Act().calibrated(alone, sink), alone)
    close(Act(beta=1.0).calibrated(row, sink), row, terms=4)


SINKS: list[int] = []


def calibrate(m: Matrix) -> Tensor:
    """Head by head and row by row."""
    weights = m.scores.softmax(-1).nan_to_num(0.0)
    if not m.fresh:
        return weights
    new = weights.clone()
    for b in range(len(weights)):
        rows = m.rows[b].nonzero()[:, 0].tolist()
        for h in range(weights.shape[1]):
            sinks = []
            for key in m.visual[b, 0, 0].nonzero()[:, 0].tolist():
                seen = [weights[b, h, row, key] for row in rows if not m.scores[b, h, row, key].isinf()]
                if seen and sum(seen) / len(seen) > 0.06:
                    sinks.append(key)
            SINKS.append(len(sinks))
            for row in rows if sinks else ():
                freed = 0.7 * weights[b, h, row, sinks].sum()
                new[b, h, row] *= 1 + freed / (1 - weights[b, h, row, sinks].sum())
                new[b, h, row, sinks] = 0.3 * weights[b, h, row, sinks]
    return new


@pytest.mark.parametrize("family", ["llava", "llava_onevision", "qwen2_5_vl"])
@torch.no_grad()
def test_generation_is_that_of_edited_weights(family: str) -> None:
    """In a ragged batch, one of whose samples has no picture, and behind a pruner with beams."""
    SINKS.clear()
    spec = "act(beta=0.3, threshold=0.06, layers=(0, 2, 3))"
    got, expected = both(family, spec, ragged(family), (0, 2, 3), "text", calibrate, new=2, do_sample=False)
    check_tokens(got, expected, 2)
    assert 0 < sum(map(bool, SINKS)) < len(SINKS)
    pruned = "fastv(keep=0.5, layer=1)+" + spec
    got, expected = both(family, pruned, one(family), (0, 2, 3), "text", calibrate, new=2, num_beams=2, do_sample=False)
    check_tokens(got, expected, 2)


def test_layers_by_depth_and_refusals() -> None:
    facts = Facts("llava", depth=32, tower_depth=24, has_cls=True)
    assert needs_of(parse("act")[0], facts).attend == tuple(range(2, 31))
    assert needs_of(parse("act(beta=1)")[0], facts).attend == ()
    for spec, reason in (
        ("act(beta=1.5)", r"beta=1.5 is out of range"), ("act(layers=(4,))", r"layers=4 is out of range"),
        ("act+vaf", r"would weigh attention twice"),
    ):  # fmt: skip
        refuses(spec, reason)
