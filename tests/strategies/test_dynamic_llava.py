"""Dynamic-LLaVA's stand-in: the first cut alone, by queries and keys read before they are turned."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import vtokens
from tests.engine.masked import decoder_layers
from tests.strategies.helpers import kept, pair, three_rows, top


@torch.no_grad()
def unturned(model: Any, batch: Any, layer: int) -> list[Tensor]:
    """For each row, what each of its visual tokens gets of the last one, head by head, among visual tokens alone."""
    attention, seen = decoder_layers(model)[layer].self_attn, dict[str, Tensor]()
    hooks = [
        getattr(attention, name).register_forward_hook(lambda m, a, out, name=name: seen.update({name: out.double()}))
        for name in ("q_proj", "k_proj")
    ]
    model(**batch)
    for hook in hooks:
        hook.remove()
    found, size = [], attention.head_dim
    for row, ids in enumerate(batch["input_ids"]):
        places = (ids == model.config.image_token_id).nonzero()[:, 0].tolist()
        total = torch.zeros(len(places), dtype=torch.float64)
        heads = seen["q_proj"].shape[-1] // size
        for head in range(heads):
            own = head * (seen["k_proj"].shape[-1] // size) // heads
            query = seen["q_proj"][row, -1, head * size : (head + 1) * size]
            keys = seen["k_proj"][row, places, own * size : (own + 1) * size]
            if places:
                total += (keys @ query / size**0.5).softmax(0) / heads
        found.append(total)
    return found


@torch.no_grad()
def test_the_cut_is_by_unturned_attention() -> None:
    """As many of each picture as are asked for, before the layer that is named."""
    model, batch = pair("llava")[0], three_rows("llava")
    for layer in (1, 3):
        scores = [part for row in unturned(model, batch, layer - 1) for part in row.split(16)]
        chosen = kept(model, batch, f"dynamic_llava(keep=3, layer={layer})")
        assert chosen == [top(part, 3) for part in scores if len(part)]
        before = kept(model, batch, f"dynamic_llava(keep=3, layer={layer})", layer=layer - 1)
        assert [len(picture) for picture in before] == [16, 16, 16]


@torch.no_grad()
def test_keep_all_changes_no_bit_and_a_fifth_stays_by_default() -> None:
    model, batch = pair("llava")[0], three_rows("llava")
    plain = model(**batch).logits
    with vtokens.attach(model, "dynamic_llava(keep=1.0)"):
        assert torch.equal(model(**batch).logits, plain)
    assert [len(picture) for picture in kept(model, batch, "dynamic_llava")] == [3, 3, 3]


@torch.no_grad()
def test_turned_attention_is_that_of_fastv() -> None:
    """Where the rotary embedding cannot be undone, `rotary=true` ranks by attention as it is."""
    model, batch = pair("llava")[0], three_rows("llava")
    assert kept(model, batch, "dynamic_llava(keep=3, layer=3, rotary=true)") == kept(
        model, batch, "fastv(keep=3, layer=3)"
    )
    turned = pair("aya_vision")[0]
    with pytest.raises(ValueError, match="ask for it with rotary=True"):
        vtokens.attach(turned, "dynamic_llava")
    vtokens.attach(turned, "dynamic_llava(rotary=true)").detach()
