"""CoreMatching: what the release keeps of stored activations, and neurons of genuine models read by hooks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import vtokens
from tests.engine.compare import ragged
from tests.engine.masked import decoder_layers, dropped_keys, masking
from tests.families import STATEFUL, build
from tests.limits import close_pass
from vtokens.strategies import Facts, parse
from vtokens.strategies.prune.corematching import CoreMatching, above_knee

STORED = Path(__file__).parent / "parity" / "corematching.npz"
"""Made by the lines of the MLP in transformers/models/llama/modeling_llama.py of wangqinsi1/2025-ICML-CoreMatching
(785c4715) that choose tokens, on 5 + 576 + 20 drawn positions of 64 neurons, some of which resemble the fifth from the
end; seeds 1 and 2. Bits are activations above 0, numbers the places that it keeps of the 576."""


def kept_by_hand(scores: list[int]) -> list[int]:
    """Places above the knee, by distances from a line in float64, one point after the other."""
    curve = sorted(scores, reverse=True)
    last = len(curve) - 1
    line = np.array([last, curve[-1] - curve[0]], dtype=np.float64)
    far = [abs(line[0] * (y - curve[0]) - line[1] * x) / max(np.linalg.norm(line), 1e-12) for x, y in enumerate(curve)]
    if max(far) < 1e-9:
        return list(range(len(scores)))
    knee = curve[int(np.argmax(far))]
    return [place for place, score in enumerate(scores) if score > knee] or [
        place for place, score in enumerate(scores) if score >= knee
    ]


def test_what_stays_is_what_the_release_keeps() -> None:
    with np.load(STORED) as stored:
        for seed in (1, 2):
            active = torch.from_numpy(np.unpackbits(stored[f"active{seed}"], axis=1)).bool()
            scores = (active & active[-5]).sum(1)[5:581].float()[None]
            keep = above_knee(scores, torch.ones_like(scores, dtype=torch.bool))
            assert keep[0].nonzero()[:, 0].tolist() == stored[f"kept{seed}"].tolist()


@pytest.mark.parametrize(
    ("scores", "stay"),
    [
        ([9, 1, 8, 1, 0], [0, 2]),  # falls steeply, then hardly
        ([5, 4, 3, 2, 1], [0, 1, 2, 3, 4]),  # a line has no knee
        ([4, 4, 4], [0, 1, 2]),
        ([7], [0]),
        ([5, 5, 5, 0], [0, 1, 2]),  # nothing is above the knee: what is at it
    ],
)
def test_small_curves(scores: list[int], stay: list[int]) -> None:
    """Beside a longer group, whose padding must not matter."""
    values = torch.full((2, 9), 99.0)
    values[0, : len(scores)] = torch.tensor(scores).float()
    values[1] = torch.arange(9).flip(0) ** 2
    valid = torch.arange(9) < torch.tensor([[len(scores)], [9]])
    keep = above_knee(values, valid)
    assert keep[0].nonzero()[:, 0].tolist() == stay == kept_by_hand(scores)
    assert keep[1].nonzero()[:, 0].tolist() == kept_by_hand([n**2 for n in reversed(range(9))])


def test_drawn_curves() -> None:
    made = torch.Generator().manual_seed(0)
    for count in (2, 3, 10, 57):
        scores = (40 * torch.rand(6, count, generator=made) ** 3).floor()
        keep = above_knee(scores, torch.ones_like(scores, dtype=torch.bool))
        for row in range(6):
            assert keep[row].nonzero()[:, 0].tolist() == kept_by_hand(scores[row].int().tolist())


def neurons_of(model: Any, batch: Any, layer: int) -> Tensor:
    """(B, N, I): what enters the last matrix of an MLP of an untouched model."""
    found: list[Tensor] = []
    part = decoder_layers(model)[layer].mlp.down_proj
    hook = part.register_forward_pre_hook(lambda module, args: found.append(args[0]))
    model(**batch)
    hook.remove()
    return found[0]


@pytest.mark.parametrize(("family", "reference"), [("llava", -1), ("qwen2_5_vl", -3), (STATEFUL[0], -1)])
@torch.no_grad()
def test_tokens_that_share_neurons_with_the_reference_stay(family: str, reference: int) -> None:
    """A ragged batch: overlaps counted one neuron after the other; and what is dropped is as if it were masked."""
    model, _ = build(family)
    batch = ragged(family)
    neurons, ids = neurons_of(model, batch, 1), batch["input_ids"]
    with vtokens.attach(model, f"corematching(layer=2, reference={reference})") as handle:
        got = model(**batch).logits
        report = handle.report()
    for row, sample in enumerate(report.samples):
        word = neurons[row, reference]
        places, at = (ids[row] == model.config.image_token_id).nonzero()[:, 0].tolist(), 0
        for part in sample.pictures:
            own = [place for place, view in zip(places[at:], part.picture.view, strict=False) if view >= 0]
            at += len(part.picture)
            scores = []
            for place in own:
                both = zip(neurons[row, place].tolist(), word.tolist(), strict=True)
                scores.append(sum(mine > 0 and theirs > 0 for mine, theirs in both))
            rank = (part.picture.view >= 0).cumsum() - 1
            assert rank[part.kept[2]].tolist() == kept_by_hand(scores)
            assert len(part.kept[1]) == len(scores)
    if family not in STATEFUL:
        with masking(model, dropped_keys(report, batch["attention_mask"])):
            expected = model(**batch).logits
        real = batch["attention_mask"].bool()
        close_pass(got[real], expected[real])


def test_where_it_drops() -> None:
    facts = [Facts("llava", depth=depth, tower_depth=2, has_cls=True) for depth in (4, 32, 40)]
    assert [tuple(CoreMatching().needs(one).layer) for one in facts] == [(1,), (6,), (7,)]


@torch.no_grad()
def test_what_cannot_be_is_refused() -> None:
    model, _ = build("llava")
    with pytest.raises(ValueError, match="-1 and below"):
        parse("corematching(reference=0)")
    with pytest.raises(ValueError, match="out of range for a model with 4 layers"):
        vtokens.attach(model, "corematching(layer=4)")
    with pytest.raises(ValueError, match="reads neurons of decoder layer 1, and 'shortv'"):
        vtokens.attach(model, "corematching(layer=2)+shortv(layers=(1,))")
    experts, _ = build("qwen3_vl_moe")
    with pytest.raises(ValueError, match="has no `down_proj`"):
        vtokens.attach(experts, "corematching")
