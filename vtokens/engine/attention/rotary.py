"""Rotary embeddings of decoder layers, tried out: which layers turn nothing, and whether all turn as `rotate` does."""

from __future__ import annotations

import copy
import inspect
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor, nn

from vtokens.adapters import Adapter
from vtokens.adapters.decoder import inside
from vtokens.engine.attention.tap import AttentionCall, Tap
from vtokens.kernels import rotate

_HEADS, _WIDTH = 2, 3
_Met = tuple[Tensor, Tensor, Tensor]
_known: WeakSet[nn.Module] = WeakSet()
"""Decoders that were found right: a filter attaches anew in every call."""
_still: WeakKeyDictionary[nn.Module, frozenset[int]] = WeakKeyDictionary()
"""Decoders, and which of their layers turn nothing, as `still_layers` found them."""


def check_rotary(adapter: Adapter, who: str = "virtual unmerging", way: str = "use dymu(unmerge=False)") -> None:
    """Raise `ValueError` unless every layer rotates whole queries and keys as `kernels.rotate` does, last of all.

    Refused are layers without rotary embeddings, partial rotation (`partial_rotary_factor`), and norms behind the
    rotation. Each layer's attention is built anew with two heads, for weights may be anywhere, and run with embeddings
    that turn and with some that do not.

    Args:
        who: what needs it, for the message.
        way: out of it.
    """
    if adapter.language_model in _known:
        return
    for index in adapter.facts.attending:
        attention = inside(adapter.layers[index].self_attn)
        if not _turns_last(attention, index) or not _turns_whole(adapter, index, int(attention.head_dim)):
            raise ValueError(
                f"{who} rotates dimension d of a head with d + D/2, behind all else that is done to queries and keys, "
                f"and layer {index} of a {type(adapter.model).__name__} ({type(attention).__name__}) does not: {way}"
            )
    _known.add(adapter.language_model)


def still_layers(adapter: Adapter) -> frozenset[int]:
    """The layers that turn neither queries nor keys, whatever rotary angles they are given.

    Configs do not always say so (`LayerSpec.turns`): of the others, a small attention of the same class is run with
    angles that turn and with some that do not. A layer that cannot be run so counts as one that turns. Found once.
    """
    decoder = adapter.language_model
    if decoder not in _still:
        _still[decoder] = frozenset(
            index
            for index in adapter.facts.attending
            if not adapter.specs[index].turns or _stays(inside(adapter.layers[index].self_attn), index)
        )
    return _still[decoder]


def _stays(attention: Any, index: int) -> bool:
    """Whether an attention makes the same of any angles."""
    met = _met(attention, index)
    return met is not None and all(torch.equal(*pair) for pair in zip(met[1], met[2], strict=True))


def _turns_whole(adapter: Adapter, index: int, width: int) -> bool:
    """Whether a layer is given angles for all dimensions of a head; attention turns as many as it is given."""
    device = next(iter(adapter.language_model.rotary_emb.buffers()), torch.empty(0)).device
    place = torch.zeros(1, 1, dtype=torch.long, device=device)
    cos, _ = adapter.rotary(torch.zeros(1, 1, 1, device=device), place, adapter.specs[index].rope)
    return cos.shape[-1] == width


def _turns_last(attention: Any, index: int) -> bool:
    met = _met(attention, index)
    if met is None:
        return False
    angles, (query, key, value), (turned_query, turned_key, same) = met
    pairs = ((rotate(query, *angles), turned_query), (rotate(key, *angles), turned_key), (value, same))
    return value.shape == key.shape and all(torch.allclose(*pair, atol=1e-5) for pair in pairs)


@torch.no_grad()
def _met(attention: Any, index: int) -> tuple[tuple[Tensor, Tensor], _Met, _Met] | None:
    """Cosines and sines, and what a small attention of the same class makes without them and with; None if it cannot
    be run."""
    try:
        # Whatever the caller made the default device and dtype.
        with torch.autocast("cpu", enabled=False), torch.device("cpu"):
            small, dim = _small(attention, index)
            angle = (
                torch.linspace(0, 2, dim // 2, dtype=torch.float32).repeat(2).expand(1, _WIDTH, -1)
                + torch.arange(_WIDTH)[None, :, None]
            )
            cos, sin = angle.cos(), angle.sin()
            return (cos, sin), _states(small, (cos * 0 + 1, sin * 0)), _states(small, (cos, sin))
    except Exception:  # whatever class it is, and whatever it wants: it is not known then
        return None


def _small(attention: Any, index: int) -> tuple[nn.Module, int]:
    """An attention module of the same class and head size with `_HEADS` heads, and that size."""
    config, dim = copy.copy(attention.config), attention.head_dim
    config.hidden_size, config.num_attention_heads, config.num_key_value_heads = _HEADS * dim, _HEADS, _HEADS
    config._attn_implementation_internal = "eager"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module: nn.Module = type(attention)(config, index).float().eval()
        for weight in module.parameters():
            weight.normal_(std=dim**-0.5)
    return module, dim


def _states(module: Any, embeddings: tuple[Tensor, Tensor]) -> _Met:
    """Queries, keys and values, (1, heads, W, D) each, that reach the implementation."""
    met: list[AttentionCall] = []

    def note(attention: AttentionCall) -> tuple[Tensor, None]:
        met.append(attention)
        return torch.zeros_like(attention.query).transpose(1, 2).contiguous(), None

    tap = Tap(module, note, module)
    width = module.config.hidden_size
    states = torch.linspace(-3, 3, _WIDTH * width, dtype=torch.float32).sin().view(1, _WIDTH, width)
    known = ("hidden_states", "position_embeddings", "attention_mask")
    # What else some want is where layers note keys that later ones share: nothing is noted yet.
    others: dict[str, Any] = {
        name: {}
        for name, one in inspect.signature(type(module).forward).parameters.items()
        if one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD and name not in (*known, "self")
    }
    module(states, position_embeddings=embeddings, attention_mask=None, **others)
    tap.remove()
    [only] = met
    return only.query, only.key, only.value
