"""The vision tower under strategies: its feature calls are noted, the attention of its blocks is scored."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from vtokens.adapters import Adapter
from vtokens.adapters.output import name_for_copies
from vtokens.adapters.tower import Tower
from vtokens.engine.attention.tap import AttentionCall, Tap
from vtokens.engine.block import Block
from vtokens.engine.checks.recompute import check_tower_runs_once
from vtokens.engine.stages import encode, pixels
from vtokens.engine.stages.tower_call import TowerCall, call_of, during
from vtokens.engine.stages.votes import Read, votes
from vtokens.engine.state.merging import Merging
from vtokens.engine.state.tower_run import TowerRun, mark
from vtokens.kernels import attention_colmean


class _Features:
    """Stands in for `get_image_features` on one instance; an object, so that a deep copy belongs to the copy."""

    def __init__(self, adapter: Adapter, modalities: Sequence[str], name: str, watcher: Watcher) -> None:
        self._adapter, self._modalities, self.__name__, self._watcher = adapter, modalities, name, watcher
        # generate() reads the parameters off the signature.
        method = getattr(adapter.multimodal, name)
        genuine = getattr(method, "__func__", None)
        self.__signature__ = inspect.signature(method) if genuine is None else _signature(genuine)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        multimodal, block = self._adapter.multimodal, self._watcher.block()
        method = functools.partial(getattr(type(multimodal), self.__name__), multimodal, *args, **kwargs)
        if block is None or call_of(self._adapter) is not None:
            # Families whose videos are encoded as images call one feature call from the other: that is one run.
            return method()
        self._watcher.follow()
        merges = bool(block.plan.at_encode)
        given = dict(self.__signature__.bind_partial(*args, **kwargs).arguments)
        call = TowerCall(self._adapter, block.plan, self._watcher.encoding(self._modalities), given)
        if pixels.show_less(call):
            method = functools.partial(getattr(type(multimodal), self.__name__), multimodal, **call.inputs)
        if merges:
            self._adapter.check_merging(given)
            if call.tower.merges:
                check_tower_runs_once(self._adapter)
        try:
            with during(call):
                output = method()
        except BaseException:  # torch tells hooks of no KeyboardInterrupt
            self._watcher.forget_call()
            raise
        if call.inputs is not call.given:
            pixels.show_all(call, output)
        if merges and not call.tower.merges and not isinstance(output, tuple):
            name = self._adapter.anatomy.features
            setattr(output, name, encode.merge_features(call, getattr(output, name)))
            stack = self._adapter.anatomy.deepstack
            if stack is not None:
                encode.follow_merging(call.merging, output, stack.features)
        if not isinstance(output, tuple):
            name_for_copies(self._adapter, output)
        run = call.over()
        mark(output, run)
        self._watcher.on_features(run)
        return output


@functools.cache
def _signature(method: Any) -> inspect.Signature:
    """The signature of a class's method as an instance has it."""
    return inspect.signature(method.__get__(object()))


class Watcher(Protocol):
    """The engine, as the watch on the tower tells it of feature calls."""

    def block(self) -> Block | None:
        """What runs for the caller."""

    def follow(self) -> None:
        """Go to modules that took the place of those on which something stands."""

    def encoding(self, modalities: Sequence[str]) -> str:
        """Which of the modalities that share a feature call it is called for now."""

    def on_features(self, run: TowerRun) -> None:
        """A feature call is over."""

    def forget_call(self) -> None:
        """Forget the call that a feature call, cut off by an exception, belongs to."""


class TowerWatch:
    """Watches a model's feature calls until `remove()`.

    `generate` calls `get_image_features` before the forward pass, and only that call knows the image sizes, so a
    module hook would come too late: the method is wrapped on this one instance, and unwrapped again.
    """

    def __init__(self, adapter: Adapter, watcher: Watcher) -> None:
        self._multimodal, self._wrapped = adapter.multimodal, dict[str, list[str]]()
        for modality in adapter.towers:
            self._wrapped.setdefault(adapter.anatomy.call(modality), []).append(modality)
        for name, modalities in self._wrapped.items():
            # In __dict__ itself: nn.Module has no say in it, and deleting it uncovers the class's method again.
            adapter.multimodal.__dict__[name] = _Features(adapter, modalities, name, watcher)

    def remove(self) -> None:
        """Stop watching."""
        for name in self._wrapped:
            self._multimodal.__dict__.pop(name, None)


class TowerTap:
    """Scores the attention of one block of a tower, and lets merged tokens attend, until `remove()`."""

    def __init__(self, adapter: Adapter, tower: Tower, index: int) -> None:
        self._adapter, self._tower, self._index = adapter, tower, index
        self._tap = Tap(tower.attentions[index], self._on_block, adapter.multimodal)

    def remove(self) -> None:
        """Take the tap off."""
        self._tap.remove()

    def _on_block(self, attention: AttentionCall) -> tuple[Tensor, Any]:
        call, index = call_of(self._adapter), self._index
        if call is None:
            return attention.run()
        for one in call.plan.scored:
            block, rows, heads = one
            if block == index:
                read, tiles = _read(attention, self._tower.cls_last).of(heads), self._tower.tiles
                every = rows == "all" or not self._tower.has_cls
                whole = None if tiles is None else _of_tiles(read, call.inputs[tiles], every)
                scores = self._scores(read, call.merging, every) if whole is None else [whole]
                call.scores.setdefault(one, []).extend(scores)
        if index in call.plan.key_blocks:
            call.keys.setdefault(index, []).append(self._keys(attention, call.merging))
        if (call.plan.at_encode and self._tower.merges) or call.masked:
            return encode.on_attention(call, index, attention)
        return attention.run()

    def _keys(self, attention: AttentionCall, merging: Merging | None) -> Tensor:
        """(patches, H, d), in the order the tower works; of merged patches, the keys of their token."""
        key = attention.key.detach().transpose(1, 2).flatten(2)
        return _of_patches(self._tower, key, merging).unflatten(1, (attention.key.shape[1], -1))

    def _scores(self, read: Read, merging: Merging | None, every: bool) -> Iterator[Tensor]:
        """float32 (patches,), for each stretch of patches that attend to each other, of which `every` one votes."""
        if merging is not None and merging.begun:
            yield merging.to_patches(votes(read, every, merging)).flatten()
            return
        bounds = read.bounds
        # Flash attention is told where the images of a packed tower begin; others get a mask of blocks.
        sizes = self._packed() if bounds is None else bounds.diff().tolist()
        real = None if sizes is not None else _unpadded(read.mask)
        for part in [read] if sizes is None else read.split(sizes):
            yield votes(part, every, real=real)[:, int(self._tower.has_cls) :].flatten()

    def _packed(self) -> list[int] | None:
        call = call_of(self._adapter)
        return None if call is None else self._adapter.packed(call.modality, call.inputs)


def on_block(adapter: Adapter, tower: Tower, index: int, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
    """A hook: what leaves a block of a tower is noted in a feature call that asks for it."""
    call = call_of(adapter)
    if call is not None and index in call.plan.state_blocks:
        states = (output[0] if isinstance(output, tuple) else output).detach()
        # Towers that pack their pictures have rows and channels alone.
        states = states[None] if states.dim() == 2 else states
        call.states.setdefault(index, []).append(_of_patches(tower, states, call.merging))


def _of_patches(tower: Tower, rows: Tensor, merging: Merging | None) -> Tensor:
    """(patches, C) of the rows (B, N, C) of a tower, in the order it works; of merged patches, those of their token."""
    if merging is not None and merging.begun:
        rows = merging.expand(rows)
    if tower.cls_last:
        return rows[:, :-1].flatten(0, 1)
    return rows[:, int(tower.has_cls and tower.tiles is None) :].flatten(0, 1)


def _read(attention: AttentionCall, cls_last: bool = False) -> Read:
    """What scores are computed of in one attention call, head by head.

    Args:
        cls_last: the class token stands last, and is put first; such a tower masks nothing.
    """
    bounds, query, key = attention.kwargs.get("cu_seq_lens_q"), attention.query.detach(), attention.key.detach()
    query, key = (query.roll(1, 2), key.roll(1, 2)) if cls_last else (query, key)
    return Read(query, key, attention.scaling, attention.mask, bounds)


def _of_tiles(read: Read, real: Tensor, every: bool) -> Tensor:
    """float32 (P * N,): what the class tokens of the tiles (..., T) that are `real`, or all their tokens, give each
    token of P pictures."""
    query = read.query
    real = real.to(query.device).reshape(len(query), -1).bool()
    stride = query.shape[2] // real.shape[1]
    if every:
        # Padding is told from its row of the mask alone: it does not see itself.
        real = real.repeat_interleave(stride, 1)
        if isinstance(read.mask, Tensor):
            own = read.mask[:, 0].diagonal(dim1=-2, dim2=-1)
            real = real & (own if own.dtype == torch.bool else own >= 0)
    else:
        query = query[:, :, ::stride]
    mean = attention_colmean(query, read.key, read.scaling, real)
    return (mean * real.sum(1, keepdim=True)).flatten()


def _unpadded(mask: Any) -> Tensor | None:
    """bool (B, N): which patches are not padding, from the mask of a tower's block; None if all are real."""
    if not isinstance(mask, Tensor):
        return None
    keys = mask[:, 0, 0] if mask.dim() == 4 else mask  # every patch sees the same ones
    return keys if keys.dtype == torch.bool else keys >= 0 if keys.is_floating_point() else keys.bool()
