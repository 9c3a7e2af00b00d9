"""What the tests of single strategies share: a probe that reads signals, reference scores, and readings of a report."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers.image_processing_utils import select_best_resolution
from transformers.models.qwen2_vl.modeling_qwen2_vl import apply_rotary_pos_emb_vision
from transformers.vision_utils import get_vision_window_index

import vtokens
from tests.families import build, image, inputs
from tests.families.configs import PINPOINTS
from vtokens.strategies import Facts, Needs, Saliency, Selection, Strategy, Visuals, get, list_strategies, registry

SIDE = 4  # patches along one side of a tower input of the LLaVA families
pair = cache(build)  # models and processors are only read by these tests


@contextmanager
def registry_restored() -> Iterator[None]:
    """What is registered inside is forgotten afterwards, so that no other test draws or lists it."""
    for name in list_strategies():  # or built-in ones would be imported, and then forgotten, inside
        get(name)
    before, aliases = dict(registry._strategies), dict(registry._aliases)
    try:
        yield
    finally:
        registry._strategies.clear()
        registry._strategies.update(before)
        registry._aliases.clear()
        registry._aliases.update(aliases)


def refuses(spec: str, reason: str) -> None:
    """A LLaVA of four layers refuses a spec where it is written or attached, says why, and holds nothing of it."""
    model = pair("llava")[0]
    with pytest.raises(ValueError, match=reason):
        vtokens.attach(model, spec)
    assert vtokens.attachment(model) is None


@dataclass(frozen=True)
class Probe(Strategy):
    """Keeps everything and writes down each signal it asked for, picture by picture or for all positions."""

    wanted: tuple[Any, ...] = (Saliency(),)
    layers: tuple[int, ...] = ()
    log: dict[Any, Any] = field(default_factory=dict, compare=False)

    def needs(self, facts: Facts) -> Needs:
        return Needs(signals=self.wanted, layer=self.layers)

    def at_prompt(self, visuals: Visuals) -> Selection | None:
        for signal in self.wanted:
            if isinstance(signal, Saliency):
                scores = visuals.saliency(signal.blocks, signal.rows, signal.heads)
                self.log[signal] = [s[v] for s, v in zip(scores, visuals.valid, strict=True)]
        return None

    def at_layer(self, visuals: Visuals, index: int) -> Selection | None:
        for signal in self.wanted:
            if not isinstance(signal, Saliency) and signal.layer == index - 1:
                self.log[signal] = visuals.received(signal.layer, signal.rows)
        return None


@torch.no_grad()
def probe(model: Any, batch: Any, *wanted: Any) -> dict[Any, Any]:
    """The signals asked for, as a strategy sees them in one forward pass."""
    layers = tuple({s.layer + 1 for s in wanted if not isinstance(s, Saliency)})
    spy = Probe(wanted=wanted, layers=layers)
    with vtokens.attach(model, spy):
        model(**batch)
    return spy.log


@torch.no_grad()
def report(model: Any, batch: Any, strategy: Any) -> Any:
    """The report of one forward pass under a strategy."""
    with vtokens.attach(model, strategy) as handle:
        model(**batch)
        return handle.report()


def kept(model: Any, batch: Any, strategy: Any, layer: int = -1) -> list[list[int]]:
    """For each picture, in order: the ranks among its own visual tokens of those that `layer` still sees."""
    out = []
    for sample in report(model, batch, strategy).samples:
        for part in sample.pictures:
            rank = (part.picture.view >= 0).cumsum() - 1
            out.append(rank[part.kept[layer]].tolist())
    return out


def top(scores: Tensor, count: int) -> list[int]:
    """The indices of the highest scores, ascending."""
    return sorted(scores.topk(count).indices.tolist())


def crops_of(batch: Any) -> list[Tensor]:
    """The tower inputs of each image (crops, 3, H, W), without the crops that only pad the batch."""
    pixels = batch["pixel_values"]
    if pixels.dim() == 4:
        return list(pixels[:, None])
    # LLaVA-OneVision cuts only what stands alone in its sample.
    groups = batch["batch_num_images"].tolist() if "batch_num_images" in batch else [1] * len(pixels)
    whole = [number > 1 for number in groups for _ in range(number)]
    out = []
    for planes, size, one in zip(pixels, batch["image_sizes"].tolist(), whole, strict=True):
        height, width = select_best_resolution(tuple(size), PINPOINTS)
        out.append(planes[: 1 if one else 1 + height * width // (14 * SIDE) ** 2])
    return out


def arrange(scores: Tensor, size: list[int]) -> Tensor:
    """AnyRes crops (1 + tiles, patches) as their features are arranged: thumbnail, then the unpadded canvas by rows."""
    height, width = select_best_resolution(tuple(size), PINPOINTS)
    rows, columns = height // (14 * SIDE), width // (14 * SIDE)
    canvas = torch.empty(rows * SIDE, columns * SIDE)
    for number, tile in enumerate(scores[1:]):
        y, x = divmod(number, columns)
        canvas[y * SIDE : (y + 1) * SIDE, x * SIDE : (x + 1) * SIDE] = tile.view(SIDE, SIDE)
    if height / size[0] > width / size[1]:  # bars above and below
        bar = (canvas.shape[0] - int(size[0] * columns * SIDE / size[1])) // 2
        canvas = canvas[bar : canvas.shape[0] - bar]
    else:
        bar = (canvas.shape[1] - int(size[1] * rows * SIDE / size[0])) // 2
        canvas = canvas[:, bar : canvas.shape[1] - bar]
    return torch.cat([scores[0], canvas.flatten()])


@torch.no_grad()
def llava_scores(family: str, batch: Any, block: int) -> list[Tensor]:
    """Tower scores of each image from an eager copy's maps: the [CLS] row, or the mean over rows without one."""
    eager, _ = pair(family, attn_implementation="eager")
    out = []
    for number, crops in enumerate(crops_of(batch)):
        maps = eager.model.vision_tower(crops, output_attentions=True).attentions[block]
        scores = maps[:, :, 0, 1:].mean(1) if maps.shape[-1] > SIDE**2 else maps.mean((1, 2))
        out.append(scores[0] if len(scores) == 1 else arrange(scores, batch["image_sizes"][number].tolist()))
    return out


@torch.no_grad()
def qwen_scores(model: Any, batch: Any, block: int) -> list[Tensor]:
    """Attention each merged token receives from the whole picture, dense in float64, in raster order, summing to 1."""
    visual, maps = model.model.visual, []

    def look(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden, heads = kwargs.get("hidden_states", args[0] if args else None), module.num_heads
        if hasattr(module, "qkv"):
            q, k, _ = module.qkv(hidden).reshape(len(hidden), 3, heads, -1).permute(1, 0, 2, 3).unbind(0)
        else:
            q, k = (part(hidden).reshape(len(hidden), heads, -1) for part in (module.q, module.k))
        q, k = (t.double() for t in apply_rotary_pos_emb_vision(q, k, *kwargs["position_embeddings"]))
        square = torch.zeros(len(hidden), len(hidden), dtype=torch.float64)
        bounds = kwargs["cu_seqlens"].tolist()
        for first, last in pairwise(bounds):
            part = slice(first, last)
            products = torch.einsum("qhd,khd->hqk", q[part], k[part]) / q.shape[-1] ** 0.5
            square[part, part] = products.softmax(-1).mean(0)
        maps.append(square)

    hook = visual.blocks[block].attn.register_forward_pre_hook(look, with_kwargs=True)
    visual(batch["pixel_values"], grid_thw=batch["image_grid_thw"])
    hook.remove()
    merged = maps[0].sum(0).view(-1, 4).mean(1)
    if hasattr(visual, "window_size"):
        order, _ = get_vision_window_index(
            batch["image_grid_thw"], 2, window_size=visual.window_size, patch_size=visual.patch_size
        )
        raster = torch.empty_like(merged)
        raster[order] = merged
        merged = raster
    sizes = [int(np.prod(grid)) // 4 for grid in batch["image_grid_thw"].tolist()]
    return [part / part.sum() for part in merged.split(sizes)]


def three_rows(family: str) -> Any:
    """A left-padded batch of one, two and no images, all of different shapes."""
    pictures = [[image(100, 60, seed=0)], [image(84, 112, seed=1), image(84, 84, seed=2)], []]
    prompts = ["Is there a cat?", "Compare <image> with <image> please, and say which one is red", "hello there"]
    return inputs(pair(family)[1], prompts, pictures)
