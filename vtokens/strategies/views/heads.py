"""What an `attend` strategy sees: one attention call of one decoder layer, computed only as far as it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vtokens.core.later import Made
from vtokens.core.layout import Layout
from vtokens.core.moved import Member
from vtokens.kernels import attention_colsum, grouped_attention, rescaled_attention, reweighed_attention
from vtokens.strategies.signals import Observed
from vtokens.strategies.views.memory import VISUAL, Memory, Noting
from vtokens.strategies.views.places import Places
from vtokens.strategies.views.rows import Rows, Span
from vtokens.strategies.views.visuals import Visuals

__all__ = ["VISUAL", "Heads", "Memory", "Rows", "Span"]


@dataclass
class Heads(Noting):
    """One attention call of one decoder layer: W query rows over K keys, past ones included.

    Attributes:
        layer: decoder layer.
        query: (B, H, W, D), rotary embedding applied.
        key, value: (B, H_kv, K, D).
        scaling: the factor on the products.
        hidden: (B, W, D_model), the states that entered the layer.
        valid: bool (B, K), False on padding; None if there is none.
        is_image_prefill: True in the prefill that brings images: compute per-image decisions here.
        answers: the rows that may use the pictures as text does: text after the first visual token, generated tokens.
        last: the last prompt position of each sample.
        writing: the rows that predict what the answer says: that and all behind it, of samples that see pictures.
        noted: what this pass notes; `marks` and `recall` read it together with what earlier passes noted.
        spans: of each sample, in a pass that brings pictures.
        selecting: a context manager that times a selection.
        prepared: what the strategy's `prepare` made.
        sent: (B, R, H, D), what takes the shortcut to the last layer (`shortcut`); None if nothing does.
        text_lane: (B, H, D) float32, the head outputs of the last prompt position in a forward pass without the
            pictures; None unless the strategy asked for it.
        fed: int64 (B, W), which of the positions fed to this pass each row is; None if they are the same.
        until: int64 (B, W), the last row of this pass whose key each row sees; None if that is its own.
        layout: where the visual tokens of this pass sit among its rows; None in a pass without pictures.
        bias: float32 (B, K), what is added to the scores of each key as tokens count for several; None if nothing.
        turns: float32 (B, W, R), cosines and sines by which each row of this pass was turned: the product of two rows
            is the mean cosine of their distance. None where no tokens count for several, and in layers that turn none.
        softcap: c, where scores s become c * tanh(s / c); None if they stay as they are.
        asked: the rows at which logits are asked for, in layers that `Needs(early=...)` names; those of positions that
            were dropped are arbitrary. None elsewhere.
        places: how far its rows are turned, and the pictures of this pass as segments; None unless the strategy `moves`
            them.
        observed: the signals that the strategy asked for, of this pass's pictures; None in a pass without pictures.
    """

    layer: int
    query: Tensor
    key: Tensor
    value: Tensor
    scaling: float
    hidden: Tensor
    valid: Tensor | None
    is_image_prefill: bool
    answers: Rows
    last: Rows
    writing: Rows
    _memory: Memory
    _compute: Callable[[], Tensor]
    noted: Memory = field(default_factory=Memory)
    spans: tuple[Span, ...] = ()
    selecting: Callable[[], AbstractContextManager[None]] = nullcontext
    prepared: Any = None
    text_lane: Tensor | None = None
    fed: Tensor | None = None
    until: Tensor | None = None
    softcap: float | None = None
    layout: Layout | None = None
    bias: Tensor | None = None
    turns: Tensor | None = None
    observed: Observed | None = None
    places: Places | None = None
    asked: Rows | None = None
    sent: Tensor | None = None
    metrics: dict[str, Tensor] = field(default_factory=dict)
    _gain: Tensor | None = None
    _output: Tensor | None = None
    _replaced: bool = False
    branch = Member("text_lane")
    fresh = Member("is_image_prefill")

    @property
    def visual(self) -> Tensor:
        """bool (B, K): keys that hold visual tokens."""
        if VISUAL in self.noted.keys and not self.past:
            return self.noted.keys[VISUAL][0].bool()
        if VISUAL in self.noted.keys or VISUAL in self._memory.keys:
            return self.marks(VISUAL).bool()
        return torch.zeros(len(self.key), self.key.shape[2], dtype=torch.bool, device=self.key.device)

    @property
    def visuals(self) -> Visuals | None:
        """The visual tokens of this pass, a group a picture, with the signals of the tower; None if it brings none.

        `visuals.spread` brings what is known of each to the rows of the pass, as `mark` takes it.
        """
        if self.observed is None or self.layout is None:
            return None
        return Visuals(self.hidden, self.layout, "image", self.observed, self.prepared)

    @property
    def leading(self) -> Tensor:
        """bool (B, K): keys before the first visual token, such as a system prompt; none where a sample has no picture.

        Padding in front counts as well: nobody attends to it.
        """
        shown = self.visual.cumsum(1)
        return (shown == 0) & (shown[:, -1:] > 0)

    @property
    def past(self) -> int:
        """Keys cached before this pass."""
        return self.key.shape[2] - self.query.shape[2]

    @property
    def replaced(self) -> bool:
        """Whether a strategy has changed the outputs already."""
        return self._replaced

    @property
    def output(self) -> Tensor:
        """(B, W, H, D): head outputs so far, from the user's attention implementation unless replaced."""
        if self._output is None:
            self._output = self._compute()
        return self._output

    @output.setter
    def output(self, value: Tensor) -> None:
        self._output, self._replaced = value, True

    def amplify(self, gain: Tensor) -> None:
        """Multiply all outputs of each head by `gain` (B, H), in the end: reading them here shows none of it."""
        self._gain = gain if self._gain is None else self._gain * gain

    @property
    def result(self) -> Tensor:
        """(B, W, H, D): what the attention call returns."""
        return self.output if self._gain is None else self.output * self._gain[:, None, :, None].to(self.output.dtype)

    def at(self, rows: Rows) -> Tensor:
        """(B, H, R, D): head outputs so far at some rows."""
        return rows.gather(self.output.transpose(1, 2))

    def replace(self, rows: Rows, values: Tensor) -> None:
        """Put `values` (B, H, R, D) in the place of the outputs at `rows`."""
        values = values.transpose(1, 2).to(self.value.dtype)
        if rows.whole:
            self.output = values
            return
        batch = torch.arange(len(values), device=values.device)[:, None]
        output = self.output
        if rows.real is not None:
            # Slots that hold no row point at row 0: they must write what is there already.
            values = torch.where(rows.real[:, :, None, None], values, output[batch, rows.index])
        where = (batch, rows.index)
        self.output = output.index_put(where, values) if output.requires_grad else output.index_put_(where, values)

    def grouped(self, group: Tensor, groups: int, rows: Rows) -> tuple[Tensor, Tensor]:
        """Attention of some rows over each group of keys apart.

        Args:
            group: int64 (B, K), the group of each key, 0 to `groups` - 1.
            groups: how many there are.
            rows: the query rows.

        Returns:
            Outputs float32 (groups, B, H, R, D) and log-sum-exps float32 (groups, B, H, R).
        """
        query, place = rows.gather(self.query), self._place(rows)
        return grouped_attention(
            query, self.key, self.value, self._real(group), groups, self.scaling, place, self.softcap
        )

    def reweighed(
        self, group: Tensor, groups: int, rows: Rows, change: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Attention of some rows in which groups of keys gain or lose mass; cheaper than `grouped`.

        Args:
            group, groups, rows: as in `grouped`.
            change: from float32 (groups, B, H, R), the share of attention each group holds, to what it is to hold.

        Returns:
            Output float32 (B, H, R, D) and the shares before.
        """
        query, place = rows.gather(self.query), self._place(rows)
        return reweighed_attention(
            query, self.key, self.value, self._real(group), groups, self.scaling, change, place, self.softcap
        )

    def rescale(
        self,
        rows: Rows,
        factor: Tensor | None = None,
        tilt: Tensor | None = None,
        shift: Tensor | None = None,
        change: Callable[[Tensor], Tensor] | None = None,
        until: Tensor | None = None,
    ) -> None:
        """Let some rows attend by changed scores: s becomes factor * s + tilt * |s| + shift before the softmax.

        Args:
            rows: the query rows; nothing else is computed.
            factor, tilt, shift: float32 (B, K), for each key, or (B, H, K); None leaves scores as they are.
            change: from probabilities, float32 (B, H, R, K), some rows at a time and in order, to what takes their
                place.
            until: int64 (B, R), the last key that each row is shown, in place of its own (`until_key`).
        """
        if not rows.index.shape[1]:
            return
        self.replace(rows, self.rescaled(rows, factor, tilt, shift, change, until))

    def rescaled(
        self,
        rows: Rows,
        factor: Tensor | None = None,
        tilt: Tensor | None = None,
        shift: Tensor | None = None,
        change: Callable[[Tensor], Tensor] | None = None,
        until: Tensor | None = None,
    ) -> Tensor:
        """float32 (B, H, R, D): the outputs that `rescale` would put at some rows, which stay as they are."""
        query, place = rows.gather(self.query), self._place(rows) if until is None else until
        if self.bias is not None:  # tokens that count for several, behind what is made of their scores
            shift = self.bias if shift is None else shift + (self.bias if shift.dim() == 2 else self.bias[:, None])
        return rescaled_attention(
            query, self.key, self.value, self.scaling, factor, tilt, shift, place, self.valid, self.softcap, change
        )

    def until_key(self, rows: Rows) -> Tensor:
        """int64 (B, R): the last key that each of some rows sees."""
        place = self._place(rows)
        return rows.index.new_full(rows.index.shape, self.key.shape[2] - 1) if place is None else place

    def shortcut(self, values: Tensor) -> None:
        """Send head outputs (B, H, R, D), of the rows `asked`, past all layers but the last one.

        What the layers compute does not change; `Logits.shortcut` makes logits of them.
        """
        self.sent = values.transpose(1, 2).to(self.value.dtype)

    def received(self, rows: Rows) -> Tensor:
        """float32 (B, H, K): the attention that each key gets from some rows, the mean over those that see it."""
        query, place = rows.gather(self.query), self._place(rows)
        total = attention_colsum(
            query, self.key, self.scaling, rows.real, place, self.valid, self.bias, softcap=self.softcap
        )
        if place is None:
            return total
        counts = torch.zeros(len(place), self.key.shape[2], device=place.device)
        real = torch.ones_like(place, dtype=torch.bool) if rows.real is None else rows.real
        counts = counts.scatter_add(1, place, real.float()).flip(1).cumsum(1).flip(1)
        return total / counts.clamp(min=1)[:, None]

    def _place(self, rows: Rows) -> Tensor | None:
        # A single new token stands behind every key.
        if rows.whole and self.query.shape[2] == 1:
            return None
        return (rows.index if self.until is None else self.until.gather(1, rows.index)) + self.past

    def _real(self, group: Tensor) -> Tensor:
        return group if self.valid is None else group.masked_fill(~self.valid, -1)

    def mark(self, name: str, values: Tensor, fill: int) -> None:
        """Note `values` (B, W) about this pass's keys; keys that come later have `fill`."""
        self.noted.keys[name] = (values, fill)

    def marks(self, name: str) -> Tensor:
        """(B, K): what was noted about each key, in this pass and before.

        Raises:
            ValueError: nothing was noted by this name when the keys of the pictures were cached.
        """
        if name not in self.noted.keys and name not in self._memory.keys:
            raise ValueError(
                f"this cache holds pictures of which {name!r} was not noted: begin with an empty cache, or keep the "
                "strategy attached from the turn on that brings them"
            )
        total, width = self.key.shape[2], self.query.shape[2]
        if name in self.noted.keys:
            older = Memory({name: self._memory.keys[name]} if name in self._memory.keys else {})
            return older.followed_by(Memory({name: self.noted.keys[name]}), total - width, width).marks(name, total)
        return self._memory.marks(name, total)


for _name in ("answers", "last", "writing", "spans"):
    setattr(Heads, _name, Made(_name))
