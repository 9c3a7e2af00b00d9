"""What a decoder is handed beside its states: only what is known to follow dropped tokens goes along.

Whoever drops positions, or runs a second sequence beside the first, has to cut each argument that has one entry a
position. Of an argument that nobody declared this is not known: to hand it on whole, or to leave it out, would be wrong
without a word.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers.masking_utils import find_packed_sequence_indices

from vtokens.adapters import Adapter
from vtokens.adapters.decoder import inside
from vtokens.core.prompts import POSITION_KINDS

KNOWN = frozenset(
    (
        *("input_ids", "inputs_embeds", "attention_mask", "position_ids", "past_key_values", "use_cache"),
        *("output_attentions", "output_hidden_states", "output_router_logits", "return_dict", "logits_to_keep"),
        "cache",  # the name of `past_key_values` from transformers 5.24 on
        # Losses read these, no layer does.
        *("labels", "shift_labels", "num_items_in_batch"),
        # Processors make these, no decoder reads them.
        *POSITION_KINDS,
    )
)
"""Keyword arguments that the engine cuts itself, or that no decoder layer reads."""
PACKING = frozenset(("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "seq_idx"))
"""Keyword arguments that tell samples packed into one row apart."""
_UNPACK = (
    "its samples would see each other where tokens are dropped or reweighed. Unpack them: give each a row of its own, "
    "padded under an attention_mask (a collator without packing or padding-free mode), or detach() the strategy"
)


def check_arguments(adapter: Adapter, kwargs: Mapping[str, Any]) -> None:
    """Raise `ValueError` if a decoder is about to get what strategies cannot act beside.

    Args:
        adapter: of the model; may declare more arguments (`Anatomy.arguments`).
        kwargs: what the language model is about to get, in a prompt with pictures or behind one: entries for each
            position would be too many over a cache that holds less than was fed.
    """
    declared = adapter.anatomy.arguments
    for name, value in kwargs.items():
        if value is None or name in KNOWN or name in declared:
            continue
        if name in PACKING:
            raise ValueError(f"{name} is given, so rows are packed: {_UNPACK}")
        if name == "is_causal" and not value:
            raise ValueError(
                "is_causal=False lets positions see what comes after them, which strategies count on not to happen: "
                "leave it out, or detach() the strategy"
            )
        if _by_position(value):
            raise ValueError(
                f"the decoder of a {type(adapter.multimodal).__name__} is given {name!r}, and no adapter says how it "
                "follows tokens that are dropped, or a second sequence: leave it out if it is yours, or detach() the "
                "strategy. An adapter of that family may declare it (Anatomy.side_inputs)"
            )
    _check_positions(adapter, kwargs)


def check_mask(mask: Any) -> None:
    """Raise `ValueError` if an attention mask says more than which positions are padding."""
    if mask is not None and (not isinstance(mask, Tensor) or mask.dim() != 2):
        raise ValueError(
            "only a 2-D attention_mask (batch, length) can be cut to the tokens kept: pass the padding mask, "
            "not a prepared one, or detach() the strategy"
        )


def check_signature(adapter: Adapter) -> None:
    """Raise `ValueError` if a decoder takes keyword arguments that its family does not declare.

    A user may give more by `**kwargs`; these are looked at in the pass (`check_arguments`).
    """
    decoder = type(inside(adapter.language_model))
    _, *taken = inspect.signature(decoder.forward).parameters.values()
    names = [one.name for one in taken if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]
    known = KNOWN | adapter.anatomy.arguments
    others = [name for name in names if name not in known]
    if others:
        named = ", ".join(map(repr, others))
        raise ValueError(
            f"a {decoder.__name__} as decoder takes {named}, and no adapter says how it follows "
            "tokens that are dropped, or a second sequence: an adapter of that family may declare it "
            "(Anatomy.side_inputs)"
        )


def named(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call of a module by their names, those that were given by position too."""
    if not args:
        return kwargs
    _, *names = inspect.signature(type(inside(module)).forward).parameters
    return {**dict(zip(names, args, strict=False)), **kwargs}


def side_inputs(adapter: Adapter, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """What the adapter declared, of what the language model is about to get: a second sequence gets it too."""
    return {name: kwargs[name] for name in adapter.anatomy.side_inputs if name in kwargs}


def _by_position(value: Any) -> bool:
    """Whether there may be an entry a position in it."""
    if isinstance(value, Tensor):
        return value.dim() > 0
    if isinstance(value, Mapping):
        return any(map(_by_position, value.values()))
    return isinstance(value, list | tuple) and any(map(_by_position, value))


def _check_positions(adapter: Adapter, kwargs: Mapping[str, Any]) -> None:
    """Raise `ValueError` if positions start again in a row, which is packing to transformers where there is no mask."""
    positions = kwargs.get("position_ids")
    if kwargs.get("attention_mask") is not None or not isinstance(positions, Tensor) or positions.shape[-1] == 1:
        return
    told = positions if positions.dim() == 2 else None
    if positions.dim() == 3 and len(positions) == adapter.anatomy.axes + 1:
        told = positions[0]  # pictures make rotary rows go back; a row for text comes first where somebody packed
    if told is not None and find_packed_sequence_indices(told) is not None:
        raise ValueError(
            f"position_ids are not consecutive, and there is no attention_mask, so rows are packed: {_UNPACK}"
        )
