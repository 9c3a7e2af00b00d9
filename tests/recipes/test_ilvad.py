"""The recipe `ilvad`, against a plain eager model: whole attention matrices, edited by loops as the release does."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import vtokens
from tests.engine.contrasted import check_answers
from tests.engine.dense import attending
from tests.recipes.looking import GREEDY, QUESTION, answered, grid, made, picture, prompted
from vtokens.recipes import ilvad
from vtokens.recipes.looking.evidence import Evidence, within
from vtokens.recipes.looking.ilvad import Ilvad, lifted

DETAILS = {"return_dict_in_generate": True, "output_logits": True, "output_scores": True}


def half_of(values: list[float]) -> list[int]:
    """The half of the heads with the greatest values."""
    order = sorted(range(len(values)), key=lambda head: -values[head])
    count = max(1, len(values) // 2)
    assert values[order[count - 1]] - values[order[count]] > 1e-9
    return order[:count]


def evidence(family: str, tau: float, alpha: float, draft: int) -> np.ndarray:
    """float64 (N,), by the attention matrices of a draft."""
    model, processor = made(family, attn_implementation="eager")
    inputs = prompted(processor, QUESTION, picture())
    visual = (inputs["input_ids"][0] == model.config.image_token_id).nonzero()[:, 0]
    made_up = model.generate(
        **inputs, do_sample=False, max_new_tokens=draft, output_attentions=True, return_dict_in_generate=True
    )
    steps, means = made_up.attentions[1:], []
    for layer in range(len(steps[0])):
        total = np.zeros(len(visual))
        for step in steps:
            looks = step[layer][0, :, -1][:, visual].double().numpy()
            total += np.mean([looks[head] for head in half_of([float(one.sum()) for one in looks])], axis=0)
        means.append(total / len(steps))
    often = np.zeros(len(visual))
    for place in range(len(visual)):
        active = [bool(mean[place] > tau * mean.mean()) for mean in means]
        often[place] = sum(now and not before for before, now in pairwise(active))
    average = np.mean(means, axis=0)
    often[average <= average.mean()] = 0
    far = 3 * often.std(ddof=1)
    often = often.clip(often.mean() - far, often.mean() + far)
    assert often.max() > often.min()
    found: np.ndarray = alpha * (often - often.min()) / (often.max() - often.min())
    return found


@dataclass
class Edited:
    """Attention that is edited as the release's is, head by head."""

    visual: list[int]
    lift: np.ndarray
    layers: tuple[int, ...]
    depth: int
    beta: float
    index: Any = None
    newest: float = 0.0
    hidden: dict[int, Tensor] = field(default_factory=dict)

    def grounded(self, row: np.ndarray) -> tuple[float, list[int]]:
        """Of a row (H, K), how far it follows evidence, and the heads that follow it most."""
        looks = [one[self.visual] for one in row]
        chosen = half_of([float((one * self.lift).sum() / (one.sum() + 1e-8)) for one in looks])
        return float(np.mean([float((looks[head] * self.lift).sum()) for head in chosen])), chosen

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float, mask: Any) -> Tensor:
        """(B, W, H, D)."""
        shared = query.shape[1] // key.shape[1]
        key, value = (part.repeat_interleave(shared, 1).double() for part in (key, value))
        scores = query.double() @ key.mT * scaling
        width, total = scores.shape[-2:]
        seen = torch.ones(width, total, dtype=torch.bool).tril(total - width)
        weights: Any = scores.masked_fill(~seen, -math.inf).softmax(-1)[0].numpy()
        end = max(self.visual) + 1
        if width > 1:
            self.index = np.zeros(width - end) if self.index is None else self.index
            for row in range(end, width - 1):
                self.index[row - end] += self.grounded(weights[:, row])[0]
        score, chosen = self.grounded(weights[:, -1])
        self.newest += score
        if layer == self.depth - 1:
            self.index, self.newest = np.append(self.index, self.newest), 0.0
        if layer in self.layers:
            row = weights[:, -1].copy()
            looked = [float(one[end:].sum()) for one in row]
            for head in chosen:
                row[head, self.visual] *= np.exp(self.lift)
            low, high, far = self.index.min(), self.index.max(), 3 * self.index.std(ddof=1)
            self.index = self.index.clip(self.index.mean() - far, self.index.mean() + far)
            for head in half_of(looked):
                for place, known in enumerate(self.index):
                    row[head, end + place] *= (known - low) / (high - low) + self.beta
            weights[:, -1] = row / row.sum(-1, keepdims=True)
        return (torch.from_numpy(weights)[None] @ value).to(query.dtype).transpose(1, 2)


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
@torch.no_grad()
def test_answers_are_those_of_the_formula(family: str) -> None:
    settings: dict[str, Any] = {"tau": 1.2, "alpha": 2.0, "beta": 0.4, "draft": 4, "layers": (0, 2)}
    model, processor = made(family)
    inputs, depth = prompted(processor, QUESTION, picture()), 4
    lift = evidence(family, 1.2, 2.0, 4)
    visual = (inputs["input_ids"][0] == model.config.image_token_id).nonzero()[:, 0].tolist()
    oracle: Any = Edited(visual, lift, (0, 2), depth, 0.4)
    reference, _ = made(family, attn_implementation="sdpa")
    with attending(reference, oracle):
        wanted = reference.generate(**inputs, do_sample=False, **GREEDY, **DETAILS)
    got = answered(ilvad, model, processor, picture(), **settings, **GREEDY)
    assert got.passes == 2
    full = np.zeros(inputs["input_ids"].shape[1])
    full[visual] = lift
    np.testing.assert_allclose(got.notes["evidence"], grid(model, inputs, full), rtol=1e-4, atol=1e-5)
    assert torch.equal(got.said.sequences, wanted.sequences)
    watch = Evidence(0.4, (0, 2))
    watch.state.lift = lift.astype(np.float32)
    with vtokens.attach(model, watch):
        check_answers(model.generate(**inputs, do_sample=False, **GREEDY, **DETAILS), wanted, False)
    plain = model.generate(**inputs, do_sample=False, **GREEDY, **DETAILS)
    assert not torch.allclose(plain.logits[0], wanted.logits[0], atol=1e-3)


@pytest.mark.parametrize("family", ["llava_onevision", "qwen3_5", "internvl"])
def test_what_is_attached_acts_in_the_answer_alone(family: str) -> None:
    """Evidence is that of the plain model, on whatever tokens a pruner leaves in the answer."""
    model, processor = made(family)
    settings: dict[str, Any] = {"tau": 1.0, "draft": 3, **GREEDY}
    plain = ilvad(model, processor, picture(), QUESTION, **settings)
    with vtokens.attach(model, "uniform(keep=0.25)+vtw(layer=3)"):
        got = ilvad(model, processor, picture(), QUESTION, **settings)
    np.testing.assert_array_equal(got.notes["evidence"], plain.notes["evidence"])
    assert got.flops < got.flops_full == plain.flops
    with vtokens.attach(model, "uniform(keep=1)"):  # one token is left to look at
        assert ilvad(model, processor, picture(), QUESTION, **settings).said.sequences.shape[1] > 4


def test_evidence_by_hand() -> None:
    """Active above the mean in 1, 0, 1, 0 of four layers: once from one to the next, and twice in 0, 1, 0, 1."""
    looks = torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.8, 0.1, 0.1], [0.1, 0.8, 0.1]])
    torch.testing.assert_close(lifted(looks, 1.0, 6.0), torch.tensor([3.0, 6.0, 0.0]))
    assert lifted(looks, 5.0, 6.0).tolist() == [0, 0, 0]  # nothing is active: nothing is lifted


def test_what_stands_far_out_is_brought_back() -> None:
    """Of 24 zeros and a 1 the mean is .04 and the deviation .2: nothing is above .64; fewer numbers reach it never."""
    values = torch.tensor([0.0] * 24 + [1.0])
    torch.testing.assert_close(within(values), torch.tensor([0.0] * 24 + [0.64]))
    assert torch.equal(within(values[-5:]), values[-5:])
    assert torch.equal(within(values[-1:]), values[-1:])


def test_a_draft_that_ends_at_once_is_read_at_the_end_of_the_prompt() -> None:
    model, processor = made("llava")
    inputs = prompted(processor, QUESTION, picture())
    first = int(model.generate(**inputs, do_sample=False, max_new_tokens=1)[0, -1])
    old, model.generation_config.eos_token_id = model.generation_config.eos_token_id, first
    try:
        got = ilvad(model, processor, picture(), QUESTION, tau=1.0)
    finally:
        model.generation_config.eos_token_id = old
    assert np.isfinite(got.notes["evidence"]).all()
    assert got.notes["evidence"].max() == pytest.approx(5.0)


def test_what_it_cannot_do_is_refused() -> None:
    model, processor = made("llava")
    for more, says in (
        ({"alpha": -1.0}, "alpha=-1.0 is out of range"),
        ({"draft": 1}, "at least 2 tokens"),
        ({"layers": (3,)}, "0 to 2 is allowed, the nearest is 2"),
        ({"num_beams": 2}, "follows one answer"),
    ):
        with pytest.raises(ValueError, match=says):
            ilvad(model, processor, picture(), QUESTION, **more)
    for spec, says in (("m3id", "'m3id' runs another beside it"), ("vaf", "would weigh attention twice")):
        with vtokens.attach(model, spec), pytest.raises(ValueError, match=says):
            ilvad(model, processor, picture(), QUESTION)
    assert str(Ilvad(beta=1.0)) == "ilvad(beta=1.0)"
