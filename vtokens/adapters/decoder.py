"""What a decoder has to be like, whatever the family: found out at attach time, before a pass dies inside of it."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from typing import Any

from torch import nn
from transformers import DynamicCache

from vtokens.adapters.base import Adapter
from vtokens.adapters.layers import KINDS, LayerSpec

_MODALITIES = ("image", "video", "audio")
_TURNS = ("apply_rotary_pos_emb", "apply_multimodal_rotary_pos_emb")
_COMPLEX = ("apply_rotary_emb",)
_WRAPPED = "_checkpoint_wrapped_module"
_CACHES: dict[tuple[type, tuple[LayerSpec, ...]], frozenset[str]] = {}
"""By the class of a config and the layers that it tells of: the layers of the cache that transformers makes of it."""
_MOST = 64
"""Of these: a program that goes through many models begins anew, as each keeps a class alive."""


def check_decoder(adapter: Adapter) -> None:
    """Raise `ValueError`, naming the decoder, if it is not what its family declares.

    Each layer that attends must have one `self_attn` over all that came before, which takes rotary embeddings, calls
    transformers' attention interface, and keeps layer i's keys in the cache's layer i. The multimodal module must call
    no tower that was not declared.
    """
    _check_towers(adapter)
    language_model = adapter.language_model
    reason = next(_reasons(adapter), None)
    if reason is not None:
        raise ValueError(
            f"a {type(language_model).__name__} as decoder is not supported: {reason}. Decoders built like Llama, "
            "Mistral and Qwen2 or Qwen3 are: rotary embeddings, softmax attention in every layer's self_attn"
        )
    check_gaps(adapter)


def inside(module: Any) -> Any:
    """What torch's activation wrapper holds: it hands attributes on, but those set on it stay there."""
    # Of a plain module, not by its attribute: torch words an error where there is none, which takes ten times as long.
    if getattr(type(module), "__getattr__", None) is nn.Module.__getattr__:
        return module._modules.get(_WRAPPED, module)
    return getattr(module, _WRAPPED, module)


def beside(kind: type, name: str) -> Any:
    """What is called `name` in the module that defines a class, or one of its bases; None if nothing is.

    FSDP2 gives a module it shards a class made on the spot, whose first base with code of its own is the genuine one.
    """
    homes = (vars(sys.modules[base.__module__]) for base in kind.__mro__)
    return next((home[name] for home in homes if name in home), None)


def mlp_of(layer: Any) -> Any:
    """The MLP of a decoder layer, whatever it is called there; None if it has none."""
    return getattr(layer, "mlp", None) or getattr(layer, "feed_forward", None)


@functools.cache
def _computes_with_positions(kind: type) -> bool:
    """Whether attention of this class scales queries by `position_ids`, as Llama 4 does."""
    return beside(kind, "get_llama_4_attn_scale") is not None


def reads_positions(adapter: Adapter) -> bool:
    """Whether the layers of a decoder compute with `position_ids`, beside rotary embeddings made of them."""
    attention = getattr(adapter.layers[0], "self_attn", None)
    kind: Any = type(inside(attention))
    return attention is not None and _computes_with_positions(kind)


def check_gaps(adapter: Adapter) -> None:
    """Raise `ValueError` if layers have to be told positions that flash attention misreads once tokens are gone."""
    used = str(adapter.language_model.config._attn_implementation)
    if "flash" in used and reads_positions(adapter):
        raise ValueError(
            f"the layers of a {type(adapter.language_model).__name__} scale queries by their positions, and {used!r} "
            "takes the gaps that dropped tokens leave in them for the bounds of packed samples: use "
            "attn_implementation='sdpa'"
        )


def _check_towers(adapter: Adapter) -> None:
    """Raise `ValueError` for a tower that the family does not declare, or has not as declared."""
    kind, towers = type(adapter.multimodal), adapter.anatomy.towers
    declared = {*towers, *adapter.anatomy.aside}
    others = [one for one in _MODALITIES if one not in declared and hasattr(kind, f"get_{one}_features")]
    if others:
        raise ValueError(
            f"a {kind.__name__} encodes {', '.join(others)} too, and its adapter declares {', '.join(towers)} only "
            "(Anatomy.towers, or Anatomy.aside if it is left alone): tokens of another modality would pass for text"
        )
    for tower in {*adapter.towers.values()}:
        if None in (tower.attentions or ([] if tower.opaque else [None])):
            raise ValueError(f"a block of the {type(tower.module).__name__} has no attention where it is declared")
    built = {(len(tower.blocks), tower.feature_block, tower.has_cls) for tower in adapter.towers.values()}
    if len(built) > 1:
        raise ValueError(
            f"a {kind.__name__} has a tower for each of {', '.join(towers)}, and they differ in their blocks or class "
            "tokens: strategies name blocks once for all of them, so that towers built alike are supported"
        )


def _reasons(adapter: Adapter) -> Iterator[str]:
    """What is other than it has to be; those that could not be looked at without the earlier ones come later."""
    language_model = adapter.language_model
    layers, config = getattr(language_model, "layers", None), language_model.config
    if layers is None:
        yield "it has no `layers`"
        return
    types = getattr(config, "layer_types", None) or ()
    others = sorted({name for name in types if KINDS.get(name) not in adapter.anatomy.kinds})
    if others:
        yield f"its config names layers of {', '.join(others)}"
        return
    visibility = adapter.anatomy.visibility
    sees = getattr(config, "use_bidirectional_attention", None)
    if (sees is True and not (visibility and visibility.prefix)) or sees == "all":
        yield "its layers see all that comes after them (use_bidirectional_attention)"
    if getattr(language_model, "rotary_emb", None) is None:
        yield "it has no `rotary_emb`"
    seen: set[type] = set()
    for (index, layer), spec in zip(enumerate(layers), adapter.specs, strict=True):
        attention = getattr(layer, "self_attn", None)
        if spec.kind in ("cross", "linear"):
            if attention is not None:
                named = "cross-attention" if spec.kind == "cross" else "a layer without attention"
                yield f"layer {index}, a {type(layer).__name__}, has `self_attn`, and its config names {named}"
            continue
        if attention is None:
            yield f"layer {index}, a {type(layer).__name__}, has no `self_attn`"
            return
        if (kind := type(inside(attention))) not in seen:  # a decoder has many layers of few classes
            seen.add(kind)
            yield from _reasons_of_class(kind, adapter.anatomy.complex_angles)
        yield from _reasons_of(attention, index)
        if hasattr(attention, "kv_lora_rank") and not adapter.anatomy.latent:
            yield f"its {type(inside(attention)).__name__} caches what all heads share in place of keys and values"
    told = type(config), adapter.specs
    cached = _CACHES.get(told)
    if cached is None:  # what only watches is put on a model in every call
        if len(_CACHES) >= _MOST:
            _CACHES.clear()
        cached = _CACHES[told] = frozenset(type(layer).__name__ for layer in DynamicCache(config=config).layers)
    known = {"DynamicLayer", "DynamicSlidingWindowLayer"}
    known |= {"LinearAttentionLayer"} if "linear" in adapter.anatomy.kinds else set()
    if any(spec.slot != index for index, spec in enumerate(adapter.specs)):
        known.add("DummyLayer")  # of layers that attend to the keys of earlier ones
    if cached - known:
        yield f"its cache holds a {min(cached - known)}"


def _reasons_of_class(kind: type, complex_angles: bool) -> Iterator[str]:
    if beside(kind, "ALL_ATTENTION_FUNCTIONS") is None:
        yield f"its {kind.__name__} does not call transformers' attention interface"
    if not any(beside(kind, name) for name in (_COMPLEX if complex_angles else _TURNS)):
        numbers = "complex numbers" if complex_angles else "cosines and sines"
        yield f"its {kind.__name__} takes other position embeddings than {numbers}"


def _reasons_of(attention: Any, index: int) -> Iterator[str]:
    kind = type(inside(attention))
    if not hasattr(attention, "config"):
        yield f"its {kind.__name__} does not call transformers' attention interface"
    if getattr(attention, "layer_idx", None) != index:
        yield f"layer {index} keeps its keys in layer {getattr(attention, 'layer_idx', None)} of the cache"
    if getattr(attention, "sinks", None) is not None:
        yield f"its {kind.__name__} has learnt sinks, which draw attention that no token gets"
