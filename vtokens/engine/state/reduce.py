"""Dropping visual tokens: which columns of a sequence stay, and the view of those that do.

Example: two samples, the second without a picture; v1 is dropped. What pads the shorter one stands on the left.

    seen    t0  v0  v1  t1        columns  0  1  3        new view    t0  v0  t1
            -   -   t0  t1                 1  2  3                    -   t0  t1
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vtokens.core.columns import columns_of
from vtokens.core.layout import Layout
from vtokens.engine.state.view import View


def reduce(
    layout: Layout, stay: Tensor, counts: Sequence[int], view: View | None, newlines: bool = True
) -> tuple[View, Tensor] | None:
    """Drop the visual tokens outside `stay`.

    Args:
        layout: what is seen now.
        stay: bool (B, W), True on visual tokens that stay; other positions always stay.
        counts: visual tokens that stay of each picture, on the host.
        view: how `layout` relates to the fed sequence; None if they are the same.
        newlines: positions of a picture that hold none of its features stay as well.

    Returns:
        The new view, and the columns (B, W') to gather from what is seen now; None if nothing is dropped.
    """
    left = layout.newlines if newlines else (0,) * len(layout.newlines)
    if tuple(counts) == layout.counts and left == layout.newlines:
        return None
    own = layout.per_sample([count + lines for count, lines in zip(counts, left, strict=True)])
    kept = [others + size for others, size in zip(layout.outside(), own, strict=True)]
    longest = max(kept)
    # Left padding goes too: what remains is padded anew, on the left, so that the last position stays last.
    others = ~layout.visual if newlines else layout.image < 0
    first = torch.tensor(layout.lead, dtype=torch.long).to(stay.device)[:, None]
    seen = (stay | others) & (torch.arange(stay.shape[1], device=stay.device) >= first)
    columns, there = columns_of(seen, longest)
    lead = [longest - k for k in kept]
    real = there if any(lead) else None
    index = columns if view is None else view.index.to(columns.device).gather(1, columns)
    return View(index, real, layout.take(columns, real, counts, lead, left)), columns
