"""FrameFusion: layer by layer, tokens join what stands at their place one frame before, until the budget is spent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch.nn.functional import cosine_similarity, pad

from vtokens.core.budget import Keep, share_of
from vtokens.core.facts import Facts
from vtokens.core.on_device import on_device
from vtokens.core.ranks import rank
from vtokens.kernels import TIE
from vtokens.strategies.checks import check_range
from vtokens.strategies.needs import Needs
from vtokens.strategies.registry import register
from vtokens.strategies.selection import Selection
from vtokens.strategies.signals import Attention
from vtokens.strategies.video_pruner import VideoPruner
from vtokens.strategies.views.frames import Frames
from vtokens.strategies.views.visuals import Visuals


@dataclass(frozen=True)
class Progress:
    """How far a video has come.

    Attributes:
        shares: of its tokens that each layer had so far.
        before: tokens that the last merging saw.
        limit: how many of them it might merge.
        phase: "merge", then "prune" in one layer, or "done".
    """

    shares: tuple[float, ...] = ()
    before: int = 0
    limit: int = 0
    phase: str = "merge"


@register(
    "framefusion",
    paper="FrameFusion, arXiv:2501.01986",
    venue="ICCV 2025",
    evidence="text",
    shown="tests/strategies/test_framefusion.py::test_merging_as_worked_out_by_hand",
)
@dataclass(frozen=True)
class FrameFusion(VideoPruner):
    """Merges tokens into those of the frame before in the first layers, then prunes once, so that layers cost `keep`.

    Before layer 0 and each later one a token joins the one left at its place in an earlier frame, if their cosine is
    `alike` or more; runs become their mean. At most so many join that all layers together see `keep` of the tokens on
    average: the most similar. When a share below `stop` joins, merging ends, and before the next layer those stay that
    get most attention in the layer before (mean over heads and all rows), as many as spend the budget.

    Attributes:
        keep: share of the video's tokens, or count, that a layer sees on average (the paper's cost); images stay whole.
        alike: the least cosine of tokens that are merged.
        stop: the share of tokens below which merging ends.

    Raises:
        ValueError: `keep` is so small that the layers before the first prune spend it, where little is alike: a share
            is refused when it is attached, a count in the first such pass.
    """

    keep: Keep = 0.3
    alike: float = 0.6
    stop: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("alike", self.alike, -1, 1)
        check_range("stop", self.stop, 0, 1)

    def check(self, facts: Facts) -> None:
        first = next(iter(facts.behind_attending), 0)
        if isinstance(self.keep, float) and self.keep * facts.depth <= first:
            raise ValueError(
                f"keep={self.keep:g} is spent before 'framefusion' can prune: of {facts.depth} layers the first one "
                f"that it can prune by attention is layer {first}, and where little is alike those before it see "
                f"whole videos. A share above {first}/{facts.depth} = {first / facts.depth:.3g} is allowed"
            )

    def needs(self, facts: Facts) -> Needs:
        read = [Attention(layer - 1, "all", lazy=True) for layer in facts.behind_attending]
        return Needs(signals=read, layer=range(1, facts.depth))

    def at_prompt(self, visuals: Visuals) -> Selection | None:
        return self._act(visuals, 0)

    def at_layer(self, visuals: Visuals, index: int) -> Selection | None:
        return self._act(visuals, index)

    def _act(self, visuals: Visuals, index: int) -> Selection | None:
        frames = visuals.frames
        if frames is None:
            return None
        notes, counts = visuals.observed.notes(self), list(visuals.counts)
        limits, prunes = [0] * len(frames.rows), False
        # Behind a layer without attention, the prune waits for one that has it.
        known = index > 0 and visuals.observed.knows(Attention(index - 1, "all", lazy=True))
        for number, row in enumerate(frames.rows):
            whole = visuals.layout.pictures[row].tokens
            cost = share_of(whole, self.keep)
            now = self._next(notes.get(row, Progress()), counts[row], whole, index)
            drop = int(counts[row] * _sparsity(now.shares, cost, visuals.observed.depth, counts[row] / whole))
            if now.phase == "merge":
                limits[number] = drop
                now = replace(now, before=counts[row], limit=drop)
            elif now.phase == "prune" and known:
                self._check_count(whole, index, visuals.observed.depth)
                prunes = prunes or drop > 0
                counts[row] = max(1, counts[row] - drop)
                now = replace(now, phase="done")
            notes[row] = now
        merges = self._merging(visuals, frames, limits) if any(limits) else None
        if not prunes:
            return merges
        scores = visuals.attention(index - 1, "all", lazy=True)
        found = visuals.best(scores, counts)
        if merges is None:
            return found
        return replace(merges, keep=merges.keep & found.keep)  # a video does one or the other

    def _check_count(self, whole: int, index: int, depth: int) -> None:
        """Raise `ValueError` if the layers before the prune in front of layer `index` cost more than a count is worth.

        What `check` refuses of shares; what a count is worth, only a video of `whole` tokens tells.
        """
        if isinstance(self.keep, int) and self.keep * depth <= index * whole:
            raise ValueError(
                f"keep={self.keep} was spent before 'framefusion' could prune a video of {whole} tokens: little of it "
                f"is alike, so that {index} of {depth} layers saw it before. {index * whole // depth + 1} or more are "
                "allowed for it, or a share"
            )

    def _next(self, last: Progress, count: int, whole: int, index: int) -> Progress:
        """How far a video has come once layer `index` - 1 ran on `count` of its tokens."""
        if index == 0:
            return Progress()
        now = replace(last, shares=(*last.shares, count / whole))
        if last.phase != "merge":
            return now
        merged = last.before - count
        if merged >= last.limit:
            return replace(now, phase="done")
        return replace(now, phase="prune") if merged < self.stop * last.before else now

    def _merging(self, visuals: Visuals, frames: Frames, limits: Sequence[int]) -> Selection:
        """Each token goes into the first one of its run; how many do, only the device knows."""
        tokens, real = frames.gather(visuals.tokens).float(), frames.real
        _, length, places = real.shape
        number = torch.arange(length, device=real.device)[:, None].expand_as(real)
        before = pad(torch.where(real, number, -1).cummax(1).values[:, :-1], (0, 0, 1, 0), value=-1)
        other = tokens.gather(1, before.clamp(min=0)[..., None].expand_as(tokens))
        like = cosine_similarity(tokens, other, dim=-1)
        like = like.masked_fill(like > 1 - TIE, 1).masked_fill(~real | (before < 0), -torch.inf)
        most = on_device(limits, real.device)[:, None]
        joins = ((rank(-like.flatten(1)) < most) & (like.flatten(1) >= self.alike)).view_as(real)
        first = torch.where(real & ~joins, number, -1).cummax(1).values.clamp(min=0)
        own = torch.arange(length * places, device=real.device).view(1, length, places)
        into = torch.where(real, first * places + own[:, :1], own).flatten(1)
        size = torch.zeros_like(into).scatter_add(1, into, real.flatten(1).long()).gather(1, into).clamp(min=1)
        keep = frames.scatter(~joins, visuals.valid) & visuals.valid
        return frames.merged(Selection(keep), into, 1 / size)


def _sparsity(shares: Sequence[float], cost: float, depth: int, share: float) -> float:
    """The part of a video's tokens to leave before the next layer, so that all layers see `cost` of them on average.

    Args:
        shares: of the tokens, that each layer had so far.
        cost: the share that layers are to see on average.
        depth: how many layers there are.
        share: of the tokens, that is left now.
    """
    needed = (depth * cost - sum(shares)) / ((depth - len(shares)) * share)
    return min(max(1 - needed, 0.0), 1.0)
