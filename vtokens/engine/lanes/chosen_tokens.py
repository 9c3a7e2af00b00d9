"""A negative prompt with some of the visual tokens that the prompt's own lane kept (`Tokens`)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from vtokens.core.layout import Layout
from vtokens.engine.lanes.fed import Fed, Start, numbered
from vtokens.engine.state.reduce import reduce
from vtokens.engine.state.signals import Signals
from vtokens.engine.state.view import View, gather, spread
from vtokens.strategies.base import Strategy
from vtokens.strategies.views.logits import Tokens
from vtokens.strategies.views.visuals import Visuals


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
