"""Assembling traces, one a sample, from what a tape recorded."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vtokens.engine.record import Record
from vtokens.engine.state.view import columns_at, gather
from vtokens.filter.trace.measure import Likelihood, lens
from vtokens.filter.trace.tape import Layer, Tape
from vtokens.filter.trace.trace import Trace


class Places:
    """Where the visual tokens of a pass sit among the positions fed.

    Attributes:
        index: int64 (B, N), fed positions; the last `counts[b]` of row b are real.
        counts: visual tokens of each sample.
        kept: bool (B, N), what the last decoder layer sees; merged tokens all are, in the one they went into.
    """

    def __init__(self, record: Record, device: torch.device) -> None:
        self.layout = record.layout.to(device)
        self.counts = self.layout.per_sample()
        self.length = self.layout.visual.shape[1]
        place = torch.arange(self.length, device=device)
        order = torch.where(self.layout.visual, place, -1).sort(1).values
        self.index = order[:, self.length - max(self.counts) :].clamp(min=0)
        view = record.views.get(record.depth - 1)
        self._views = record.views
        self.kept = torch.ones_like(self.index, dtype=torch.bool)
        if view is not None and record.copies is None:
            real = torch.ones_like(view.index) if view.real is None else view.real.long()
            seen = torch.zeros_like(self.layout.image).scatter_add(1, view.index.to(device), real.to(device))
            self.kept = seen.gather(1, self.index) > 0

    def rows(self, number: int, layer: Layer | None) -> Tensor:
        """int64 (B, N): the row at which a layer held each visual token, below 0 where it was dropped before.

        Args:
            number: the layer's.
            layer: what was noted of its attention, which may be handed more rows than its view has columns, where
                merged tokens stand at several positions; None if it has none.
        """
        view = self._views.get(number)
        fed, real = (layer.fed, layer.real) if layer else (view.index, view.real) if view else (None, None)
        if fed is None:
            return self.index
        fed, real = fed.to(self.index.device), None if real is None else real[:, : fed.shape[1]].to(self.index.device)
        return columns_at(fed, real, self.length).gather(1, self.index)

    def received(self, layers: Sequence[Layer], rows: int) -> Tensor:
        """float32 (B, R, N): the attention that each visual token received from R rows, averaged over layers."""
        total = torch.zeros(len(self.index), rows, self.length, device=self.index.device)
        for layer in layers:
            assert layer.looked is not None
            received = layer.looked.received[..., : layer.width]
            if layer.fed is None:
                total[..., : layer.width] += received / len(layers)
            else:
                where = layer.fed[:, None].expand_as(received)
                total += torch.zeros_like(total).scatter_add_(2, where, received) / len(layers)
        return gather(total.transpose(1, 2), self.index, 1).transpose(1, 2)


def assemble(
    tape: Tape, places: Places, ids: Tensor, lengths: Sequence[int], likely: Likelihood, head: nn.Module
) -> list[Trace]:
    """The traces of a batch, without contrasts.

    Args:
        tape: whose layers are closed.
        places: the visual tokens.
        ids: int64 (B, T), the responses.
        lengths: tokens of each.
        likely: float32 (B, T) each.
        head: from states that left the decoder to logits.
    """
    parts, layout, batch = tape.parts, places.layout, len(ids)
    layers, states, image_states, lens_states = (
        tuple(sorted(part)) for part in (parts.layers, parts.states, parts.image_states, parts.lens)
    )
    visual, spread, generated, gaze = _attention(tape, places, layers, ids.shape)
    hidden = [_rows(tape, state) for state in states]
    images = {state: _image(tape, places, state) for state in {*image_states, *lens_states}}
    spoken = [lens(images[j][0], head, ids).masked_fill(~images[j][1][:, None], -torch.inf) for j in lens_states]
    picture, cell = (part.gather(1, places.index) for part in (layout.image, layout.cell))
    traces, width = [], places.index.shape[1]
    local = _local(layout.owner, picture)
    for row, length, count in zip(range(batch), lengths, places.counts, strict=True):
        real, said = slice(width - count, width), ids[row, :length]
        own = [number for number, owner in enumerate(layout.owner) if owner == row]
        trace = Trace(
            ids=said,
            logprob=likely.logprob[row, :length],
            entropy=likely.entropy[row, :length],
            margin=likely.margin[row, :length],
            depth=tape.depth,
            linear=tape.linear,
            left_out=tape.left_out,
            layers=layers,
            visual=visual[row, ..., :length],
            spread=spread[row, ..., :length],
            generated=generated[row, ..., :length],
            gaze=gaze[row, :length, real],
            kept=places.kept[row, real],
            picture=local[row, real],
            cell=cell[row, real],
            pictures=tuple(layout.pictures[number] for number in own),
            states=states,
            hidden=_stack([part[row, :length].float() for part in hidden], gaze, (0, length, 0)),
            image_states=image_states,
            image_hidden=_stack([images[i][0][row, real].float() for i in image_states], gaze, (0, count, 0)),
            lens_states=lens_states,
            lens=_stack([part[row, :length, real] for part in spoken], gaze, (0, length, count)),
        )
        traces.append(trace)
    return traces


def _local(owner: Sequence[int], picture: Tensor) -> Tensor:
    """int64 (B, N): which picture of its own row each token is in; those of a batch are images first, then videos."""
    numbers = {row: itertools.count() for row in owner}
    return torch.tensor([next(numbers[row]) for row in owner], device=picture.device)[picture]


def _attention(tape: Tape, places: Places, layers: Sequence[int], shape: Sequence[int]) -> tuple[Tensor, ...]:
    """`visual`, `spread`, `generated` (B, L, H, T) and `gaze` (B, T, N)."""
    looked = [tape.layers[number] for number in layers]
    gaze = places.received(looked, shape[1])
    parts = [layer.looked[:3] for layer in looked if layer.looked is not None]
    if not parts:
        return (*[gaze.new_zeros(shape[0], 0, 0, shape[1])] * 3, gaze)
    return (*(torch.stack(part, 1) for part in zip(*parts, strict=True)), gaze)


def _rows(tape: Tape, state: int) -> Tensor:
    """(B, T, D): a state of the rows that predict the response."""
    return torch.cat(tape.final if state == tape.depth else tape.entered[state].hidden, 1)


def _image(tape: Tape, places: Places, state: int) -> tuple[Tensor, Tensor]:
    """A state of the visual tokens, (B, N, D), and where there is one, bool (B, N)."""
    if state == tape.depth:
        assert tape.final_image is not None
        return gather(tape.final_image, places.index, 1) * places.kept[..., None], places.kept
    entered = tape.entered[state].image
    assert entered is not None
    rows = places.rows(state, tape.layers.get(state))
    return gather(entered, rows.clamp(min=0), 1) * (rows >= 0)[..., None], rows >= 0


def _stack(parts: list[Tensor], like: Tensor, empty: tuple[int, ...]) -> Tensor:
    return torch.stack(parts) if parts else like.new_zeros(empty)
