"""The state of one forward pass. It is created when the pass starts and dropped when it ends, whatever happens."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vtokens.adapters import Adapter
from vtokens.core.layout import Layout
from vtokens.engine.branch import Branch
from vtokens.engine.masks import join
from vtokens.engine.prompt_end import at_end
from vtokens.engine.records import clock, here
from vtokens.engine.reduction import View, spread
from vtokens.engine.seen import Seen
from vtokens.kernels import attention_colmean
from vtokens.strategies.base import Strategy
from vtokens.strategies.signals import Rows
from vtokens.strategies.views.heads import Memory

if TYPE_CHECKING:
    from vtokens.engine.beside import Joint
    from vtokens.engine.fold import Fold, Unmerging
    from vtokens.engine.plan import Plan


@dataclass(frozen=True)
class Branched:
    """What a negative branch was fed beside a pass with pictures.

    Attributes:
        length: positions of its prompt, padding included.
        tokens: visual tokens among them, over the whole batch.
        views, attended: as in `Record`.
    """

    length: int
    tokens: int
    views: dict[int, View]
    attended: dict[int, int]


@dataclass
class Record:
    """What a pass with pictures did, kept for `handle.report()`; tensors stay where they are until it is asked.

    Attributes:
        layout, length, depth, itemsize: what was fed, to how many layers, and the size of its numbers.
        views: decoder layer -> what it saw, where that is not what was fed.
        attended: decoder layer -> positions its attention worked on, where merged tokens stood at several.
        copies: int64 (B, N), equal numbers at fed positions that hold one merged feature; None if nothing was merged.
        spans: times spent selecting.
        told: figures (B,) that strategies told, one entry a layer.
        reduced: tokens of each picture before and after a strategy dropped some.
        branch: what the negative branch was fed; None if there is none.
    """

    layout: Layout
    length: int
    depth: int
    itemsize: int
    views: dict[int, View] = field(default_factory=dict)
    attended: dict[int, int] = field(default_factory=dict)
    copies: Tensor | None = None
    spans: list[Any] = field(default_factory=list)
    told: list[tuple[Strategy, Mapping[str, Tensor]]] = field(default_factory=list)
    reduced: list[tuple[Strategy, tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)
    branch: Branched | None = None

    @contextmanager
    def selecting(self, device: torch.device) -> Iterator[None]:
        """Time a selection: by the clock on a CPU, by events (no synchronisation) on a GPU."""
        if device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            yield
            end.record()
            self.spans.append((start, end))
        else:
            begin = time.perf_counter()
            yield
            self.spans.append(time.perf_counter() - begin)

    def seconds(self) -> float:
        """Time spent selecting."""
        total = 0.0
        for span in self.spans:
            if isinstance(span, float):
                total += span
            else:
                span[1].synchronize()
                total += span[0].elapsed_time(span[1]) / 1e3
        return total


@dataclass
class Call:
    """One forward pass of one attached model.

    Attributes:
        inputs: keyword arguments of the multimodal forward.
        seen: what the tower saw of this pass's pictures, images before videos.
        layout: the layout of what the current layer sees; None if the pass brings no pictures.
        view: how that relates to what was fed; None while they are the same.
        entry: the view the language model was given at its input.
        left: bool (B, N), fed visual tokens of samples that lost all they still had, when they lost them; None if none
            did.
        received: decoder layer and query rows -> float32 (B, N), the attention that fed positions got there.
        rows: gathered rows since `entry`, to cut per-position tensors the language model made at its input.
        fed_mask: bool (B, past + N) padding mask over fed positions; None if there is no padding.
        past: fed positions cached before this pass.
        cache: what the pass appends to.
        hidden: (B, W, D), the states that entered the layer under way.
        branch: the same prompt's text without its pictures, run layer by layer beside it.
        memories: decoder layer -> what this pass notes at it.
        positions: int64 (C, B, N), rotary positions of what was fed.
        unmerging: what is to be unmerged in attention; None if nothing is.
        folds: decoder layer -> how its rows are unmerged.
        asked: how many trailing positions the caller wants logits of, if that tells where the prompt ends; else 1.
        ends: int64 (B, 1), the fed position at which each prompt ends; None if the pass brings no pictures.
        plan: which strategy acts where in it.
        opened: the forward pass of the model with logits that this one belongs to; None if it was called by itself.
        outer: it is such a pass of the model with logits.
        entered: the language model has begun with it.
        prompt: the negative prompt that was given for it; None if none was.
        headed: 1 while the branch's states of such a pass are in the output layer beside its own, 2 afterwards.
        labels, keep: what that one was given as such, and as `logits_to_keep`.
        branch_of: the pass whose negative branch this is; None if it is a pass of its own.
        beside: the negative branch that runs in the same pass; None if none does.
        joint: the cache of both.
        logits: what the branch of such a pass says, (B, R, V).
        mask: the attention mask of the layer under way, in such a pass.
        fed: what the language model was given, before anything was dropped, if a negative branch is to start from it.
    """

    adapter: Adapter
    inputs: Mapping[str, Any]
    layout: Layout | None = None
    view: View | None = None
    entry: View | None = None
    rows: Tensor | None = None
    fed_mask: Tensor | None = None
    cache: Any = None
    past: int = 0
    length: int = 0
    asked: int = 1
    ends: Tensor | None = None
    record: Record | None = None
    seen: list[Seen] = field(default_factory=list)
    direct: bool = False
    received: dict[tuple[int, Rows], Tensor] = field(default_factory=dict)
    by_layer: dict[int, View] = field(default_factory=dict)
    scratch: dict[Any, Any] = field(default_factory=dict)
    fed_layout: Layout | None = None
    left: Tensor | None = None
    hidden: Tensor | None = None
    branch: Branch | None = None
    memories: dict[int, Memory] = field(default_factory=dict)
    positions: Tensor | None = None
    unmerging: Unmerging | None = None
    folds: dict[int, Fold] = field(default_factory=dict)
    plan: Plan | None = None
    opened: Call | None = None
    outer: bool = False
    entered: bool = False
    prompt: Mapping[str, Any] | None = None
    headed: int = 0
    labels: Any = None
    keep: Any = 0
    logits: Tensor | None = None
    branch_of: Call | None = None
    beside: Call | None = None
    joint: Joint | None = None
    mask: Any = None
    fed: Mapping[str, Any] | None = None

    def saliency(self, blocks: tuple[int, ...] | None) -> Tensor:
        """float32 (B, W): tower scores at the positions seen now, 0 where there is no visual token."""
        return self._at_positions(("saliency", blocks), lambda: [seen.saliency(blocks) for seen in self.seen])

    def copies(self) -> Tensor | None:
        """int64 (B, W): equal, above 0, at positions that hold one merged feature, 0 where there is no visual token."""
        if not any(seen.merged for seen in self.seen):
            return None
        return self._at_positions(("copies",), lambda: [seen.copies() for seen in self.seen])

    def _at_positions(self, key: Any, parts: Callable[[], list[Tensor]]) -> Tensor:
        """(B, W): what was found for the features of each tower run, at the positions seen now; 0 elsewhere."""
        if key not in self.scratch:
            layout = self.fed_layout
            assert layout is not None
            flat = torch.cat([part.to(layout.image.device) for part in parts()])
            lengths = [len(picture) for seen in self.seen for picture in seen.pictures]
            starts = torch.tensor([0, *lengths]).cumsum(0)[list(layout.source)].to(flat.device)
            at = starts[layout.image.clamp(min=0)] + layout.cell.clamp(min=0)
            self.scratch[key] = torch.where(layout.visual, flat[at], 0)
        full: Tensor = self.scratch[key]
        return full if self.view is None else full.gather(1, self.view.index)

    def attention(self, layer: int, rows: Rows) -> Tensor:
        """float32 (B, W): what keys received in a decoder layer; 0 where it did not see them."""
        full = self.received[layer, rows]
        return full if self.view is None else full.gather(1, self.view.index.to(full.device))

    def last_prompt(self, device: torch.device) -> Tensor:
        """int64 (B, 1): where each sample's prompt ends, among the positions seen now."""
        assert self.layout is not None
        assert self.ends is not None
        return at_end(self.ends, None if self.view is None else self.view.index, self.layout.valid.bool().to(device))

    def answered(self) -> tuple[int, ...]:
        """How many real positions of each sample stand behind the end of its prompt; reads the device under labels."""
        if self.branch_of is not None:
            return self.branch_of.answered()
        layout = self.fed_layout
        assert layout is not None
        assert self.ends is not None
        if self.opened is None or self.opened.labels is None:
            return tuple(max(0, self.asked - 1 - trail) for trail in layout.trail)
        if "answered" not in self.scratch:
            valid = layout.valid.to(self.ends.device).bool()
            behind = torch.arange(valid.shape[1], device=valid.device) > self.ends
            self.scratch["answered"] = tuple((valid & behind).sum(1).tolist())
        return self.scratch["answered"]

    def observe_decoder(
        self, layer: int, rows: Rows, query: Tensor, key: Tensor, scaling: float, cached: Tensor | None
    ) -> None:
        """Record what the keys of decoder layer `layer` receive from the query rows asked for.

        Args:
            layer: decoder layer.
            rows: which query rows.
            query, key: (B, H, W, D) and (B, H_kv, past + W, D), rotary embedding applied.
            scaling: the factor on their products.
            cached: bool (B, past), False on padding among the cached keys; None if there is none.
        """
        assert self.layout is not None
        if not any(self.layout.counts):  # an exit before this layer left no picture to look at
            self.received[layer, rows] = query.new_zeros(len(query), self.length, dtype=torch.float32)
            return
        query, key = query.detach(), key.detach()
        layout, length = self.layout, query.shape[2]
        past = key.shape[2] - length
        place = torch.arange(length, device=query.device)
        valid, last = layout.valid.to(query.device), self.last_prompt(query.device)
        weight = None
        if rows == "last":
            where = last
        else:
            visual, counts = layout.visual.to(query.device), layout.per_sample()
            # Newline tokens are no features, but they are the picture's, not text.
            text = valid & (layout.image.to(query.device) < 0) & (visual.cumsum(1) > 0) & (place <= last)
            # A prompt that ends with its picture has no text after it: its last position speaks for it.
            text = torch.where(text.any(1, keepdim=True), text, place == last)
            chosen = text if rows == "text" else visual
            # At most this many rows count, known on the host; the others are not computed.
            rest = [length - lead - count for lead, count in zip(layout.lead, counts, strict=True)]
            most = max(1, *(rest if rows == "text" else counts))
            where = torch.where(chosen, place, -1).sort(1).values[:, -most:]
            weight, where = where >= 0, where.clamp(min=0)
        index = where[:, None, :, None].expand(-1, query.shape[1], -1, query.shape[3])
        allowed = join(cached, valid, past, length)
        mean = attention_colmean(query.gather(2, index), key, scaling, weight, where + past, allowed)
        self.received[layer, rows] = spread(mean[:, past:], self.view, self.length)


def current(owner: Any) -> Call | None:
    """The pass under way in this thread on an engine's model."""
    return here().calls.get(owner)


def start(owner: Any, call: Call) -> None:
    """Make `call` the pass under way; one left over from an interrupted pass is dropped."""
    here().calls[owner] = call
    here().last = next(clock)


def finish(owner: Any) -> None:
    """Forget the pass under way."""
    if here().calls.pop(owner, None) is not None:
        here().last = next(clock)


def end(owner: Any, call: Call) -> None:
    """Keep a pass that has ended for what comes after it: the logits."""
    here().ended[owner] = call


def ended(owner: Any, forget: bool = True) -> Call | None:
    """The pass that ended last, which is forgotten then."""
    return here().ended.pop(owner, None) if forget else here().ended.get(owner)
