"""What a negative prompt is fed, made from what the prompt was fed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from vtokens.adapters import Adapter
from vtokens.core.layout import Layout
from vtokens.engine.state.blocks import Blocks, blocks
from vtokens.engine.state.injection import Injection
from vtokens.engine.state.lane import Lane, Pictures
from vtokens.engine.state.reduce import reduce
from vtokens.engine.state.request import Request
from vtokens.engine.state.signals import Signals
from vtokens.engine.state.tower_run import TowerRun, feature_index, run_in
from vtokens.engine.state.view import View, columns_at, gather, spread
from vtokens.strategies.base import Strategy
from vtokens.strategies.views.logits import Negative, NoPicture, Pixels, Tokens
from vtokens.strategies.views.visuals import Visuals


@dataclass(frozen=True)
class Start:
    """What a negative prompt is made from: a pass with pictures, and what the decoder was given in it.

    Attributes:
        request: the call that brought the pictures.
        lane: the lane of the prompt.
        pictures: that lane's.
        embeds: (B, N, D), before anything was dropped.
        positions: int64 (B, N) or (C, B, N), rotary positions.
        side: what else the decoder was given that every lane is given.
    """

    request: Request
    lane: Lane
    pictures: Pictures
    embeds: Tensor
    positions: Tensor
    side: Mapping[str, Any]


@dataclass(frozen=True)
class Fed:
    """What the lane of the negative prompt is fed in one pass.

    Attributes:
        embeds: (B, T, D).
        valid: bool (B, T), False on padding; None if there is none.
        positions: int64 (B, T) or (C, B, T), rotary positions.
        column: int64 (B, N), the negative prompt's column for each position of the real pass, below 0 where it has
            none; None if they are the same.
        layout: where its visual tokens sit; None if it has none.
        runs: what the tower saw of its pictures.
        renumbered: positions are its own, so that those of what follows lag behind or run ahead.
        injection: what is added to its states behind the first layers; None if nothing.
        blocks: which of its positions see what comes after them; None if none do.
    """

    embeds: Tensor
    valid: Tensor | None
    positions: Tensor
    column: Tensor | None = None
    layout: Layout | None = None
    runs: Sequence[TowerRun] = ()
    renumbered: bool = False
    injection: Injection | None = None
    blocks: Blocks | None = None

    def of(self, columns: Tensor, real: Tensor | None) -> Fed:
        """Some columns (B, T'), in order; `real` (B, T') is False where a sample has fewer."""
        back = columns_at(columns, real, self.embeds.shape[1])
        valid = real if self.valid is None else gather(self.valid, columns, 1)
        if self.valid is not None and valid is not None and real is not None:
            valid = valid & real
        positions = gather(self.positions, columns, self.positions.dim() - 1)
        injection = None if self.injection is None else self.injection.at(columns)
        embeds = gather(self.embeds, columns, 1)
        blocks = None if self.blocks is None else self.blocks.at(columns, real)
        return Fed(embeds, valid, positions, back, self.layout, self.runs, injection=injection, blocks=blocks)


def build(start: Start, kind: Negative, strategy: Strategy) -> Fed:
    """The negative prompt of a pass with pictures, other than one given apart (`Prompt`)."""
    layout, both_ways = start.pictures.layout.to(start.embeds.device), start.lane.blocks
    same = Fed(
        start.embeds, start.lane.fed_now(), start.positions, None, layout, start.pictures.runs,
        injection=start.pictures.injection, blocks=None if both_ways is None else Blocks(both_ways.ids, False),
    )  # fmt: skip
    if isinstance(kind, NoPicture):
        return alone(same, layout)
    if isinstance(kind, Pixels):
        return with_pixels(start.lane.adapter, same, layout, kind)
    return with_tokens(start, same, layout, kind, strategy) if isinstance(kind, Tokens) else same


def alone(same: Fed, layout: Layout) -> Fed:
    """The text by itself, numbered anew from where the pass begins."""
    columns, real = layout.text_columns()
    return replace(numbered(same.of(columns, real), same, layout), layout=None, runs=(), injection=None)


def numbered(fed: Fed, same: Fed, layout: Layout) -> Fed:
    """Some columns of a pass, numbered one after the other from where the pass begins."""
    positions = same.positions if same.positions.dim() == 2 else same.positions[0]
    first = torch.where(layout.valid, positions, positions.max()).amin(1, keepdim=True)
    valid = torch.ones(fed.embeds.shape[:2], device=first.device) if fed.valid is None else fed.valid
    number = (valid.long().cumsum(1) - 1).clamp(min=0)
    positions = (number.to(first.device) + first).expand(*same.positions.shape[:-2], -1, -1)
    return replace(fed, positions=positions, renumbered=True)


def with_pixels(adapter: Adapter, same: Fed, layout: Layout, kind: Pixels) -> Fed:
    """The prompt with the features of changed pixels; the tower runs again."""
    runs, features, deeper = list[TowerRun](), [], []
    for run in same.runs:
        if any(isinstance(value, Tensor) and value.is_meta for value in run.inputs.values()):
            raise ValueError("stored features hold no pixels, which this strategy changes: pass pixel_values")
        inputs = adapter.change_pixels(run.modality, run.inputs, kind.change)
        output = getattr(adapter.multimodal, f"get_{run.modality}_features")(**inputs)
        features += [part.reshape(-1, part.shape[-1]) for part in output.pooler_output]
        if adapter.anatomy.deepstack is not None:
            entries = getattr(output, adapter.anatomy.deepstack.features)
            deeper.append([torch.cat(list(entry)) for entry in entries])
        found = run_in(run.modality, output, True, adapter)
        runs += [] if found is None else [found]
    flat = torch.cat(features).to(same.embeds)
    inside = (layout.image >= 0)[..., None]
    index = feature_index(layout, runs)
    injection = None
    if same.injection is not None:
        entries = [torch.cat(parts) for parts in zip(*deeper, strict=True)]
        injection = Injection(entries, torch.where(layout.image >= 0, index, -1))
    embeds = torch.where(inside, flat[index], same.embeds)
    return replace(same, embeds=embeds, runs=runs, injection=injection)


def with_tokens(start: Start, same: Fed, layout: Layout, kind: Tokens, strategy: Strategy) -> Fed:
    """The prompt with some of the visual tokens that its own lane kept until an exit, or to its end.

    Example: v1 was dropped by a pruner; of what is left, the strategy keeps v0, so that v2 goes.

        fed            t0  v0  v1  v2  t1
        lane kept      t0  v0      v2  t1     kept, hidden: what the strategy chooses from
        selection          yes     no
        stay           .   yes no  no  .      in fed positions
        negative       t0  v0          t1     or, with `Tokens.blank`, zeros at v1 and v2
    """
    view = start.lane.view
    kept = layout if view is None else view.layout.to(layout.visual.device)
    if start.pictures.lost is not None:
        lost = start.pictures.lost.to(kept.visual.device)
        stay = (spread(kept.visual.long(), view, start.lane.length) > 0) | lost
        reduced = reduce(layout, stay, layout.count(stay), None)
        view = None if reduced is None else reduced[0]
        kept = layout if view is None else view.layout
    hidden = same.embeds if view is None else gather(same.embeds, view.index, 1)
    visuals = Visuals(hidden, kept, strategy.grouping, Signals(start.lane, start.pictures, view))
    selection = kind.select(visuals)
    if selection.member is not None or selection.weights is not None or selection.sizes is not None:
        raise ValueError(
            f"{strategy.name!r} chooses the tokens of a negative prompt by a Selection with members, weights or sizes: "
            "which tokens it holds is all that it can say"
        )
    stay = kept.groups(strategy.grouping).scatter(selection.keep, kept.visual)
    counts = kept.per_picture(strategy.grouping, selection.counts)
    counts = kept.count(stay) if counts is None else counts
    if view is not None:
        # Columns that pad a view point anywhere; none of them is a visual token, so none of them stays.
        index = view.index.to(stay.device)
        stay = torch.zeros_like(layout.visual, dtype=torch.long).scatter_reduce(1, index, stay.long(), "amax") > 0
    if kind.blank:
        gone = layout.visual & ~stay
        injection = None if same.injection is None else same.injection.without(gone)
        return replace(same, embeds=same.embeds.masked_fill(gone[..., None], 0), injection=injection)
    reduced = reduce(layout, stay, counts, None, kind.newlines)
    if kind.arrange is not None:
        return arranged(same, layout, reduced, spread(kind.arrange(visuals), view, start.lane.length))
    if reduced is None:
        return same
    short, columns = reduced
    return replace(same.of(columns, short.real), layout=short.layout)


def arranged(same: Fed, layout: Layout, reduced: tuple[View, Tensor] | None, scores: Tensor) -> Fed:
    """What is left of a prompt, numbered anew, the tokens of each picture by their scores (B, N), highest first."""
    place = torch.arange(layout.visual.shape[1], device=layout.visual.device).expand_as(layout.visual)
    short, real, columns = (
        (layout, None, place) if reduced is None else (reduced[0].layout, reduced[0].real, reduced[1])
    )
    slot = torch.arange(columns.shape[1], device=columns.device).expand_as(columns)
    # A picture's tokens stand together: all of them sort as its first one does.
    begins = (short.image < 0) | (short.image != torch.nn.functional.pad(short.image, (1, 0), value=-1)[:, :-1])
    first = torch.where(begins, slot, 0).cummax(1).values
    order = scores.to(columns.device).gather(1, columns).argsort(dim=1, descending=True, stable=True)
    order = order.gather(1, first.gather(1, order).argsort(dim=1, stable=True))
    fed = replace(same.of(columns.gather(1, order), real), layout=short.take(order, real, short.counts, short.lead))
    return numbered(fed, same, layout)


def with_prompt(start: Start, given: Mapping[str, Any]) -> Fed:
    """Another prompt about the same pictures, and the tokens of the answer that came with the real one.

    Args:
        start: what the pass was fed.
        given: `input_ids` (B', N') and what else the processor made of it; each row serves for as many of the batch.

    Raises:
        ValueError: rows or pictures do not match.
    """
    adapter, embeds, asked, runs = start.lane.adapter, start.embeds, start.lane.asked, start.pictures.runs
    ids = given["input_ids"].to(embeds.device)
    if len(embeds) % len(ids):
        raise ValueError(f"the negative prompt has {len(ids)} rows, the batch {len(embeds)}: one for each is needed")
    repeats, mask = len(embeds) // len(ids), given.get("attention_mask")
    mask = torch.ones_like(ids) if mask is None else mask.to(embeds.device)
    if not mask[:, -1].all():
        raise ValueError("the negative prompt is padded on the right, where the answer follows: pad on the left")
    positions = adapter.prompt_positions(
        {**given, "input_ids": ids, "attention_mask": mask}, [run.inputs for run in runs]
    )
    ids, mask = ids.repeat_interleave(repeats, 0), mask.repeat_interleave(repeats, 0)
    positions = positions.repeat_interleave(repeats, positions.dim() - 2)
    width = ids.shape[1]
    hidden = adapter.multimodal.get_input_embeddings()(ids).to(embeds)
    here, there = adapter.placeholders({"input_ids": ids}), adapter.placeholders(start.request.inputs)
    if asked > 1:  # the answer, or candidates of speculative decoding, come after both prompts
        last = positions.amax(-1, keepdim=True)
        last = last.amax(0, keepdim=True).expand_as(last) if last.dim() == 3 else last
        positions = torch.cat([positions, last + torch.arange(1, asked, device=ids.device)], -1)
        hidden = torch.cat([hidden, embeds[:, 1 - asked :]], 1)
        here = {modality: torch.nn.functional.pad(places, (0, asked - 1)) for modality, places in here.items()}
        mask = torch.cat([mask, start.pictures.layout.valid[:, 1 - asked :].to(mask)], 1)
    for modality, places in here.items():
        if not torch.equal(places.sum(1), there[modality].to(places.device).sum(1)):
            raise ValueError(
                f"the negative prompt's rows hold {places.sum(1).tolist()} {modality} placeholder positions, those of "
                f"the prompt {there[modality].sum(1).tolist()}: both must be about the same pictures, in one order"
            )
        hidden = hidden.masked_scatter(places[..., None], embeds[there[modality].to(embeds.device)])
    injection = start.pictures.injection
    if injection is not None:
        injection = injection.moved(here, there)
    pictures = {run.modality: run.pictures for run in runs}
    layout = Layout.build(here, pictures, mask.bool())
    valid = mask.bool() if layout.padded else None
    behind = torch.arange(embeds.shape[1], device=ids.device) - start.pictures.ends.to(ids.device)
    column = torch.where(behind >= 0, (behind + width - 1).clamp(max=hidden.shape[1] - 1), -1)
    return Fed(
        hidden, valid, positions, column, layout, runs, True, injection, _blocks(start, given, repeats, hidden.shape[1])
    )


def _blocks(start: Start, given: Mapping[str, Any], repeats: int, length: int) -> Blocks | None:
    """The blocks of another prompt, whose rows are repeated and followed by an answer.

    Raises:
        ValueError: the kinds of its positions are missing, though the prompt had them.
    """
    visibility = start.lane.adapter.anatomy.visibility
    if visibility is None or start.lane.blocks is None:
        return None
    if given.get(visibility.kinds) is None:
        raise ValueError(
            f"the negative prompt has no {visibility.kinds}, by which the prompt's pictures see themselves both ways: "
            "give it as the processor makes it"
        )
    kinds = given[visibility.kinds].to(start.embeds.device).repeat_interleave(repeats, 0)
    return blocks(start.lane.adapter, {visibility.kinds: kinds}, 0, length, made=False)
