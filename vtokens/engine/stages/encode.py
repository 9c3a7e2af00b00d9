"""The `encode` stage: a strategy merges tokens inside the vision tower, or right behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from vtokens.adapters import Adapter
from vtokens.adapters.tower import Tower
from vtokens.engine.attention.tap import AttentionCall
from vtokens.engine.stages.tower_call import TowerCall, call_of
from vtokens.engine.state.merging import Merging
from vtokens.strategies.views.patches import Patches


class Encode:
    """Hooks on one block of a tower, until `remove()`.

    A block computes x + attention, then adds its MLP to that. What enters the norm in front of the MLP is merged there,
    the block's own last addition is given a zero to add, and the merged tokens leave the block in its place.
    """

    def __init__(self, adapter: Adapter, tower: Tower, index: int) -> None:
        self._adapter, self._index = adapter, index
        block, norm, mlp = tower.merge_point(index)
        self._handles: list[Any] = [
            norm.register_forward_pre_hook(self._before_norm),
            mlp.register_forward_hook(self._after_mlp),
            # First, since transformers records hidden states in hooks that it never takes off again.
            block.register_forward_hook(self._after_block, prepend=True),
        ]

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()

    def _before_norm(self, module: nn.Module, args: tuple[Any, ...]) -> Any:
        call = call_of(self._adapter)
        if call is None or call.inside is None:
            return None
        (hidden,), inside, last = args, call.inside, self._index == max(call.plan.at_encode)
        call.inside, call.after = None, _merge(call, self._index, hidden, inside, last)
        return (call.after,)

    def _after_mlp(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Any:
        call = call_of(self._adapter)
        if call is None or call.after is None:
            return None
        call.after = call.after + output
        return output.new_zeros(())

    def _after_block(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        call = call_of(self._adapter)
        if call is None or call.after is None:
            return None
        after, call.after = call.after, None
        return (after, *output[1:]) if isinstance(output, tuple) else after


def after_projector(adapter: Adapter, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Any:
    """A hook: features of merged tokens are copied to all of their patches.

    The model checks that there are as many features as placeholders. Which of them are copies of one token is known
    later from the run of the tower (`TowerRun.copies`).
    """
    call = call_of(adapter)
    merging = None if call is None else call.merging
    return None if merging is None or not merging.begun else merging.expand(output)


def on_attention(call: TowerCall, block: int, attention: AttentionCall) -> tuple[Tensor, Any]:
    """Run one attention call of the tower, with the tokens as they are now."""
    if call.merging is None:
        batch, _, width, _ = attention.query.shape
        valid = torch.ones(batch, width, dtype=torch.bool, device=attention.query.device)
        call.merging = Merging.start(valid, int(call.tower.has_cls))
    if block in call.plan.at_encode:
        call.inside = attention
    return _in_proportion(call.merging, attention)


def _in_proportion(merging: Merging, attention: AttentionCall) -> tuple[Tensor, Any]:
    """Attention in proportion to sizes: softmax(q k^T * scaling + log size); the user's own before any merging."""
    if not merging.begun:
        return attention.run()
    output = torch.nn.functional.scaled_dot_product_attention(
        attention.query,
        attention.key,
        attention.value,
        attn_mask=merging.bias.to(attention.query.dtype)[:, None, None],
        dropout_p=attention.kwargs.get("dropout", 0.0),
        scale=attention.scaling,
    )
    return output.transpose(1, 2).contiguous(), None


def merge_features(call: TowerCall, features: Sequence[Tensor] | Tensor) -> tuple[Tensor, ...] | Tensor:
    """Merge the features of each picture; every position gets those of the token it went into.

    They go back as they came: one tensor (pictures, tokens, D), or a sequence of (tokens, D), each of a picture or of
    several.
    """
    parts, sizes = list(features), [len(picture) for picture in call.adapter.pictures(call.modality, call.inputs)]
    came = [len(part) for part in parts]
    if came != sizes:
        parts = list(torch.cat(parts).split(sizes))
    hidden = pad_sequence(parts, batch_first=True)
    length = torch.tensor(sizes).to(hidden.device)
    call.merging = Merging.start(torch.arange(hidden.shape[1], device=hidden.device) < length[:, None], 0)
    for number in sorted(call.plan.at_encode):
        hidden = _merge(call, number, hidden)
    expanded = call.merging.expand(hidden)
    if isinstance(features, Tensor):
        return expanded
    whole = [part[:size] for part, size in zip(expanded, sizes, strict=True)]
    return tuple(whole if came == sizes else torch.cat(whole).split(came))


def follow_merging(merging: Merging | None, output: Any, name: str) -> None:
    """Let deeper features follow a merging of the finished ones: each position gets the mean over its token.

    Args:
        merging: of the finished features; None if nothing was merged.
        output: of the feature call.
        name: where it has the deeper features: for each entry one (tokens, D) a picture.
    """
    if merging is None or not merging.begun:
        return
    shared = []
    for entry in getattr(output, name):
        means = merging.mean(pad_sequence(list(entry), batch_first=True))
        shared.append(tuple(part[: len(old)] for part, old in zip(means, entry, strict=True)))
    setattr(output, name, shared)


def _merge(
    call: TowerCall, index: int, hidden: Tensor, inside: AttentionCall | None = None, last: bool = False
) -> Tensor:
    """Let the strategy of one block or round merge `hidden` (B, N, C); returns the tokens that go on.

    `inside` is the attention of the block; None behind the tower, where tokens are their own keys.
    """
    merging = call.merging
    if merging is None:
        raise RuntimeError("tokens are merged before the tower has any")
    strategy, prepared = call.plan.at_encode[index]
    key = hidden[:, None] if inside is None else inside.key
    patches = Patches(index, hidden, key, merging.size, merging.valid, merging.protect, prepared)
    if inside is not None:
        query, value, scaling = inside.query, inside.value, inside.scaling
        patches = replace(patches, query=query, value=value, scaling=scaling, member=merging.member, notes=call.noted)
    merged = strategy.at_encode(patches)
    if merged is not None:
        hidden, call.merging = merging.follow(merged, last)
    return hidden
