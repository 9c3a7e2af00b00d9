"""What a decoder has to be like, whatever the family: found out at attach time, before a pass dies inside of it."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from typing import Any

from transformers import DynamicCache

_KNOWN = ("full_attention", "sliding_attention")
_TURNS = ("apply_rotary_pos_emb", "apply_multimodal_rotary_pos_emb")


def check_decoder(language_model: Any) -> None:
    """Raise `ValueError`, naming the decoder, if rows cannot be gathered in it, attention observed or caches cut.

    Each layer must have one `self_attn` over all that came before, which takes rotary embeddings, calls transformers'
    attention interface, and keeps layer i's keys in the cache's layer i.
    """
    reason = next(_reasons(language_model), None)
    if reason is not None:
        raise ValueError(
            f"a {type(language_model).__name__} as decoder is not supported: {reason}. Decoders built like Llama, "
            "Mistral and Qwen2 or Qwen3 are: rotary embeddings, softmax attention in every layer's self_attn"
        )


def inside(module: Any) -> Any:
    """What torch's activation wrapper holds: it hands attributes on, but those set on it stay there."""
    return getattr(module, "_checkpoint_wrapped_module", module)


def beside(kind: type, name: str) -> Any:
    """What is called `name` in the module that defines a class, or one of its bases; None if nothing is.

    FSDP2 gives a module it shards a class made on the spot, whose first base with code of its own is the genuine one.
    """
    homes = (vars(sys.modules[base.__module__]) for base in kind.__mro__)
    return next((home[name] for home in homes if name in home), None)


def _reasons(language_model: Any) -> Iterator[str]:
    """What is other than it has to be; those that could not be looked at without the earlier ones come later."""
    layers, config = getattr(language_model, "layers", None), language_model.config
    if layers is None:
        yield "it has no `layers`"
        return
    others = sorted({kind for kind in getattr(config, "layer_types", None) or () if kind not in _KNOWN})
    if others:
        yield f"its config names layers of {', '.join(others)}"
    rotary = getattr(language_model, "rotary_emb", None)
    if rotary is None:
        yield "it has no `rotary_emb`"
    elif "layer_type" in inspect.signature(rotary.forward).parameters:
        yield "its rotary embeddings differ from layer to layer"
    for index, layer in enumerate(layers):
        attention = getattr(layer, "self_attn", None)
        if attention is None:
            yield f"layer {index}, a {type(layer).__name__}, has no `self_attn`"
            return
        yield from _reasons_of(attention, index)
    cached = {type(layer).__name__ for layer in DynamicCache(config=config).layers}
    if cached - {"DynamicLayer", "DynamicSlidingWindowLayer"}:
        yield f"its cache holds a {min(cached - {'DynamicLayer'})}"


def _reasons_of(attention: Any, index: int) -> Iterator[str]:
    kind = type(inside(attention))
    if beside(kind, "ALL_ATTENTION_FUNCTIONS") is None or not hasattr(attention, "config"):
        yield f"its {kind.__name__} does not call transformers' attention interface"
    if not any(beside(kind, name) for name in _TURNS):
        yield f"its {kind.__name__} takes other position embeddings than cosines and sines"
    if getattr(attention, "layer_idx", None) != index:
        yield f"layer {index} keeps its keys in layer {getattr(attention, 'layer_idx', None)} of the cache"
    if getattr(attention, "sinks", None) is not None:
        yield f"its {kind.__name__} has learnt sinks, which draw attention that no token gets"
    if getattr(attention, "attn_logit_softcapping", None) is not None:
        yield f"its {kind.__name__} caps attention scores"
