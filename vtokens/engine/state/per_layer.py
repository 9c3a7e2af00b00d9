"""What decoder layers get beside their states (`Anatomy.per_layer`), where positions were dropped or are others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vtokens.adapters import Adapter
from vtokens.engine.state.view import View, gather


def per_layer_of(adapter: Adapter, kwargs: Mapping[str, Any]) -> Tensor | None:
    """(B, N, layers, P) among the decoder's keyword arguments; None if it gets none."""
    found: Tensor | None = None if adapter.anatomy.per_layer is None else kwargs.get(adapter.anatomy.per_layer.name)
    return found


def as_argument(adapter: Adapter, values: Tensor | None) -> dict[str, Tensor]:
    """The decoder's keyword argument with values (B, N, layers, P); nothing for None."""
    return {} if adapter.anatomy.per_layer is None or values is None else {adapter.anatomy.per_layer.name: values}


def seen(adapter: Adapter, kwargs: Mapping[str, Any], view: View) -> dict[str, Tensor]:
    """The decoder's keyword argument, cut to what a view sees."""
    values = per_layer_of(adapter, kwargs)
    return as_argument(adapter, None if values is None else gather(values, view.index.to(values.device), 1))


def beside_states(adapter: Adapter, args: tuple[Any, ...], columns: Tensor | None) -> tuple[Any, ...]:
    """A layer's positional arguments behind its states, cut to the columns (B, W) of the decoder's input still seen."""
    if columns is None or adapter.anatomy.per_layer is None:
        return args
    return tuple(gather(part, columns.to(part.device), 1) if isinstance(part, Tensor) else part for part in args)


def of_ids(adapter: Adapter, ids: Tensor, visual: Tensor) -> Tensor | None:
    """(B, N, layers, P) of token ids (B, N), of which the `visual` ones count as padding; None if there are none."""
    spec, decoder = adapter.anatomy.per_layer, adapter.language_model
    if spec is None or not decoder.config.hidden_size_per_layer_input:
        return None
    found: Tensor = getattr(decoder, spec.of_ids)(torch.where(visual, decoder.config.pad_token_id, ids))
    return found


def for_layers(adapter: Adapter, hidden: Tensor, values: Tensor | None) -> Tensor | None:
    """What layers get of embeddings (B, N, D) and values (B, N, layers, P): layer i [:, :, i]; None for None."""
    spec = adapter.anatomy.per_layer
    if spec is None or values is None:
        return None
    found: Tensor = getattr(adapter.language_model, spec.joined)(hidden, values)
    return found
