"""Whether states can take a shortcut from inside the attention of a decoder layer to the last layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from vtokens.adapters import Adapter
from vtokens.adapters.decoder import inside
from vtokens.engine.checks.spread import in_shards
from vtokens.strategies import Needs, Strategy

_PARTS = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}


def check_shortcut(adapter: Adapter, active: Sequence[tuple[Strategy, Needs]]) -> None:
    """Raise `ValueError` if a strategy sends head outputs to a last layer that does not add what its parts put out.

    The last layer has to be x + attention(norm(x)) and then x + mlp(norm(x)), as in Llama, and the attention they come
    from one output projection over all heads.
    """
    taking = [(strategy, index) for strategy, needs in active for index in needs.shortcut]
    if not taking:
        return
    layers, (strategy, index) = adapter.layers, taking[0]
    last, attention = inside(layers[-1]), inside(getattr(layers[index], "self_attn", None))
    why = ""
    if {name for name, _ in last.named_children()} != _PARTS or getattr(last, "residual_multiplier", 1) != 1:
        why = f"a {type(last).__name__} has other parts than attention, an MLP and a norm before each"
    elif not isinstance(getattr(attention, "o_proj", None), nn.Module) or _gated(attention):
        why = f"a {type(attention).__name__} does not hand what its heads put out to one `o_proj`"
    elif any(in_shards(weight) for layer in (layers[index], layers[-1]) for weight in layer.parameters()):
        why = "its weights are in shards, which are together while a whole layer runs alone"
    if why:
        raise ValueError(
            f"{strategy.name!r} sends what heads of decoder layer {index} put out to the last layer of a "
            f"{type(adapter.model).__name__}, and {why}: decoders built like Llama, Mistral and Qwen2 or Qwen3 are "
            "supported; 'm3id' and 'contrast' compare with another prompt on any"
        )
    unmerging = [one for one, needs in active if needs.unmerges]
    if unmerging:
        raise ValueError(
            f"{strategy.name!r} reads what single positions attend to, and {unmerging[0].name!r} shows attention "
            "merged tokens at all of their positions: keep one of them, or let the other drop what it merges"
        )


def _gated(attention: Any) -> bool:
    """Whether more than queries leaves the projection of queries, as the gates of Qwen3.5 do."""
    queries, outputs = getattr(attention, "q_proj", None), attention.o_proj
    return getattr(queries, "out_features", None) != getattr(outputs, "in_features", None)
