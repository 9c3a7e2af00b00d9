"""The other ways of reading a tower's attention, against dense attention in float64 from what its projections give."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.mllama.modeling_mllama import _prepare_aspect_ratio_attention_mask

from tests.limits import close, close_pass
from tests.strategies.helpers import arrange, crops_of, pair, probe, three_rows
from vtokens.engine.stages.tower import _of_tiles
from vtokens.engine.stages.votes import Read
from vtokens.strategies import Saliency


def projected(family: str, batch: Any, block: int) -> list[tuple[Tensor, Tensor, int]]:
    """For each image: queries and keys (crops, tokens, C) in float64 of a tower block, and its heads."""
    model, seen = pair(family)[0], {}
    own = model.model.vision_tower
    attention = getattr(own, "encoder", None) or own.vision_model.encoder
    module = attention.layers[block].self_attn
    out = []
    hooks = [
        getattr(module, name).register_forward_hook(lambda m, a, output, name=name: seen.update({name: output}))
        for name in ("q_proj", "k_proj")
    ]
    for crops in crops_of(batch):
        own(crops)
        out.append((seen["q_proj"].double(), seen["k_proj"].double(), module.num_heads))
    for hook in hooks:
        hook.remove()
    return out


def dense(query: Tensor, key: Tensor, heads: int) -> Tensor:
    """(crops, heads, tokens, tokens): attention of each head."""
    q, k = (part.unflatten(2, (heads, -1)).transpose(1, 2) for part in (query, key))
    return ((q @ k.transpose(2, 3)) / q.shape[-1] ** 0.5).softmax(-1)


@pytest.mark.parametrize("family", ["llava", "llava_next", "llava_onevision"])
@pytest.mark.parametrize("block", [1, 3])
@torch.no_grad()
def test_all_rows_and_one_wide_head(family: str, block: int) -> None:
    model, batch = pair(family)[0], three_rows(family)
    all_rows, wide = Saliency((block,), rows="all"), Saliency((block,), heads="joint")
    both = Saliency((block,), rows="all", heads="joint")
    log = probe(model, batch, Saliency((block,)), all_rows, wide, both)
    patches = slice(0 if family == "llava_onevision" else 1, None)
    for number, (query, key, heads) in enumerate(projected(family, batch, block)):
        maps, one = dense(query, key, heads).mean(1), dense(query, key, 1)[:, 0]
        asked = one.sum(1) if family == "llava_onevision" else one[:, 0]
        for signal, scores in ((all_rows, maps.sum(1)), (wide, asked), (both, one.sum(1))):
            scores = scores[:, patches].float()
            whole = scores[0] if len(scores) == 1 else arrange(scores, batch["image_sizes"][number].tolist())
            close_pass(log[signal][number], whole)
        if family != "llava_onevision":
            assert not torch.allclose(log[all_rows][number], log[Saliency((block,))][number], rtol=1e-2)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava_onevision"])
def test_without_a_class_token_all_rows_are_the_default(family: str) -> None:
    model, batch = pair(family)[0], three_rows(family)
    log = probe(model, batch, Saliency(), Saliency(rows="all"))
    for one, other in zip(log[Saliency()], log[Saliency(rows="all")], strict=True):
        assert torch.equal(one, other)


def test_padding_of_tiles_has_no_vote() -> None:
    """Mllama pads tiles and the patches in them: what votes is what transformers' own mask does not call padding."""
    generator = torch.Generator().manual_seed(0)
    tiles = torch.tensor([[1, 1, 0], [1, 0, 0]])
    query, key = (torch.randn(2, 2, 24, 4, generator=generator) for _ in range(2))
    mask = _prepare_aspect_ratio_attention_mask(tiles, num_patches=5, target_length=8, dtype=torch.float32)
    read = Read(query, key, 0.5, mask, None)
    maps = (query.double() @ key.double().transpose(2, 3) * 0.5).softmax(-1).mean(1)
    for number, real in enumerate(tiles):
        rows = [8 * tile + patch for tile in range(3) for patch in range(5) if real[tile]]
        close(_of_tiles(read, tiles, True).view(2, 24)[number], maps[number, rows].sum(0).float(), 24, 3)
        asked = maps[number, [8 * tile for tile in range(3) if real[tile]]].sum(0).float()
        close(_of_tiles(read, tiles, False).view(2, 24)[number], asked, 24, 3)


@pytest.mark.parametrize(
    ("signal", "message"),
    [(Saliency(rows="some"), "rows"), (Saliency(heads="min"), "heads")],  # type: ignore[arg-type]
)
def test_other_ways_are_refused(signal: Saliency, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        probe(pair("llava")[0], {}, signal)
