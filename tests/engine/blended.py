"""The oracle of merging selections: a full-length model fed the merged embeddings, with an additive mask of its own.

Nothing of the engine takes part. A pre-hook puts sums, worked out token by token, in the place of kept tokens;
dropped keys are closed by `masked.masking`; a mask of transformers' gets the logarithms of sizes added to its columns.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tests.engine.masked import decoder_layers, decoder_of, masking
from vtokens import Report
from vtokens.core.compat import given_cache

Groups = list[tuple[int, list[int]]]
"""Row of the batch, and fed positions of the visual tokens of one picture, in order."""


def groups(report: Report, placeholder: Tensor) -> Groups:
    """The pictures of a batch, from placeholder positions (B, N)."""
    found: Groups = []
    for row, sample in enumerate(report.samples):
        places = placeholder[row].nonzero()[:, 0].tolist()
        for kept in sample.pictures:
            own, places = places[: len(kept.picture)], places[len(kept.picture) :]
            found.append((row, [place for place, view in zip(own, kept.picture.view, strict=True) if view >= 0]))
    return found


def halves(places: Sequence[int]) -> Iterator[tuple[int, int | None]]:
    """The tokens that stay, and those that go into them."""
    for number in range(0, len(places), 2):
        yield places[number], places[number + 1] if number + 1 < len(places) else None


@dataclass(frozen=True)
class Cluster:
    """What one kept token stands for.

    Attributes:
        row, place: of the batch, and its fed position.
        parts: fed position -> how much of that token goes into it.
        bias: what is added to its score.
    """

    row: int
    place: int
    parts: Mapping[int, float]
    bias: float


def blending(
    model: Any, pictures: Groups, dropped: Sequence[Tensor], first: int, weigh: bool, own: float
) -> AbstractContextManager[Any]:
    """`clustering` of every second token with the one before it.

    Args:
        pictures: from `groups`.
        weigh: whether they count for as many as went into them.
        own: what a kept token keeps of itself; the rest comes from the one behind it.
    """
    found = []
    for row, places in pictures:
        for stays, goes in halves(places):
            parts = {stays: 1.0} if goes is None else {stays: own, goes: 1 - own}
            found.append(Cluster(row, stays, parts, math.log(1 if goes is None or not weigh else 2)))
    return clustering(model, found, dropped, first)


@contextmanager
def clustering(model: Any, clusters: Sequence[Cluster], dropped: Sequence[Tensor], first: int) -> Iterator[Any]:
    """Let tokens be merged before decoder layer `first`, and from there on count for what their clusters say.

    Args:
        model: an untouched one with eager attention.
        clusters: of all kept tokens that are merged, or count for more than one.
        dropped: from `masked.dropped_keys`.
        first: 0 is before the decoder.
    """
    length = dropped[0].shape[1]
    bias = torch.zeros(dropped[0].shape)
    for one in clusters:
        bias[one.row, one.place] = one.bias

    def merged(states: Tensor) -> Tensor:
        new = states.clone()
        for one in clusters:
            new[one.row, one.place] = sum(share * states[one.row, at] for at, share in one.parts.items())
        return new

    def enter(module: Any, args: Any, kwargs: dict[str, Any], name: str) -> Any:
        hidden = args[0] if args else kwargs[name]
        if hidden.shape[1] != length:
            return None
        hidden = merged(hidden)
        return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, name: hidden})

    def weighed(index: int, module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        hidden, cache = args[0] if args else kwargs["hidden_states"], given_cache(kwargs)
        past = 0 if cache is None else cache.get_seq_length(index)
        queries, keys = hidden.shape[1], past + hidden.shape[1]
        mask = kwargs["attention_mask"]
        mask = (
            torch.zeros(1, 1, queries, keys).masked_fill(~torch.ones(queries, keys).tril(past).bool(), -1e30)
            if mask is None
            else mask
        )
        more = torch.nn.functional.pad(bias, (0, keys - length))[:, None, None]
        return args, {**kwargs, "attention_mask": mask + more}

    layers = decoder_layers(model)
    where = layers[first] if first else decoder_of(model)
    name = "hidden_states" if first else "inputs_embeds"
    with masking(model, dropped):  # its hooks come first, so that closed columns stay closed
        handles = [where.register_forward_pre_hook(partial(enter, name=name), with_kwargs=True)]
        later = partial(_deepstack, merged, first)
        handles.append(decoder_of(model).register_forward_pre_hook(later, with_kwargs=True))
        handles += [
            layer.register_forward_pre_hook(partial(weighed, index), with_kwargs=True)
            for index, layer in enumerate(layers)
            if index >= first
        ]
        try:
            yield model
        finally:
            for handle in handles:
                handle.remove()


def _deepstack(merged: Any, first: int, module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """What is added behind layers from `first` on, merged alike."""
    if kwargs.get("deepstack_visual_embeds") is None:
        return None
    places, entries = kwargs["visual_pos_masks"], []
    for index, entry in enumerate(kwargs["deepstack_visual_embeds"]):
        full = torch.zeros(*places.shape, entry.shape[-1])
        full[places] = entry
        entries.append(merged(full)[places] if index >= first else entry)
    return args, {**kwargs, "deepstack_visual_embeds": entries}
