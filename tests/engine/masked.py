"""The oracle of all pruning: an untouched model at full length in which dropped keys are masked, layer by layer.

Nothing of the engine takes part. transformers makes the causal and padding mask of the full-length sequence; forward
pre-hooks on the decoder layers close the columns of those keys that the pruned model's layer never saw. Every layer of
the reference computes and caches all positions, so keys, positions and cache lengths are those of the plain model.

Masking a token does not remove it from a recurrence, whose state still decays. Layers that keep a state in place of
keys are given the sequence in another order instead: what was dropped comes first, as padding before anything else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vtokens import Report
from vtokens.core.compat import given_cache


def decoder_of(model: Any) -> Any:
    """The decoder of a model of any family, read off the model itself."""
    inner = getattr(model, "model", model)
    decoder = getattr(inner, "text_model", None) or inner.language_model
    return getattr(decoder, "model", decoder)


def decoder_layers(model: Any) -> Sequence[nn.Module]:
    """The decoder layers of a model of any family, read off the model itself."""
    return decoder_of(model).layers


def dropped_keys(report: Report, valid: Tensor) -> list[Tensor]:
    """For each decoder layer bool (B, N): fed positions it did not see, padding left out.

    Args:
        report: of the pruned call.
        valid: (B, N) attention mask of the fed positions; B rows as the report has them (beams count).
    """
    dropped = []
    for layer in range(len(report.samples[0].positions)):
        missing = valid.bool().clone()
        for row, sample in enumerate(report.samples):
            missing[row, torch.from_numpy(sample.positions[layer])] = False
        dropped.append(missing)
    return dropped


@contextmanager
def masking(model: Any, dropped: Sequence[Tensor]) -> Iterator[Any]:
    """Let each decoder layer of `model` ignore its `dropped` keys, bool (B, N) over the first N positions it caches.

    Positions after N stay visible. Holds for prefill and for every later step, with and without a cache. Outputs at
    positions that the last layer lost repeat the survivor before them, which is what a prompt that ends with its
    picture goes on from.
    """
    hooks = []
    for index, (layer, keys) in enumerate(zip(decoder_layers(model), dropped, strict=True)):
        if hasattr(layer, "self_attn"):
            hooks.append(layer.register_forward_pre_hook(partial(_close_columns, index, keys), with_kwargs=True))
        else:
            moved = _DroppedFirst(index, keys)
            hooks.append(layer.register_forward_pre_hook(moved.before, with_kwargs=True))
            hooks.append(layer.register_forward_hook(moved.after))
    decoder = decoder_of(model)
    hooks.append(decoder.register_forward_hook(partial(_repeat_survivors, dropped[-1]), with_kwargs=True))
    try:
        yield model
    finally:
        for hook in hooks:
            hook.remove()


def _close_columns(
    index: int, dropped: Tensor, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    hidden = args[0] if args else kwargs["hidden_states"]
    cache = given_cache(kwargs)
    if cache is not None and type(cache.layers[index]).__name__ == "DummyLayer":  # of a layer that shares earlier keys
        past = cache.get_seq_length() - hidden.shape[1]
    else:
        past = 0 if cache is None else cache.get_seq_length(index)
    queries, total = hidden.shape[1], past + hidden.shape[1]
    mask = kwargs.get("attention_mask")
    # A cache of a sliding window has let go of the first keys.
    keys = total if mask is None else mask.shape[-1]
    closed = nn.functional.pad(dropped, (0, max(0, total - dropped.shape[1])))[:, None, None, total - keys : total]
    if mask is None:  # SDPA leaves a plain causal mask to its kernel
        mask = torch.ones(1, 1, queries, keys, dtype=torch.bool).tril(past)
    if mask.dtype == torch.bool:
        mask = mask & ~closed
    else:  # filled, not added: twice the smallest number is minus infinity, and a row of those gives NaN
        mask = mask.expand(len(hidden), -1, -1, -1).masked_fill(closed, torch.finfo(mask.dtype).min)
    return args, dict(kwargs, attention_mask=mask)


class _DroppedFirst:
    """Hooks of a layer that keeps a state: what was dropped enters it first, as padding, and leaves where it was."""

    def __init__(self, index: int, dropped: Tensor) -> None:
        self._index, self._dropped, self._fed = index, dropped, 0
        self._back: Tensor | None = None

    def before(self, layer: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        hidden, cache = args[0], given_cache(kwargs)
        state = None if cache is None else cache.layers[self._index]
        past = self._fed if state is not None and state.has_previous_state[0] else 0
        self._fed, self._back = past + hidden.shape[1], None
        behind = max(0, self._fed - self._dropped.shape[1])
        lost = nn.functional.pad(self._dropped, (0, behind))[:, past : self._fed]
        if not lost.any():
            return None
        assert past == 0  # a state that is not empty decays under padding
        order = (~lost).long().argsort(dim=1, stable=True)
        mask = kwargs.get("attention_mask")
        real = (torch.ones_like(lost) if mask is None else mask.bool().expand_as(lost)) & ~lost
        self._back = order.argsort(dim=1)[..., None].expand_as(hidden)
        moved = hidden.gather(1, order[..., None].expand_as(hidden))
        return (moved, *args[1:]), dict(kwargs, attention_mask=real.gather(1, order))

    def after(self, layer: nn.Module, args: Any, output: Tensor) -> Any:
        return None if self._back is None else output.gather(1, self._back)


def _repeat_survivors(dropped: Tensor, decoder: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
    hidden, cache = output.last_hidden_state, given_cache(kwargs)
    length = hidden.shape[1]
    past = 0 if cache is None else cache.get_seq_length() - length  # the cache holds this pass already
    rows = hidden.clone()
    for row, lost in enumerate(dropped[:, past : past + length].tolist()):
        for place in range(1, len(lost)):
            if lost[place]:
                rows[row, place] = rows[row, place - 1]
    output.last_hidden_state = rows
    return output
