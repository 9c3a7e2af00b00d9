"""ApET: a few tokens rebuild the others; what they cannot rebuild stays, and what they can joins the nearest of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from vtokens.core.budget import Keep
from vtokens.core.facts import Facts
from vtokens.core.on_device import on_device
from vtokens.kernels import first_most
from vtokens.strategies.average import early, late
from vtokens.strategies.base import Strategy
from vtokens.strategies.checks import check_layer
from vtokens.strategies.needs import Needs
from vtokens.strategies.registry import register
from vtokens.strategies.selection import Selection
from vtokens.strategies.views.visuals import Visuals

_RIDGE = 1e-5
_GOES_ON = 1 / 3
"""How much of the first stage the second one leaves, as in the release: 288 and 96 for an average of 192."""
_ROOM = 1 << 24
"""Most cosines held at once, in elements: 64 MiB."""


@register(
    "apet",
    paper="ApET, arXiv:2602.19870",
    venue="CVPR 2026",
    evidence="parity",
    shown="tests/strategies/test_apet.py::test_the_released_code_gives_the_same_features",
)
@dataclass(frozen=True)
class Apet(Strategy):
    """Keeps the tokens that a few basis tokens rebuild worst, and the basis; the others join the nearest kept ones.

    The basis is chosen farthest-first. Each token's error is its distance from the least-squares combination of the
    basis, (B B^T + 1e-5 I) w = B x. Dropped tokens join the kept one of highest cosine, whose feature becomes their
    mean. That is done before the decoder, and once more before `layer`. No attention is read.

    Attributes:
        keep: share or count per picture, on average over the decoder's layers.
        basis: how many tokens rebuild the others.
        layer: decoder layer of the second stage, 1 to depth - 1; None: half of the depth; 0: there is none, and `keep`
            is what the first leaves.
        places: basis tokens stay at their "own" places, or, as the release has it, stand in the places of the tokens
            of next lower error ("released").
        positions: "original" or "compact" numbers, as for a `ScorePruner`.
    """

    keep: Keep = 0.25
    basis: int = 10
    layer: int | None = None
    places: Literal["own", "released"] = "own"
    positions: Literal["original", "compact"] = "original"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.basis < 1:
            raise ValueError(f"basis={self.basis!r} is out of range: an int from 1 on is allowed")

    def _layer(self, depth: int) -> int:
        return depth // 2 if self.layer is None else self.layer

    def needs(self, facts: Facts) -> Needs:
        layer = check_layer("layer", self._layer(facts.depth), facts.depth)
        return Needs(layer=(layer,) if layer else (), compact=self.positions == "compact", blends=True)

    def at_prompt(self, visuals: Visuals) -> Selection:
        asked, layer = visuals.budgets(self.keep), self._layer(visuals.observed.depth)
        return self._compressed(visuals, early(self, visuals, asked, layer, _GOES_ON) if layer else asked)

    def at_layer(self, visuals: Visuals, index: int) -> Selection:
        return self._compressed(visuals, late(self, visuals, index))

    def _compressed(self, visuals: Visuals, counts: tuple[int, ...]) -> Selection:
        tokens, valid = visuals.tokens.detach().float(), visuals.valid
        # Of very few tokens no more than half are basis.
        slots = tuple(min(self.basis, count // 2) for count in counts)
        picks, there = farthest_first(tokens, valid, self.basis)
        width = on_device(slots, picks.device)[:, None]
        first = there & (torch.arange(picks.shape[1], device=picks.device) < width)
        # A basis of nearly all tokens would explain all, and rounding choose: half of them explain the others.
        half = on_device([count // 2 for count in visuals.counts], picks.device)[:, None]
        explains = there & (torch.arange(picks.shape[1], device=picks.device) < half)
        errors = unexplained(tokens, picks, explains).masked_fill(~valid, -torch.inf)
        if self.places == "released":
            rest = tuple(count - slot for count, slot in zip(counts, slots, strict=True))
            keep, best = visuals.best(errors, counts).keep, visuals.best(errors, rest).keep
            into, weights = _joined(tokens, valid & ~keep, best, rest)
            return _moved(Selection(keep, counts), into, weights, keep & ~best, picks, first)
        seeds = torch.zeros_like(valid).scatter(1, picks.where(first, picks[:, :1]), first[:, :1].expand_as(picks))
        keep = visuals.best(errors.masked_fill(seeds, torch.finfo(torch.float32).max), counts).keep
        into, weights = _joined(tokens, valid & ~keep, keep & ~seeds, counts)
        return Selection(keep, counts, weights=weights, into=into)


def farthest_first(tokens: Tensor, valid: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """int64 and bool (G, K): `count` tokens of each set, each the farthest from those before, and which are distinct.

    The first one is the farthest from the set's mean; distances are Euclidean.
    """
    mean = tokens.masked_fill(~valid[..., None], 0).sum(1, keepdim=True) / valid.sum(1).clamp(min=1)[:, None, None]
    least = (tokens - mean).square().sum(2).masked_fill(~valid, -torch.inf)
    group, picks, there = torch.arange(len(tokens), device=tokens.device), [], []
    nearest = torch.full_like(least, torch.inf).masked_fill(~valid, -torch.inf)
    for step in range(min(count, tokens.shape[1])):
        far = least if step == 0 else nearest
        # Two tokens are equally far from their mean: the earlier one is taken, whatever rounding makes of it.
        picks.append(first_most(far) if step == 0 else far.argmax(1))
        there.append((far.gather(1, picks[-1][:, None]) > 0)[:, 0] if step else valid.any(1))
        nearest = torch.minimum(nearest, (tokens - tokens[group, picks[-1]][:, None]).square().sum(2))
    return torch.stack(picks, 1), torch.stack(there, 1)


def unexplained(tokens: Tensor, picks: Tensor, there: Tensor) -> Tensor:
    """float32 (G, M): the distance of each token (G, M, D) from what the basis tokens `picks` make of it."""
    basis = tokens.gather(1, picks[..., None].expand(-1, -1, tokens.shape[2])) * there[..., None]
    exact = torch.float32 if tokens.device.type == "mps" else torch.float64  # the ridge is far below float32's reach
    gram = basis.to(exact) @ basis.to(exact).transpose(1, 2)
    gram = gram + _RIDGE * torch.eye(gram.shape[1], device=gram.device, dtype=exact)
    shares, _ = torch.linalg.solve_ex(gram, (basis @ tokens.transpose(1, 2)).to(exact))
    return (tokens - shares.transpose(1, 2).to(tokens.dtype) @ basis).norm(dim=2)


def _joined(tokens: Tensor, joins: Tensor, kept: Tensor, counts: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """(G, M): the kept token that each goes into, itself unless it `joins` one, and how much of it: means."""
    own, total = torch.arange(kept.shape[1], device=kept.device).expand(kept.shape), kept.shape[1]
    where = own.masked_fill(~kept, total).sort(1).values[:, : max(1, *counts)]
    safe, unit = where.clamp(max=total - 1), normalize(tokens, dim=-1)
    targets = unit.gather(1, safe[..., None].expand(-1, -1, unit.shape[2])).transpose(1, 2)
    found, step = [], max(1, _ROOM // (len(kept) * where.shape[1]))
    for part in unit.split(step, 1):
        best = (part @ targets).masked_fill((where == total)[:, None], -torch.inf).argmax(2)
        found.append(safe.gather(1, best))
    into = torch.where(joins, torch.cat(found, 1), own)
    size = torch.zeros_like(tokens[..., 0]).scatter_add(1, into, (joins | kept).float())
    return into, torch.where(joins | kept, 1 / size.gather(1, into).clamp(min=1), 1.0)


def _moved(found: Selection, into: Tensor, weights: Tensor, taken: Tensor, picks: Tensor, first: Tensor) -> Selection:
    """A selection in which the `first` of the basis tokens `picks` stand in the places that are `taken`, in order."""
    total = taken.shape[1]
    own = torch.arange(total, device=taken.device).expand(taken.shape)
    place = own.masked_fill(~taken, total).sort(1).values[:, : picks.shape[1]]
    use = first & (place < total)
    # What is not used is written behind the last token, and cut off.
    to = place.where(use, total)
    goes = torch.nn.functional.pad(own, (0, 1)).scatter(1, picks.where(use, total), to)[:, :total]
    filled = torch.nn.functional.pad(torch.zeros_like(taken), (0, 1)).scatter(1, to, use)[:, :total]
    weights = torch.stack([weights.masked_fill(filled, 0.0), (goes != own).float()], 2)
    return Selection(found.keep, found.counts, weights=weights, into=torch.stack([into, goes], 2))
