"""Masks that transformers prepares for static caches before the model is called: the padding is read off them again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vtokens.core.compat import given_cache
from vtokens.engine.state.both_ways import BothWays
from vtokens.engine.state.cache_layers import first_keys
from vtokens.engine.state.slots import static_layer


def with_padding_mask(
    kwargs: dict[str, Any], past: int, whole: bool, both_ways: BothWays | None = None
) -> dict[str, Any]:
    """The inputs of a language model, with the padding mask (B, past + W) in place of one over slots made of it.

    Inputs without a mask over slots stay as they are, and so do those whose mask says more than padding: other than
    causal attention, or attention to the end of each stretch that sees itself both ways.

    Args:
        past: positions fed before.
        whole: look at the whole mask; False if the last query's will do.
        both_ways: which positions see what comes after them; None if none do.
    """
    cache, mask = given_cache(kwargs), kwargs.get("attention_mask")
    if cache is None or not cache.layers or static_layer(cache.layers[first_keys(cache)]) is None:
        return kwargs
    if isinstance(mask, Mapping) and "full_attention" in mask:
        mask = mask["full_attention"]
    if mask is None:  # nothing is padding: attention is causal by itself
        return {**kwargs, "attention_mask": None}
    if not isinstance(mask, Tensor) or mask.dim() != 4:
        return kwargs
    queries = mask.shape[2]
    seen = mask[:, 0] if mask.dtype == torch.bool else mask[:, 0] == 0
    padding = seen[:, -1, : past + queries]
    if whole:
        place = torch.arange(seen.shape[-1], device=seen.device)
        until = place[None, :queries] if both_ways is None else both_ways.until(None, seen.device)
        causal = place <= until[..., None] + past
        real = torch.nn.functional.pad(padding, (0, seen.shape[-1] - padding.shape[-1]))
        if not torch.equal(seen, (causal & real[:, None]).expand_as(seen)):
            return kwargs
    return {**kwargs, "attention_mask": padding}
