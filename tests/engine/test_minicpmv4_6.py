"""MiniCPM-V 4.6: a merger amid the tower, one behind it, slices of an image, frames that stand apart."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import vtokens
from tests.engine.cases import model
from tests.families import build, image, inputs
from tests.limits import close_pass
from vtokens.strategies import Saliency

pytestmark = pytest.mark.usefixtures("no_grad")
FAMILY = "minicpmv4_6"
WIDE, SMALL = image(170, 50, seed=0), image(56, 84, seed=1)  # the whole and its slices; one picture


def both() -> dict[str, Any]:
    return dict(inputs(FAMILY, ["<image> and <image>?"], [[WIDE, SMALL]]))


def features(target: Any, batch: dict[str, Any], **more: Any) -> Any:
    return target.model.get_image_features(batch["pixel_values"], batch["target_sizes"], **more)


def scores(batch: dict[str, Any], signal: Saliency, spec: str, **more: Any) -> torch.Tensor:
    """(tokens,): the saliency of all tokens, as strategies read it."""
    target = model(FAMILY, "pruned")
    with vtokens.attach(target, spec):
        return features(target, batch, **more)["_vtokens_tower_run"].run.saliency(signal)


def received(batch: dict[str, Any], block: int, **more: Any) -> list[torch.Tensor]:
    """float64 (patches,) for each picture: attention received in a block, from what its projections give."""
    target, found = build(FAMILY)[0].model, {}
    attention = target.vision_tower.encoder.layers[block].self_attn
    hooks = [
        getattr(attention, name).register_forward_hook(lambda m, a, out, name=name: found.update({name: out[0]}))
        for name in ("q_proj", "k_proj")
    ]
    target.get_image_features(batch["pixel_values"], batch["target_sizes"], **more)
    for hook in hooks:
        hook.remove()
    merged = block > target.config.insert_layer_id and not more
    lengths = [int(size.prod()) // (4 if merged else 1) for size in batch["target_sizes"]]
    out = []
    for query, key in zip(found["q_proj"].split(lengths), found["k_proj"].split(lengths), strict=True):
        q, k = (part.double().unflatten(1, (attention.num_heads, -1)).transpose(0, 1) for part in (query, key))
        out.append((q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).softmax(-1).mean(0).sum(0))
    return out


def joined(batch: dict[str, Any], block: int, **more: Any) -> torch.Tensor:
    """(tokens,): the same for the squares of patches that make a token, by loops over rows and columns."""
    out = []
    merged = block > 1 and not more
    factor = 2 if merged or more else 4
    for values, size in zip(received(batch, block, **more), batch["target_sizes"].tolist(), strict=True):
        high, wide = (side // 2 if merged else side for side in size)
        plane = values.view(high, wide)
        for row in range(0, high, factor):
            for column in range(0, wide, factor):
                out.append(plane[row : row + factor, column : column + factor].mean())
    return torch.stack(out).float()


@pytest.mark.parametrize("block", [0, 1, 2, 3])
def test_scores_of_blocks_before_and_behind_the_merger(block: int) -> None:
    close_pass(scores(both(), Saliency((block,)), f"cls(keep=0.5, layers=({block},))"), joined(both(), block))


def test_blocks_on_both_sides_add_up() -> None:
    """They have four times as many patches before as behind."""
    got = scores(both(), Saliency((1, 3)), "cls(keep=0.5, layers=(1, 3))")
    close_pass(got, joined(both(), 1) + joined(both(), 3))


def test_without_the_merger_a_token_joins_four_patches() -> None:
    """`downsample_mode="4x"`, as an argument of the call."""
    more = {"downsample_mode": "4x"}
    got = scores(both(), Saliency(), "cls(keep=0.5)", **more)
    assert len(got) == 4 * len(joined(both(), 3))
    close_pass(got, joined(both(), 3, **more))


def test_the_patches_of_a_token_stand_where_scores_say() -> None:
    """What moves in a square of the pixels moves the feature of that token more than any other."""
    batch = dict(inputs(FAMILY, ["<image>?"], [[image(130, 60, seed=4)]]))
    target, patch = build(FAMILY)[0], 7
    sizes = batch["target_sizes"].tolist()
    plain, first, past = features(target, batch).pooler_output, 0, 0
    for number, (high, wide) in enumerate(sizes):
        for token in range(high * wide // 16):
            row, column = divmod(token, wide // 4)
            pixels = batch["pixel_values"].clone()
            for line in range(4 * row, 4 * row + 4):
                begin = (past + line * wide + 4 * column) * patch
                pixels[..., begin : begin + 4 * patch] *= -1
            moved = features(target, {**batch, "pixel_values": pixels}).pooler_output
            assert int((moved[number] - plain[number]).norm(dim=-1).argmax()) == token
        first, past = first + high * wide // 16, past + high * wide


def test_a_budget_is_that_of_an_image_not_of_its_slices() -> None:
    batch = dict(inputs(FAMILY, ["<image> or <image>?", "<image>?"], [[WIDE, SMALL], [WIDE]]))
    target = model(FAMILY, "pruned")
    with vtokens.attach(target, "cls(keep=3)") as handle:
        target(**batch)
        report = handle.report()
    shown = [[part.picture for part in sample.pictures] for sample in report.samples]
    assert [[len({*picture.view.tolist()}) for picture in row] for row in shown] == [[4, 1], [4]]
    assert [[len(part.kept[-1]) for part in sample.pictures] for sample in report.samples] == [[3, 3], [3]]
    ids, adapter = batch["input_ids"], vtokens.adapters.adapter_for(target)
    fed = ({"input_ids": ids}, {"inputs_embeds": target.get_input_embeddings()(ids)})
    assert torch.equal(*(adapter.stretches(ids == target.config.image_token_id, given) for given in fed))


def test_frames_of_a_video_are_pictures_of_their_own() -> None:
    """They are told apart from images by their token; strategies that compare frames are refused."""
    target, picture = model(FAMILY, "pruned"), dict(inputs(FAMILY, ["<image> and <image>?"], [[SMALL, SMALL]]))
    ids = picture["input_ids"].clone()
    ids[ids == target.config.image_token_id] = target.config.video_token_id
    batch = {
        "input_ids": ids, "attention_mask": picture["attention_mask"],
        "pixel_values_videos": picture["pixel_values"], "target_sizes_videos": picture["target_sizes"],
    }  # fmt: skip
    kept = []
    for given in (picture, batch):
        with vtokens.attach(target, "cls(keep=2)") as handle:
            target(**given)
            kept.append(handle.report().samples[0].positions[-1].tolist())
    assert kept[0] == kept[1]
    assert len(kept[0]) < ids.shape[1]
    with pytest.raises(ValueError, match="not told which of them make a video"):
        vtokens.attach(target, "evs(keep=0.5)")
