"""The signals of pruners: how much the vision tower, or a decoder layer, attends to what was fed."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import torch
from torch import Tensor

from vtokens.engine.attention.lane_mask import positions
from vtokens.engine.attention.masks import join
from vtokens.engine.attention.padding import present_padding
from vtokens.engine.attention.tap import Attention
from vtokens.engine.state.lane import Lane, Pictures
from vtokens.engine.state.tower_run import feature_index
from vtokens.engine.state.view import View, spread
from vtokens.kernels import attention_colmean
from vtokens.strategies.signals import QueryRows


class Signals:
    """The signals of a lane as `Visuals` reads them: at the positions of one view.

    Attributes:
        lane: which has pictures.
        pictures: the lane's.
        view: what is seen of what was fed; None if all of it.
        rows: the rows of the batch that are asked about; None if all.
    """

    def __init__(self, lane: Lane, pictures: Pictures, view: View | None, rows: list[int] | None = None) -> None:
        self.lane, self.pictures, self.view, self.rows = lane, pictures, view, rows

    def saliency(self, blocks: tuple[int, ...] | None) -> Tensor:
        """float32 (B, W): tower scores, 0 where there is no visual token."""
        return self._of_features(("saliency", blocks), lambda: [run.saliency(blocks) for run in self.pictures.runs])

    def copies(self) -> Tensor | None:
        """int64 (B, W): equal, above 0, at positions that hold one merged feature, 0 where there is no visual token."""
        if not any(run.merged for run in self.pictures.runs):
            return None
        return self._of_features(("copies",), lambda: [run.copies() for run in self.pictures.runs])

    def sizes(self) -> Tensor | None:
        """float32 (B, W): logarithms of what each position counts for in attention; None if all count once."""
        sizes = self.lane.sizes
        return sizes if sizes is None or self.rows is None else sizes[self.rows]

    def attention(self, layer: int, rows: QueryRows) -> Tensor:
        """float32 (B, W): what keys received in a decoder layer; 0 where it did not see them."""
        full = self.pictures.received[layer, rows]
        return self._seen(full)

    def _seen(self, full: Tensor) -> Tensor:
        """(B, N) of what was fed -> (B', W), the rows asked about at the positions of the view."""
        seen = full if self.view is None else full.gather(1, self.view.index.to(full.device))
        return seen if self.rows is None else seen[self.rows]

    def _of_features(self, key: Hashable, parts: Callable[[], list[Tensor]]) -> Tensor:
        """(B, W): what was found for each feature, at the positions of the view; 0 elsewhere."""

        def make() -> Tensor:
            layout = self.pictures.layout
            flat = torch.cat([part.to(layout.image.device) for part in parts()])
            return torch.where(layout.visual, flat[feature_index(layout, self.pictures.runs)], 0)

        full = self.lane.once(key, make)
        return self._seen(full)


def observe(lane: Lane, pictures: Pictures, layer: int, queries: QueryRows, attention: Attention) -> None:
    """Note in `pictures` what the keys of decoder layer `layer` receive from the queries asked for.

    Args:
        lane, pictures: of the pass.
        layer: decoder layer.
        queries: which.
        attention: the layer's call, rotary embedding applied.
    """
    query, key = attention.query.detach(), attention.key.detach()
    if not lane.shows:  # an exit before this layer left no picture to look at
        pictures.received[layer, queries] = query.new_zeros(len(query), lane.length, dtype=torch.float32)
        return
    layout, length = lane.layout_on(query.device), query.shape[2]
    past = key.shape[2] - length
    place = torch.arange(length, device=query.device)
    last = lane.last_prompt(pictures, query.device)
    weight = None
    if queries == "last":
        where = last
    elif queries == "after":  # a prompt that ends with its picture has none: its last position speaks for it
        behind = torch.where(layout.image >= 0, place, -1).amax(1, keepdim=True) + 1
        where = torch.where(behind > 0, torch.minimum(behind, last), last)
    else:
        counts = layout.per_sample()
        # Newline tokens are no features, but they are the picture's, not text.
        text = layout.valid & (layout.image < 0) & (layout.visual.cumsum(1) > 0) & (place <= last)
        # A prompt that ends with its picture has no text after it: its last position speaks for it.
        text = torch.where(text.any(1, keepdim=True), text, place == last)
        chosen = text if queries == "text" else layout.visual
        # At most this many queries count, known on the host; the others are not computed.
        rest = [length - lead - count for lead, count in zip(layout.lead, counts, strict=True)]
        most = max(1, *(rest if queries == "text" else counts))
        where = torch.where(chosen, place, -1).sort(1).values[:, -most:]
        weight, where = where >= 0, where.clamp(min=0)
    index = where[:, None, :, None].expand(-1, query.shape[1], -1, query.shape[3])
    allowed = join(present_padding(lane, layer), layout.valid, past, length)
    if layer in lane.windows:  # one query a sample, or the pass was refused (`check_window`)
        at, of, _ = positions(lane, layer, past, length, lane.view, query.device)
        near = at.expand(len(query), -1).gather(1, last) - of < lane.windows[layer]
        allowed = near if allowed is None else allowed & near
    until = where if lane.blocks is None else lane.blocks.until(lane.view, query.device).gather(1, where)
    mean = attention_colmean(
        query.gather(2, index), key, attention.scaling, weight, until + past, allowed, attention.bias
    )
    pictures.received[layer, queries] = spread(mean[:, past:], lane.view, lane.length)
