"""Which of the positions that a decoder layer's attention sees are padding."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from vtokens.engine.cache import ReducedLayer, held
from vtokens.engine.call import Call
from vtokens.engine.masks import join
from vtokens.engine.reduction import View


def cached_padding(call: Call, index: int, cache: Any = None) -> Tensor | None:
    """bool (B, past), the padding mask over what layer `index` had cached before this pass; None if there is none."""
    reduced = reduced_layer(call.cache if cache is None else cache, index)
    if reduced is not None:
        return reduced.padding(call.fed_mask, call.past)
    return None if call.fed_mask is None else call.fed_mask[:, : call.past]


def reduced_layer(cache: Any, index: int) -> ReducedLayer | None:
    """Layer `index` of a cache if it holds less than it was fed."""
    layer = held(cache, index)
    return layer if layer is not None and not layer.prefix.plain else None


def seen_padding(call: Call, index: int, past: int, length: int) -> Tensor | None:
    """bool (B, past + length), the padding mask over what layer `index` can see; None if there is none."""
    return padding(call, index, call.view, past, length, call.cache)


def padding(call: Call, index: int, view: View | None, past: int, length: int, cache: Any) -> Tensor | None:
    """The same for what `view` sees of this pass."""
    after = fed_now(call) if view is None else view.mask(fed_now(call))
    return join(cached_padding(call, index, cache), after, past, length)


def fed_now(call: Call) -> Tensor | None:
    """The padding mask over what this pass feeds."""
    return None if call.fed_mask is None else call.fed_mask[:, call.past :]
