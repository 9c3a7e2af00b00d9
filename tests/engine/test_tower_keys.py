"""Tower keys and states against the projections of the genuine towers, brought to tokens by hand."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.qwen2_vl.modeling_qwen2_vl import apply_rotary_pos_emb_vision
from transformers.vision_utils import get_vision_window_index

import vtokens
from tests.engine.cases import model
from tests.engine.compare import ragged
from tests.families import EVERY, FAMILIES, build, image, inputs
from tests.limits import close_pass
from tests.strategies.helpers import arrange, crops_of
from vtokens.engine.state.mark import Mark
from vtokens.strategies import Facts, Needs, Saliency, ScorePruner, Strategy, TowerKeys, TowerStates, Visuals

pytestmark = pytest.mark.usefixtures("no_grad")
BLOCKS = (None, 0, -1)


@dataclass(frozen=True)
class Look(Strategy):
    """Writes down the keys of some blocks, picture by picture, and drops nothing."""

    blocks: tuple[int | None, ...] = BLOCKS
    asks: bool = True
    log: dict[Any, list[Tensor]] = field(default_factory=dict, compare=False)

    def needs(self, facts: Facts) -> Needs:
        return Needs(signals=tuple(map(TowerKeys, self.blocks)) if self.asks else ())

    def at_prompt(self, visuals: Visuals) -> None:
        for block in self.blocks:
            keys = visuals.tower_keys(block)
            self.log[block] = [part[real] for part, real in zip(keys, visuals.valid, strict=True)]


@dataclass(frozen=True)
class LookBehind(Look):
    """The same of what leaves them."""

    def needs(self, facts: Facts) -> Needs:
        return Needs(signals=tuple(map(TowerStates, self.blocks)) if self.asks else ())

    def at_prompt(self, visuals: Visuals) -> None:
        for block in self.blocks:
            states = visuals.tower_states(block)
            self.log[block] = [part[real] for part, real in zip(states, visuals.valid, strict=True)]


def looked(target: Any, batch: Any, with_: str = "", **options: Any) -> dict[Any, list[Tensor]]:
    look = Look(**options)
    with vtokens.attach(target, [*vtokens.strategies.parse(with_), look] if with_ else look):
        target(**batch)
    return look.log


def tower(target: Any) -> Any:
    inner = target.model
    found = getattr(inner, "visual", None) or getattr(inner, "vision_model", None) or inner.vision_tower
    return getattr(found, "vision_model", found)


def projected(target: Any, batch: Any, block: int) -> Tensor:
    """(patches, heads, d): what the key projection of a block gives, turned where the tower turns it."""
    seen: list[Tensor] = []
    vision = tower(target)
    if not hasattr(vision, "blocks"):
        attention = vision.encoder.layers[block].self_attn
        hook = attention.k_proj.register_forward_hook(lambda *call: seen.append(call[-1]))
        target(**batch)
        hook.remove()
        keys = torch.cat(seen)[:, int(hasattr(vision.embeddings, "class_embedding")) :].flatten(0, 1)
        return keys.unflatten(1, (attention.num_heads, -1))
    attention, angles = vision.blocks[block].attn, []
    hooks = [
        attention.qkv.register_forward_hook(lambda *call: seen.append(call[-1])),
        attention.register_forward_pre_hook(
            lambda *call: angles.append(call[-1]["position_embeddings"]), with_kwargs=True
        ),
    ]
    target(**batch)
    for hook in hooks:
        hook.remove()
    query, key, _ = seen[0].reshape(len(seen[0]), 3, attention.num_heads, -1).unbind(1)
    return apply_rotary_pos_emb_vision(query, key, *angles[0])[1]


def arranged(family: str, target: Any, batch: Any, patches: Tensor) -> list[Tensor]:
    """Values of patches (P, C) for the visual tokens of each picture: joined and ordered as features are."""
    if family.startswith("qwen"):
        visual, grids = target.model.visual, batch["image_grid_thw"]
        tokens = patches.view(-1, 4, patches.shape[1]).mean(1)
        if hasattr(visual, "window_size"):
            order = get_vision_window_index(grids, 2, window_size=visual.window_size, patch_size=visual.patch_size)[0]
            tokens = torch.empty_like(tokens).index_copy(0, order, tokens)
        return list(tokens.split((grids.prod(1) // 4).tolist()))
    if family == "gemma3":
        joined = torch.arange(64).view(4, 2, 4, 2).permute(0, 2, 1, 3).reshape(16, 4)
        return list(patches.view(-1, 64, patches.shape[1])[:, joined].mean(2))
    if family in ("idefics3", "smolvlm"):
        numbers = torch.arange(36).float().view(1, -1, 1).repeat(1, 1, 32)
        joined = target.model.connector.pixel_shuffle(numbers, 2).view(-1, 4, 32)[..., 0].long()
        return list(patches.view(-1, 36, patches.shape[1])[:, joined].mean(2))
    crops = [len(part) for part in crops_of(batch)]
    planes = patches.view(-1, 16, patches.shape[1]).split(crops)
    if family in ("llava", "paligemma"):
        return [plane[0] for plane in planes]
    sizes = batch["image_sizes"].tolist()
    return [
        part[0] if len(part) == 1 else torch.stack([arrange(one, size) for one in part.unbind(-1)], -1)
        for part, size in zip(planes, sizes, strict=True)
    ]


def feature_block(target: Any) -> int:
    vision = tower(target)
    if hasattr(vision, "blocks"):
        return max(getattr(vision, "fullatt_block_indexes", [len(vision.blocks) - 1]))
    layer = getattr(target.config, "vision_feature_layer", -1)
    return int(layer) % (len(vision.encoder.layers) + 1) - 1


@pytest.mark.parametrize("family", [one for one in EVERY if one != "gemma4"])  # which norms and turns them
def test_they_are_what_the_key_projection_gives(family: str) -> None:
    target, batch = model(family, "pruned"), ragged(family)
    found = looked(target, batch)
    for block, parts in found.items():
        number = feature_block(target) if block is None else block
        keys = projected(target, batch, number)
        expected = arranged(family, target, batch, keys.flatten(1))
        if family in ("idefics3", "smolvlm"):  # whose tiles of one image are one picture
            tiles = iter(expected)
            expected = [torch.cat([*islice(tiles, len(part) // 9)]) for part in parts]
            assert next(tiles, None) is None
        assert len(parts) == len(expected)
        for mine, theirs in zip(parts, expected, strict=True):
            assert mine.dtype == torch.float32
            assert mine.shape[1:] == keys.shape[1:]
            close_pass(mine.flatten(1), theirs)


@pytest.mark.parametrize("family", [one for one in EVERY if one != "gemma4"])
def test_states_are_what_leaves_a_block(family: str) -> None:
    """Of every block that is named, its patches joined and ordered as features are; in a batch as alone."""
    target, batch = model(family, "pruned"), ragged(family)
    look = LookBehind()
    with vtokens.attach(target, look):
        target(**batch)
    vision = tower(target)
    blocks = vision.blocks if hasattr(vision, "blocks") else vision.encoder.layers
    for block, parts in look.log.items():
        seen: list[Tensor] = []
        number = feature_block(target) if block is None else block
        hook = blocks[number].register_forward_hook(lambda *call, to=seen: to.append(call[-1]))
        target(**batch)
        hook.remove()
        rows = torch.cat([one[0] if isinstance(one, tuple) else one for one in seen])
        cls = int(hasattr(getattr(vision, "embeddings", None), "class_embedding"))
        expected = arranged(family, target, batch, rows[:, cls:].flatten(0, 1) if rows.dim() == 3 else rows)
        if family in ("idefics3", "smolvlm"):  # whose tiles of one image are one picture
            tiles = iter(expected)
            expected = [torch.cat([*islice(tiles, len(part) // 9)]) for part in parts]
        assert len(parts) == len(expected)
        for mine, theirs in zip(parts, expected, strict=True):
            close_pass(mine, theirs)


def test_merged_patches_have_the_state_of_their_token() -> None:
    target, batch = model("llava", "pruned"), inputs("llava", ["a <image>"], [[image(56, 56, seed=0)]])
    look = LookBehind(blocks=(None,))
    given: list[Tensor] = []
    hook = target.model.multi_modal_projector.register_forward_pre_hook(lambda m, args: given.append(args[0]))
    with vtokens.attach(target, [look, *vtokens.strategies.parse("dymu(thresholds=(0.3, 0.3), unmerge=False)")]):
        target(**batch)
    hook.remove()
    (states,), rows = look.log[None], given[0].flatten(0, 1)
    assert len(states.unique(dim=0)) == len(rows) < 16
    assert (states[:, None] - rows).abs().amax(-1).amin(1).max() == 0


def test_states_not_asked_for_are_named() -> None:
    target, batch = model("llava", "pruned"), ragged("llava")
    with (
        pytest.raises(ValueError, match="did not ask for the tower's states") as refused,
        vtokens.attach(target, LookBehind(blocks=(1,), asks=False)),
    ):
        target(**batch)
    assert "Needs(signals=(TowerStates(block=1),))" in "".join(refused.value.__notes__)


@pytest.mark.parametrize("family", EVERY)
def test_a_batch_has_those_of_each_sample_alone(family: str) -> None:
    target = model(family, "pruned")
    samples = {"a <image>": [(100, 60)], "b <image> and <image>": [(84, 112), (60, 60)]}
    groups = [[image(*size, seed=number) for number, size in enumerate(sizes)] for sizes in samples.values()]
    together = looked(target, inputs(family, list(samples), groups))[None]
    each = zip(samples, groups, strict=True)
    alone = [part for prompt, group in each for part in looked(target, inputs(family, [prompt], [group]))[None]]
    assert len(together) == len(alone)
    for mine, theirs in zip(together, alone, strict=True):
        close_pass(mine, theirs)


@dataclass(frozen=True)
class LookFirst(Look):
    """Writes down which positions hold copies of one token, too."""

    def at_prompt(self, visuals: Visuals) -> None:
        super().at_prompt(visuals)
        copies = visuals.copies()
        assert copies is not None
        self.log["copies"] = [part[real] for part, real in zip(copies, visuals.valid, strict=True)]


@pytest.mark.parametrize("family", ["llava", "llava_onevision"])
def test_merged_patches_have_the_keys_of_their_token(family: str) -> None:
    """In a block behind a merge; each of them one that the projection gave there, and as many as there are tokens."""
    target, batch = model(family, "pruned"), inputs(family, ["a <image>"], [[image(56, 56, seed=0)]])
    block, seen = feature_block(target), list[Tensor]()
    hook = tower(target).encoder.layers[block].self_attn.k_proj.register_forward_hook(lambda *c: seen.append(c[-1]))
    look = LookFirst(blocks=(None,))
    with vtokens.attach(target, [look, *vtokens.strategies.parse("dymu(thresholds=(0.3, 0.3), unmerge=False)")]):
        target(**batch)
    hook.remove()
    given = torch.cat(seen).flatten(0, 1)
    [keys, *_], [copies, *_] = look.log[None], look.log["copies"]
    flat = keys.flatten(1)
    assert (flat[:, None] - given).abs().amax(-1).amin(1).max() == 0
    same = copies[:, None] == copies
    assert same.sum() > len(same)
    assert torch.equal((flat[:, None] == flat).all(-1), same)


def test_what_is_merged_behind_the_tower_keeps_its_keys() -> None:
    target, batch = model("gemma3", "pruned"), ragged("gemma3")
    look = LookFirst(blocks=(None,))
    with vtokens.attach(target, [look, *vtokens.strategies.parse("dymu(thresholds=(0.2,), unmerge=False)")]):
        target(**batch)
    for mine, theirs in zip(look.log[None], looked(target, batch)[None], strict=True):
        close_pass(mine, theirs)


@dataclass(frozen=True)
class Unlike(ScorePruner):
    """Keeps the tokens whose tower keys, averaged over heads, are least like the picture's mean."""

    def needs(self, facts: Facts) -> Needs:
        return Needs(signals=(TowerKeys(),))

    def score(self, visuals: Visuals) -> Tensor:
        keys = torch.nn.functional.normalize(visuals.tower_keys().mean(2), dim=-1) * visuals.valid[..., None]
        return -(keys @ keys.sum(1)[..., None])[..., 0]


@pytest.mark.parametrize("family", FAMILIES)
def test_features_that_were_stored_bring_them_along(family: str, tmp_path: Path) -> None:
    """Features of the tower, written to a file and read again, are pruned as pixels are."""
    target, batch = model(family, "pruned"), dict(inputs(family, ["what is <image> this"], [[image(84, 60, seed=3)]]))
    call = inspect.signature(target.get_image_features).parameters
    given = {name: value for name, value in batch.items() if name in call}
    rest = {name: value for name, value in batch.items() if name != "pixel_values"}
    with vtokens.attach(target, Unlike(keep=3)) as handle:
        expected = target(**batch).logits
        kept = handle.report().samples[0].pictures[0].kept[0].tolist()
        torch.save(dict(target.get_image_features(**given, return_dict=True)), tmp_path / "features.pt")
        made = target.get_image_features(**given, return_dict=True)
        for name, value in torch.load(tmp_path / "features.pt", weights_only=True).items():
            made[name] = value
        assert not isinstance(made["_vtokens_tower_run"], Mark)
        assert torch.equal(target(**rest, mm_encoder_outputs={"image": made}).logits, expected)
        assert handle.report().samples[0].pictures[0].kept[0].tolist() == kept


@pytest.mark.parametrize(
    ("block", "error", "says"),
    [(4, ValueError, "the nearest is 3"), (-5, ValueError, "-4 to 3"), (1.0, TypeError, "whole number")],
)
def test_blocks_that_are_not_there_are_refused(block: Any, error: type[Exception], says: str) -> None:
    target = build("llava")[0]
    with pytest.raises(error, match=says):
        vtokens.attach(target, Look(blocks=(block,)))


def test_keys_not_asked_for_are_named() -> None:
    target, batch = model("llava", "pruned"), ragged("llava")
    with pytest.raises(ValueError, match="did not ask for the tower's keys") as refused:
        looked(target, batch, blocks=(1,), asks=False)
    assert "Needs(signals=(TowerKeys(block=1),))" in "".join(refused.value.__notes__)


@dataclass(frozen=True)
class Salient(ScorePruner):
    """Keeps what one block of the tower looks at."""

    block: int = 0

    def needs(self, facts: Facts) -> Needs:
        return Needs(signals=(Saliency((self.block,)),))

    def score(self, visuals: Visuals) -> Tensor:
        return visuals.saliency((self.block,))


@pytest.mark.parametrize("block", [4, 99, -5])
def test_saliency_of_a_block_that_is_not_there_is_refused(block: int) -> None:
    """It was that of another block, counted round."""
    with pytest.raises(ValueError, match="the block of Saliency"):
        vtokens.attach(model("llava", "pruned"), Salient(block=block))
    vtokens.attach(model("llava", "pruned"), Salient(block=-4)).detach()
