"""Features that are added to the states of visual tokens behind the first decoder layers (`Anatomy.deepstack`).

Example: v1 was dropped, so its feature is added to nobody.

    fed position       0   1   2   3   4
    fed                t0  v0  v1  v2  t1
    feature            -   0   1   2   -       Injection.feature
    seen               t0  v0  v2  t1          view.index = [0, 1, 3, 4]
    added              -   0   2   -
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from vtokens.adapters import Adapter
from vtokens.engine.state.blend import Blend
from vtokens.engine.state.view import View, gather


@dataclass(frozen=True, eq=False)
class Injection:
    """What is added to the states of one sequence.

    Attributes:
        entries: (V, D) each; entry i is added behind decoder layer i.
        feature: int64 (B, N), which of the V belongs to each fed position, below 0 where none does.
    """

    entries: Sequence[Tensor]
    feature: Tensor

    def at(self, columns: Tensor) -> Injection:
        """What is added to a sequence made of some positions (B, W) of this one."""
        return replace(self, feature=gather(self.feature, columns, 1))

    def without(self, gone: Tensor) -> Injection:
        """This injection with nothing added at some positions, bool (B, N)."""
        return replace(self, feature=self.feature.masked_fill(gone.to(self.feature.device), -1))

    def moved(self, here: Mapping[str, Tensor], there: Mapping[str, Tensor]) -> Injection:
        """What is added to another prompt about the same pictures, in the same order.

        Args:
            here: modality -> bool (B, N'), where their tokens stand in it.
            there: modality -> bool (B, N), where they stand in this one.
        """
        feature = torch.full_like(next(iter(here.values())), -1, dtype=torch.long)
        for modality, places in here.items():
            feature = feature.masked_scatter(
                places, self.feature.to(feature.device)[there[modality].to(feature.device)]
            )
        return replace(self, feature=feature)

    def blended(self, blend: Blend, view: View | None) -> Injection:
        """This injection once the tokens that `view` sees were blended: what is added to them is, too."""
        device = blend.at.device
        fed_feature, view = self.feature.to(device), None if view is None else view.to(device)
        seen = fed_feature if view is None else gather(fed_feature, view.index, 1)
        number = len(self.entries[0]) + torch.arange(blend.at.numel(), device=seen.device).view_as(blend.at)
        entries = []
        for entry in (entry.to(device) for entry in self.entries):
            there = torch.where((seen >= 0)[..., None], entry[seen.clamp(min=0)], 0)
            entries.append(torch.cat([entry, blend.tokens(there).flatten(0, 1).to(entry)]))
        if view is None:
            return Injection(entries, blend.put(seen, number))
        length = self.feature.shape[1]
        fed = (view.index + torch.arange(len(seen), device=seen.device)[:, None] * length).flatten()
        at = torch.cat([fed, fed.new_full((1,), self.feature.numel())])[blend.at]
        return Injection(entries, replace(blend, at=at).put(fed_feature, number))

    def add(self, index: int, hidden: Tensor, view: View | None) -> Tensor:
        """States (B, W, D) that enter decoder layer `index`, with what is added behind the layer before it."""
        if not 0 < index <= len(self.entries):
            return hidden
        feature = self.feature if view is None else gather(self.feature, view.index, 1)
        feature, entry = feature.to(hidden.device), self.entries[index - 1].to(hidden)
        return torch.where((feature >= 0)[..., None], hidden + entry[feature.clamp(min=0)], hidden)


def injected(adapter: Adapter, kwargs: Mapping[str, Any]) -> Injection | None:
    """What a decoder is told to add; None if nothing.

    Raises:
        ValueError: some of it would be added behind the last layer.
    """
    deepstack = adapter.anatomy.deepstack
    entries = None if deepstack is None else kwargs.get(deepstack.name)
    if deepstack is None or entries is None or not len(entries):
        return None
    if len(entries) >= len(adapter.layers):
        raise ValueError(
            f"{deepstack.name} holds {len(entries)} entries, and the decoder has {len(adapter.layers)} layers: what is "
            "added behind the last layer is not carried. One entry less than layers is allowed at most; detach() the "
            "strategy"
        )
    places = kwargs[deepstack.at]
    rank = places.flatten().long().cumsum(0).view_as(places) - 1
    return Injection(entries, torch.where(places, rank, -1))


def left_to_engine(adapter: Adapter, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The language model's inputs without what the engine adds in its place."""
    deepstack = adapter.anatomy.deepstack
    return kwargs if deepstack is None else {**kwargs, deepstack.name: None, deepstack.at: None}
