"""Attention masks for layers that see fewer positions than were fed, made by transformers' own mask functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, causal_mask_function

MaskFunction = Callable[[Any, Any, Any, Any], Any]
"""Of batch, head, query and key indices: whether the query attends to the key, as transformers has it."""


def layer_mask(
    config: Any,
    hidden: Tensor,
    past: int,
    allowed: Tensor | None,
    length: int | None = None,
    rule: MaskFunction | None = None,
    slots: int | None = None,
) -> Any:
    """The mask of one layer, in the form its attention implementation wants.

    Args:
        config: the decoder's config; its `_attn_implementation` decides the form.
        hidden: (B, W, D) states entering the layer.
        past: positions that attention sees before them.
        allowed: bool (B, past + W), False on padding; None if there is none.
        length: positions that attention works on; default W, as many as enter.
        rule: which query sees which key; None is causal.
        slots: keys that attention is given, those not filled yet included; default all that it sees.
    """
    if config._attn_implementation not in ALL_MASK_ATTENTION_FUNCTIONS:
        return None  # as transformers does for an attention function registered without a mask function
    batch = len(hidden)
    length = hidden.shape[1] if length is None else length
    return ALL_MASK_ATTENTION_FUNCTIONS[config._attn_implementation](
        batch_size=batch,
        q_length=length,
        kv_length=past + length if slots is None else slots,
        q_offset=past,
        kv_offset=0,
        mask_function=causal_mask_function if rule is None else rule,
        attention_mask=allowed,
        allow_is_causal_skip=rule is None,
        dtype=hidden.dtype,
        config=config,
        use_vmap=False,
        device=hidden.device,
    )
