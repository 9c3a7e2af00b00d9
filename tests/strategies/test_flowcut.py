"""FlowCut against what its release drops for stored queries, keys and values, and against loops through a tower."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import vtokens
from tests.engine.cases import model
from tests.families import build, image, inputs
from tests.limits import close_pass
from tests.strategies.helpers import kept
from tests.strategies.made import rows_answer_as_alone
from vtokens.engine.state.merging import Merging
from vtokens.strategies import parse
from vtokens.strategies.views.patches import Patches

# What the layers of flowcut 1.0.2 (PyPI; TungChintao/FlowCut) keep of 48 patches, block by block of the eight in front
# of the one that makes the features, for queries and keys (9, 2, 49, 2 heads of 4), 2 * normal, and values, 0.7 *
# normal; torch seed 13. Each block's attention and layer code ran as it is, on projections that look a token's row up.
RELEASE = np.load(Path(__file__).parent / "parity" / "flowcut.npz")


@pytest.mark.parametrize("target", [6, 20])
@pytest.mark.parametrize("stride", [1, 4])
def test_the_release_drops_the_same_patches(target: int, stride: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many after each block, and the same, whether dropped rows go at once or stand masked for a while."""
    monkeypatch.setitem(vtokens.engine.state.merging._STRIDE, "cpu", stride)
    (strategy,) = parse(f"flowcut(keep={target})")
    merging, notes = Merging.start(torch.ones(2, 49, dtype=torch.bool), 1), dict[str, Tensor]()
    hidden = torch.arange(49.0).expand(2, 49)[..., None]  # each token is its own number
    for block in range(8):
        rows = hidden[..., 0].long()
        parts = [
            torch.from_numpy(RELEASE[name][block]).gather(1, rows[..., None].expand(-1, -1, 8))
            for name in ("query", "key", "value")
        ]
        query, key, value = (part.unflatten(2, (2, 4)).transpose(1, 2) for part in parts)
        seen = Patches(block, hidden, key, merging.size, merging.valid, 1, 8, query, value, 0.5, merging.member, notes)
        merged = strategy.at_encode(seen)
        if merged is not None:
            hidden, merging = merging.follow(merged, block == 7)
        expected = RELEASE[f"kept_{target}"][block]
        for row in range(2):
            there = hidden[row, merging.valid[row], 0].long().tolist()
            assert there[0] == 0
            assert sorted(there[1:]) == (np.flatnonzero(expected[row]) + 1).tolist()
    flows = notes["flow"][:, 1:]
    assert ((flows > -1).numpy() == RELEASE[f"kept_{target}"][-1]).all()


def by_loops(tower: Any, pixels: Tensor, count: int, feature: int) -> tuple[list[int], Tensor]:
    """The method in float64, picture by picture: what stays, and its features behind the block that makes them."""
    hidden = tower.pre_layrnorm(tower.embeddings(pixels[None]))
    places, so_far = [*range(hidden.shape[1] - 1)], np.zeros(0)
    for index, block in enumerate(tower.encoder.layers[: feature + 1]):
        normed, own = block.layer_norm1(hidden), block.self_attn
        q, k, v = (
            part(normed)[0].double().numpy().reshape(len(places) + 1, own.num_heads, -1)
            for part in (own.q_proj, own.k_proj, own.v_proj)
        )
        hidden = hidden + own(normed)[0]
        hidden = hidden + block.mlp(block.layer_norm2(hidden))
        left = feature - 1 - index
        if len(places) <= count or left < 0:
            continue
        rows = np.zeros((2, len(places) + 1))
        for head in range(own.num_heads):
            for number, scores in enumerate((k[:, head] @ q[0, head] / q.shape[2] ** 0.5, v[:, head] @ v[0, head])):
                rows[number] += np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum() / own.num_heads
        a, c = (part[1:] / part[1:].sum() for part in rows)
        score = (a + c) * np.abs(v.mean(1)[1:]).sum(1)
        so_far = (so_far + score) / 2 if index else score
        if left % 2:
            continue
        ratio = -(a * np.log(a)).sum() / np.log(len(a))
        drop = round((len(a) - count) / left**0.5 * (1 - ratio**2)) if left else len(a)
        best = np.sort(np.argsort(-so_far)[: max(len(a) - drop, count)])
        places, so_far = [places[one] for one in best], so_far[best]
        hidden = hidden[:, [0, *(best + 1).tolist()]]
    return places, hidden[0, 1:]


@pytest.mark.parametrize("keep", [3, 9])
@torch.no_grad()
def test_a_tower_drops_what_loops_drop(keep: int) -> None:
    """In genuine CLIP blocks: which patches stay, and what enters the decoder for them."""
    target, processor = build("llava", vision_config={"num_hidden_layers": 8})
    feature = 6
    batch = inputs(
        processor, ["what is <image> this", "a <image> b"], [[image(84, 60, seed=3)], [image(56, 56, seed=5)]]
    )
    entered: dict[str, Tensor] = {}
    hook = target.model.language_model.layers[0].register_forward_pre_hook(
        lambda module, args, kwargs: entered.update(hidden=args[0] if args else kwargs["hidden_states"]),
        with_kwargs=True,
    )
    with vtokens.attach(target, f"flowcut(keep={keep})") as handle:
        target(**batch)
        report = handle.report()
    hook.remove()
    tower = target.model.vision_tower
    tower = getattr(tower, "vision_model", tower)
    for row, sample in enumerate(report.samples):
        places, features = by_loops(tower, batch["pixel_values"][row], keep, feature)
        assert len(places) == keep
        assert sample.pictures[0].kept[0].tolist() == places
        columns = torch.from_numpy(sample.positions[0])
        visual = batch["input_ids"][row][columns] == processor.image_token_id
        got = entered["hidden"][row][-len(columns) :][visual]
        close_pass(got, target.model.multi_modal_projector(features[None])[0])


def test_one_picture_alone() -> None:
    """A batch of one keeps what it keeps in a batch of two."""
    target, processor = build("llava", vision_config={"num_hidden_layers": 8})
    prompts, pictures = ["what is <image> this", "a <image> b"], [[image(84, 60, seed=3)], [image(56, 56, seed=5)]]
    both = kept(target, inputs(processor, prompts, pictures), "flowcut(keep=5)")
    for row in range(2):
        alone = inputs(processor, prompts[row : row + 1], pictures[row : row + 1])
        assert kept(target, alone, "flowcut(keep=5)") == [both[row]]
    rows_answer_as_alone("flowcut(keep=5)", "llava")


@pytest.mark.parametrize("spec", ["flowcut(keep=0.3)", "flowcut(keep=4)"])
def test_crops_are_pruned_in_the_tower_each(spec: str) -> None:
    """Of several crops no more stay than asked for, and a batch answers as its rows do."""
    target, processor = build("llava_next", vision_config={"num_hidden_layers": 6})
    batch = inputs(processor, ["what is <image> this"], [[image(100, 60, seed=0)]])
    (found,) = kept(target, batch, spec)  # of one picture
    assert 0 < len(found) <= (4 if "4" in spec else 0.3 * 60 + 1)
    rows_answer_as_alone(spec, "llava_next")


@torch.no_grad()
def test_nothing_is_dropped_where_all_stays() -> None:
    target, processor = build("llava", vision_config={"num_hidden_layers": 8})
    batch = inputs(processor, ["what is <image> this"], [[image(84, 60, seed=3)]])
    plain = target(**batch).logits
    for keep in (1.0, 16):
        with vtokens.attach(target, "flowcut", keep=keep):
            close_pass(target(**batch).logits, plain)


@pytest.mark.parametrize(
    ("family", "why"),
    [
        ("qwen2_5_vl", "has no class token"),
        ("internvl", "has no place inside"),
        ("llava_onevision", "has no class token"),
    ],
)
def test_other_towers_are_refused(family: str, why: str) -> None:
    with pytest.raises(ValueError, match=f"{why}.*'hiprune' and 'visionzip'"):
        vtokens.attach(model(family, "pruned"), "flowcut")
