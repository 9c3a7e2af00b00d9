"""IAVA: which tokens are irrelevant, what the negative prompt sees, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

import vtokens
from tests.engine.cases import model
from tests.engine.compare import one, ragged
from tests.limits import close_pass
from tests.strategies.helpers import probe, refuses
from vtokens.adapters import adapter_for
from vtokens.strategies import Attention, Selection, Strategy, Visuals
from vtokens.strategies.contrast.iava import irrelevant_tokens


@dataclass(frozen=True)
class Only(Strategy):
    """Keeps these tokens of a single picture."""

    name = "only_these"
    these: tuple[bool, ...] = ()

    def at_prompt(self, visuals: Visuals) -> Selection:
        return Selection(torch.tensor([self.these]), (sum(self.these),))


def by_hand(before: np.ndarray, asked: np.ndarray, high: float, falling: float) -> list[bool]:
    a, b = before / before.sum(), asked / asked.sum()
    lost = a - b
    return [
        bool(x > a.mean() + high * a.std() and y > lost.mean() + falling * lost.std())
        for x, y in zip(a, lost, strict=True)
    ]


def test_irrelevant_tokens_are_those_of_the_rule() -> None:
    """Group by group in float64, padding left out; what is as high everywhere is nothing."""
    draw, hits = np.random.default_rng(0), 0
    for high, falling in ((1.0, 1.0), (0.0, 0.5), (0.5, 0.0)):
        before, asked = draw.exponential(size=(2, 4, 30)) ** 2
        counts = (30, 17, 2, 1)
        valid = torch.arange(30) < torch.tensor(counts)[:, None]
        got = irrelevant_tokens(torch.from_numpy(before).float(), torch.from_numpy(asked).float(), valid, high, falling)
        for row, count in enumerate(counts):
            expected = by_hand(before[row, :count], asked[row, :count], high, falling)
            assert got[row].tolist() == [*expected, *[False] * (30 - count)]
            hits += sum(expected)
    assert hits > 5
    even = torch.full((1, 8), 0.1)
    assert not irrelevant_tokens(even, even, torch.ones(1, 8, dtype=torch.bool), 1.0, 1.0).any()


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
@torch.no_grad()
def test_the_branch_sees_what_the_question_makes_less_of(family: str) -> None:
    """The contrast is (1 + a) l - a l' with l' of a prompt that keeps these tokens alone, as a pruner does."""
    target, batch = model(family, "pruned"), one(family)
    spec = "iava(alpha=1.0, beta=0, high=0.0, falling=0.0, layers=(1, 2))"
    wanted = [[Attention(layer, rows) for layer in (1, 2)] for rows in ("after", "last")]
    found = probe(target, batch, *wanted[0], *wanted[1])
    places = [batch["input_ids"][0] == token for token in adapter_for(target).placeholder_ids.values()]
    shown = torch.stack(places).any(0)
    before, asked = (torch.stack([found[one][0, shown] for one in part]).mean(0).double().numpy() for part in wanted)
    keep = torch.tensor(by_hand(before, asked, 0.0, 0.0))
    assert 0 < keep.sum() < len(keep)
    plain = target(**batch).logits[:, -1]
    with vtokens.attach(target, spec):
        got = target(**batch).logits[:, -1]
    with vtokens.attach(target, Only(tuple(keep.tolist()))):
        other = target(**batch).logits[:, -1]
    close_pass(got, 2 * plain - other, passes=2)


@torch.no_grad()
def test_a_row_is_contrasted_as_alone() -> None:
    target, batch = model("llava", "pruned"), ragged("llava")
    plain = target(**batch).logits[:, -1]
    with vtokens.attach(target, "cls(keep=0.5)+iava(beta=0, high=0.0, falling=0.0)"):
        both = target.generate(**batch, max_new_tokens=2, num_beams=2, do_sample=False)
        got = target(**batch).logits[:, -1]
    assert len(both) == 3
    assert torch.equal(got[2], plain[2])  # which has no picture
    assert (got[:2] - plain[:2]).abs().amax(1).min() > 1e-3


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("iava(high=-1)", r"high=-1.0 is out of range"),
        ("iava(layers=(4,))", r"layers=4 is out of range for a model with 4 layers"),
        ("iava+pai", r"would contrast logits twice"),
    ],
)
def test_what_cannot_be_is_refused(spec: str, reason: str) -> None:
    refuses(spec, reason)
