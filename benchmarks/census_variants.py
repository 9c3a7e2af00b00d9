"""What `benchmarks/census.py` compares census with, registered on import: plain dropping, and settings it has not."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from vtokens.strategies import Facts, Needs, Saliency, Selection, Visuals, register
from vtokens.strategies.merge.census import Census


@register("kcenter")
@dataclass(frozen=True)
class Kcenter(Census):
    """Keeps the picks of census, and drops all others."""

    def needs(self, facts: Facts) -> Needs:
        return Needs()

    def at_selection(self, visuals: Visuals, selection: Selection) -> Selection:
        return selection


@register("census_variant")
@dataclass(frozen=True)
class Variant(Census):
    """census with saliency in its picks, a cap on sizes, or clusters that stand at their middle.

    Attributes:
        alpha: a pick has the largest distance to those before it times saliency ** alpha.
        cap: the most that a kept token counts for; 0 sets none.
        place: where a cluster stands: at its "pick", or at the member in its "middle".
    """

    alpha: float = 0.0
    cap: float = 0.0
    place: Literal["pick", "middle"] = "pick"

    def needs(self, facts: Facts) -> Needs:
        return replace(super().needs(facts), signals=(Saliency(),) if self.alpha else ())

    def at_prompt(self, visuals: Visuals) -> Selection:
        if not self.alpha:
            return super().at_prompt(visuals)
        counts = visuals.budgets(self.alone if self.keep is None else self.keep, self.of)  # type: ignore[arg-type]
        return self.at_selection(visuals, Selection(_weighted(visuals, counts, self.alpha), counts))

    def at_selection(self, visuals: Visuals, selection: Selection) -> Selection:
        found = super().at_selection(visuals, selection)
        if self.place == "middle" and found.into is not None:
            found = _in_the_middle(visuals, found)
        if self.cap and found.sizes is not None:
            found = replace(found, sizes=found.sizes.clamp(max=self.cap))
        return found


def _weighted(visuals: Visuals, counts: tuple[int, ...], alpha: float) -> Tensor:
    """bool (G, M): the most salient token, then each time that of the largest distance * saliency ** alpha."""
    unit = torch.nn.functional.normalize(visuals.tokens.float(), dim=-1)
    worth = visuals.saliency().clamp(min=1e-12) ** alpha
    group, limit = torch.arange(len(unit)), torch.tensor(counts)
    pick = worth.masked_fill(~visuals.valid, -torch.inf).argmax(1)
    keep, near = torch.zeros_like(visuals.valid), torch.full_like(worth, -torch.inf)
    for step in range(max(counts)):
        keep[group, pick] |= step < limit
        near = torch.maximum(near, (unit @ unit[group, pick][..., None])[..., 0])
        gain = ((1 - near) * worth).masked_fill(keep | ~visuals.valid, -torch.inf)
        pick = gain.argmax(1)
    return keep


def _in_the_middle(visuals: Visuals, found: Selection) -> Selection:
    """The same clusters, each kept at the member nearest to the mean place of its members."""
    assert found.into is not None
    most = visuals.valid.shape[1]
    grids = [[torch.from_numpy(one.y).float(), torch.from_numpy(one.x).float()] for one in visuals.layout.pictures]
    rows, columns = (
        torch.stack([torch.nn.functional.pad(grid[axis], (0, most))[:most] for grid in grids])
        for axis in (0, 1)
    )  # fmt: skip
    rows, columns = (part.gather(1, visuals.cells.clamp(min=0)) for part in (rows, columns))
    into, real = found.into, visuals.valid.float()
    number = torch.zeros_like(real).scatter_add(1, into, real).clamp(min=1)
    apart = torch.zeros_like(real)
    for at in (rows, columns):
        mean = torch.zeros_like(real).scatter_add(1, into, at * real) / number
        apart = apart + (at - mean.gather(1, into)) ** 2
    apart = apart.masked_fill(~visuals.valid, torch.inf)
    least = torch.full_like(apart, torch.inf).scatter_reduce(1, into, apart, "amin")
    slot = torch.arange(apart.shape[1]).expand_as(into)
    best = torch.where(apart <= least.gather(1, into), slot, len(slot[0]))
    first = torch.full_like(into, len(slot[0])).scatter_reduce(1, into, best, "amin")
    new = torch.where(visuals.valid, first.gather(1, into), slot)
    keep = torch.zeros_like(found.keep).scatter(1, new, True) & visuals.valid
    size = torch.zeros_like(real).scatter_add(1, new, real)
    kept = torch.where(keep, slot, len(slot[0])).sort(1).values[:, : int(max(found.counts or ()))]
    sizes = size.gather(1, kept.clamp(max=len(slot[0]) - 1))
    return replace(found, keep=keep, into=new, sizes=None if found.sizes is None else sizes)
