"""The prompt of a negative branch, made from what the real pass was given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from vtokens.adapters import Adapter
from vtokens.core.layout import Layout
from vtokens.engine.call import Call
from vtokens.engine.reduction import View, gather, reduce, spread
from vtokens.engine.seen import Seen, seen_in
from vtokens.strategies.base import Strategy
from vtokens.strategies.views.logits import Negative, NoPicture, Pixels, Tokens
from vtokens.strategies.views.visuals import Visuals


@dataclass
class Fed:
    """What the branch is fed of one pass.

    Attributes:
        embeds: (B, T, D).
        valid: bool (B, T), False on padding; None if there is none.
        positions: int64 (B, T) or (C, B, T), rotary positions.
        rows: int64 (B, N), the branch's row for each position of the real pass, below 0 where it has none; None if they
            are the same.
        layout: where its visual tokens sit; None if it has none.
        seen: what the tower saw of its pictures.
        renumbered: positions are the branch's own, so that those of what follows lag behind or run ahead.
    """

    embeds: Tensor
    valid: Tensor | None
    positions: Tensor
    rows: Tensor | None = None
    layout: Layout | None = None
    seen: list[Seen] = field(default_factory=list)
    renumbered: bool = False

    def of(self, rows: Tensor, real: Tensor | None) -> Fed:
        """Some rows (B, T'), in order; `real` (B, T') is False where a sample has fewer."""
        back = torch.full(self.embeds.shape[:2], -1, device=rows.device)
        number = torch.arange(rows.shape[1], device=rows.device).expand_as(rows)
        number = number if real is None else torch.where(real, number, -1)
        back = back.scatter_reduce(1, rows, number, "amax")
        valid = real if self.valid is None else gather(self.valid, rows, 1)
        if self.valid is not None and valid is not None and real is not None:
            valid = valid & real
        positions = gather(self.positions, rows, self.positions.dim() - 1)
        return Fed(gather(self.embeds, rows, 1), valid, positions, back, self.layout, self.seen)


def build(call: Call, kind: Negative, strategy: Strategy) -> Fed:
    """The branch's prompt for a pass that brought pictures, other than one given apart (`Prompt`)."""
    assert call.fed is not None
    assert call.fed_layout is not None
    embeds = call.fed["inputs_embeds"]
    layout = call.fed_layout.to(embeds.device)
    valid = None if call.fed_mask is None else call.fed_mask[:, call.past :]
    same = Fed(embeds, valid, call.fed["position_ids"], None, layout, call.seen)
    if isinstance(kind, NoPicture):
        return alone(same, layout)
    if isinstance(kind, Pixels):
        return with_pixels(call, same, layout, kind)
    return with_tokens(call, same, layout, kind, strategy) if isinstance(kind, Tokens) else same


def alone(same: Fed, layout: Layout) -> Fed:
    """The text by itself, numbered anew from where the pass begins."""
    rows, real = layout.text_rows()
    fed = numbered(same.of(rows, real), same, layout)
    fed.layout, fed.seen = None, []
    return fed


def numbered(fed: Fed, same: Fed, layout: Layout) -> Fed:
    """Some rows of a pass, numbered one after the other from where the pass begins."""
    positions = same.positions if same.positions.dim() == 2 else same.positions[0]
    first = torch.where(layout.valid, positions, positions.max()).amin(1, keepdim=True)
    valid = torch.ones(fed.embeds.shape[:2], device=first.device) if fed.valid is None else fed.valid
    number = (valid.long().cumsum(1) - 1).clamp(min=0)
    fed.positions = (number.to(first.device) + first).expand(*same.positions.shape[:-2], -1, -1)
    fed.renumbered = True
    return fed


def with_pixels(call: Call, same: Fed, layout: Layout, kind: Pixels) -> Fed:
    """The prompt with the features of changed pixels; the tower runs again."""
    same.seen, features = [], []
    for seen in call.seen:
        if any(isinstance(value, Tensor) and value.is_meta for value in seen.inputs.values()):
            raise ValueError("stored features hold no pixels, which this strategy changes: pass pixel_values")
        inputs = call.adapter.change_pixels(seen.modality, seen.inputs, kind.change)
        output = getattr(call.adapter.multimodal, f"get_{seen.modality}_features")(**inputs)
        features += [part.reshape(-1, part.shape[-1]) for part in output.pooler_output]
        found = seen_in(seen.modality, output, True, call.adapter)
        same.seen += [] if found is None else [found]
    flat = torch.cat(features).to(same.embeds)
    inside = (layout.image >= 0)[..., None]
    same.embeds = torch.where(inside, flat[feature_rows(layout, same.seen)], same.embeds)
    return same


def feature_rows(layout: Layout, seen: Sequence[Seen]) -> Tensor:
    """int64 (B, N): which feature stands at each position, among those of all runs of the tower; arbitrary for text."""
    lengths = [len(picture) for part in seen for picture in part.pictures]
    starts = torch.tensor([0, *lengths]).cumsum(0)[list(layout.source)].to(layout.image.device)
    return starts[layout.image.clamp(min=0)] + layout.cell.clamp(min=0)


def with_tokens(call: Call, same: Fed, layout: Layout, kind: Tokens, strategy: Strategy) -> Fed:
    """The prompt with some of the visual tokens that the real pass kept until an exit, or to its end."""
    kept, view = call.layout, call.view
    assert kept is not None
    kept = kept.to(layout.visual.device)
    if call.left is not None:
        stay = (spread(kept.visual.long(), view, call.length) > 0) | call.left.to(kept.visual.device)
        reduced = reduce(layout, stay, layout.count(stay), None)
        view = None if reduced is None else reduced[0]
        kept = layout if view is None else view.layout
    hidden = same.embeds if view is None else gather(same.embeds, view.index, 1)
    seen = replace(call, view=view, layout=kept)
    visuals = Visuals(hidden, kept, strategy.grouping, seen)
    selection = kind.select(visuals)
    stay = kept.groups(strategy.grouping).scatter(selection.keep, kept.visual)
    counts = selection.counts if strategy.grouping == "image" and selection.counts is not None else kept.count(stay)
    if view is not None:
        # Rows that pad a view point anywhere; none of them is a visual token, so none of them stays.
        index = view.index.to(stay.device)
        stay = torch.zeros_like(layout.visual, dtype=torch.long).scatter_reduce(1, index, stay.long(), "amax") > 0
    if kind.blank:
        same.embeds = same.embeds.masked_fill((layout.visual & ~stay)[..., None], 0)
        return same
    reduced = reduce(layout, stay, counts, None, kind.newlines)
    if kind.arrange is not None:
        return arranged(same, layout, reduced, spread(kind.arrange(visuals), view, call.length))
    if reduced is None:
        return same
    short, rows = reduced
    fed = same.of(rows, short.real)
    fed.layout = short.layout
    return fed


def arranged(same: Fed, layout: Layout, reduced: tuple[View, Tensor] | None, scores: Tensor) -> Fed:
    """What is left of a prompt, numbered anew, the tokens of each picture by their scores (B, N), highest first."""
    place = torch.arange(layout.visual.shape[1], device=layout.visual.device).expand_as(layout.visual)
    short, real, rows = (layout, None, place) if reduced is None else (reduced[0].layout, reduced[0].real, reduced[1])
    slot = torch.arange(rows.shape[1], device=rows.device).expand_as(rows)
    # A picture's tokens stand together: all of them sort as its first one does.
    begins = (short.image < 0) | (short.image != torch.nn.functional.pad(short.image, (1, 0), value=-1)[:, :-1])
    first = torch.where(begins, slot, 0).cummax(1).values
    order = scores.to(rows.device).gather(1, rows).argsort(dim=1, descending=True, stable=True)
    order = order.gather(1, first.gather(1, order).argsort(dim=1, stable=True))
    fed = same.of(rows.gather(1, order), real)
    fed.layout = short.take(order, real, short.counts, short.lead)
    return numbered(fed, same, layout)


def with_prompt(call: Call, given: Mapping[str, Any], adapter: Adapter) -> Fed:
    """Another prompt about the same pictures, and the tokens of the answer that came with the real one.

    Args:
        call: the pass.
        given: `input_ids` (B', N') and what else the processor made of it; each row serves for as many of the batch.
        adapter: the model's.

    Raises:
        ValueError: rows or pictures do not match.
    """
    assert call.fed is not None
    assert call.fed_layout is not None
    assert call.ends is not None
    embeds = call.fed["inputs_embeds"]
    ids = given["input_ids"].to(embeds.device)
    if len(embeds) % len(ids):
        raise ValueError(f"the negative prompt has {len(ids)} rows, the batch {len(embeds)}: one for each is needed")
    repeats, mask = len(embeds) // len(ids), given.get("attention_mask")
    mask = torch.ones_like(ids) if mask is None else mask.to(embeds.device)
    if not mask[:, -1].all():
        raise ValueError("the negative prompt is padded on the right, where the answer follows: pad on the left")
    positions = adapter.prompt_positions(
        {**given, "input_ids": ids, "attention_mask": mask}, [s.inputs for s in call.seen]
    )
    ids, mask = ids.repeat_interleave(repeats, 0), mask.repeat_interleave(repeats, 0)
    positions = positions.repeat_interleave(repeats, positions.dim() - 2)
    width = ids.shape[1]
    if call.asked > 1:  # the answer, or candidates of speculative decoding, come after both prompts
        more = call.inputs["input_ids"][:, 1 - call.asked :].to(ids.device)
        last = positions.amax(-1, keepdim=True)
        last = last.amax(0, keepdim=True).expand_as(last) if last.dim() == 3 else last
        positions = torch.cat([positions, last + torch.arange(1, call.asked, device=ids.device)], -1)
        ids = torch.cat([ids, more], 1)
        mask = torch.cat([mask, call.fed_layout.valid[:, 1 - call.asked :].to(mask)], 1)
    hidden = adapter.multimodal.get_input_embeddings()(ids).to(embeds)
    here, there = adapter.placeholders({"input_ids": ids}), adapter.placeholders(call.inputs)
    for modality, places in here.items():
        if not torch.equal(places.sum(1), there[modality].to(places.device).sum(1)):
            raise ValueError(
                f"the negative prompt's rows hold {places.sum(1).tolist()} {modality} placeholder positions, those of "
                f"the prompt {there[modality].sum(1).tolist()}: both must be about the same pictures, in one order"
            )
        hidden = hidden.masked_scatter(places[..., None], embeds[there[modality].to(embeds.device)])
    pictures = {seen.modality: seen.pictures for seen in call.seen}
    layout = Layout.build(here, pictures, mask.bool())
    valid = mask.bool() if layout.padded else None
    behind = torch.arange(embeds.shape[1], device=ids.device) - call.ends.to(ids.device)
    rows = torch.where(behind >= 0, (behind + width - 1).clamp(max=ids.shape[1] - 1), -1)
    return Fed(hidden, valid, positions, rows, layout, list(call.seen), renumbered=True)
