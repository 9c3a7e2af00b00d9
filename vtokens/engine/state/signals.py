"""The signals of pruners: what the tower, the decoder's layers and the prompt's text say of visual tokens."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor

from vtokens.core.columns import columns_of
from vtokens.engine.checks.outside import check_inside, norm_of
from vtokens.engine.state.lane import Lane
from vtokens.engine.state.pictures import Pictures
from vtokens.engine.state.tower_run import feature_index
from vtokens.engine.state.view import View, gather
from vtokens.kernels import attention_colmean
from vtokens.strategies.signals import Heads, InLayer, Relevance, Saliency, Sensitivity, Text, Voters


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

    def saliency(self, blocks: tuple[int, ...] | None, rows: Voters = "cls", heads: Heads = "mean") -> Tensor:
        """float32 (B, W): tower scores, 0 where there is no visual token."""
        signal = Saliency(blocks, rows, heads)
        return self._of_features(("saliency", signal), lambda: [run.saliency(signal) for run in self.pictures.runs])

    def once(self, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """What `make` returns, made once in this pass for all decoder layers that see the same of these rows."""
        return self.lane.once((key, self.view, None if self.rows is None else tuple(self.rows)), make)

    def copies(self) -> Tensor | None:
        """int64 (B, W): equal, above 0, at positions that hold one merged feature, 0 where there is no visual token."""
        if not any(run.merged for run in self.pictures.runs):
            return None
        return self._of_features(("copies",), lambda: [run.copies() for run in self.pictures.runs])

    def sizes(self) -> Tensor | None:
        """float32 (B, W): logarithms of what each position counts for in attention; None if all count once."""
        sizes = self.lane.sizes
        return sizes if sizes is None or self.rows is None else sizes[self.rows]

    def tower_keys(self, block: int | None) -> Tensor:
        """(B, W, H, D): keys of a tower block, 0 where there is no visual token."""
        return self._of_features(("tower keys", block), lambda: [run.tower_keys(block) for run in self.pictures.runs])

    def tower_states(self, block: int | None) -> Tensor:
        """(B, W, C): what leaves a tower block, 0 where there is no visual token."""
        key = ("tower states", block)
        return self._of_features(key, lambda: [run.tower_states(block) for run in self.pictures.runs])

    def encoded(self, name: str) -> Tensor:
        """float32 (B, W): what a strategy noted in the tower, 0 where there is no visual token."""
        return self._of_features(("encoded", name), lambda: [run.encoded(name) for run in self.pictures.runs])

    def sensitivity(self, signal: Sensitivity) -> Tensor:
        """float32 (B, W): how far features move with the projector's input, 0 where there is no visual token."""
        return self._of_features(signal, lambda: [run.sensitivity(signal) for run in self.pictures.runs])

    def noted(self, signal: InLayer) -> Tensor:
        """(B, W, ...): what was noted of a decoder layer; 0 where it did not see a position."""
        if signal in self.pictures.pending:
            self.pictures.observed[signal] = self.pictures.pending.pop(signal)()
        return self._seen(self.pictures.observed[signal])

    def relevance(self, text: Text) -> Tensor:
        """float32 (B, W): how much visual tokens are like the text, 0 where there is none."""
        return self._seen(self.pictures.observed[Relevance(text)])

    def text(self, text: Text) -> Tensor:
        """bool (B, W): positions of text up to the end of the prompt."""
        check_inside(self.lane.adapter, "a strategy that asks for text")
        seen = self._seen(self.lane.once(("text", text), lambda: text_of(self.pictures, text)))
        real = None if self.view is None else self.view.real
        if real is None:
            return seen
        return seen & (real if self.rows is None else real[self.rows]).to(seen.device)

    def ids(self) -> Tensor:
        """int64 (B, W): token ids of the prompt; what they are at visual tokens is the family's business.

        Raises:
            ValueError: it was given as embeddings alone.
        """
        if self.pictures.ids is None:
            raise ValueError(
                "a strategy reads the words of the prompt, which was given as inputs_embeds: pass input_ids, as the "
                "processor makes them"
            )
        return self._seen(self.pictures.ids)

    @property
    def depth(self) -> int:
        """How many layers the decoder has."""
        return len(self.lane.specs)

    def knows(self, signal: InLayer) -> bool:
        """Whether a layer that ran was asked for this."""
        return signal in self.pictures.pending or signal in self.pictures.observed

    def normed(self, states: Tensor) -> Tensor:
        """States as the norm behind the last layer leaves them.

        Raises:
            ValueError: the decoder has none.
        """
        found: Tensor = norm_of(self.lane.adapter, "a strategy")(states)
        return found

    def notes(self, strategy: object) -> dict[int, Any]:
        """Picture -> what a strategy noted about it for its later stages in this pass, on the host."""
        return self.pictures.notes.setdefault((id(strategy), tuple(self.rows or ())), {})

    def _seen(self, full: Tensor) -> Tensor:
        """(B, N, ...) of what was fed -> (B', W, ...), the rows asked about at the positions of the view."""
        seen = full if self.view is None else gather(full, self.view.index, 1)
        return seen if self.rows is None else seen[self.rows]

    def _of_features(self, key: Hashable, parts: Callable[[], list[Tensor]]) -> Tensor:
        """(B, W, ...): what was found for each feature, at the positions of the view; 0 elsewhere."""

        def make() -> Tensor:
            layout = self.pictures.layout
            flat = torch.cat([part.to(layout.image.device) for part in parts()])
            visual = layout.visual.view(*layout.visual.shape, *[1] * (flat.dim() - 1))
            return torch.where(visual, flat[feature_index(layout, self.pictures.runs)], 0)

        full = self.lane.once(key, make)
        return self._seen(full)


def text_of(pictures: Pictures, text: Text) -> Tensor:
    """bool (B, N): fed positions of the text that `Relevance` means."""
    layout, ends = pictures.layout, pictures.ends.to(pictures.layout.valid.device)
    prompt = torch.arange(layout.valid.shape[1], device=ends.device) <= ends
    if text == "all":
        return layout.words & prompt
    after = layout.words_after & prompt
    return torch.where(after.any(1, keepdim=True), after, layout.words & prompt)


def note_entering(lane: Lane, pictures: Pictures) -> None:
    """Note how relevant visual tokens are to the text, and which words are raters, if strategies of the lane ask."""
    hidden, plan = lane.hidden.detach(), lane.plan
    visual = pictures.layout.visual.to(hidden.device)
    for signal in plan.relevances:
        text = text_of(pictures, signal.text).to(hidden.device)
        unit = torch.nn.functional.normalize(hidden.float(), dim=-1)
        # The mean of cosines is the cosine, but for a length, with the mean of unit vectors: no text x tokens matrix.
        mean = text.float()[:, None] @ unit / text.sum(1).clamp(min=1)[:, None, None]
        pictures.observed[signal] = (unit @ mean.transpose(1, 2))[..., 0].masked_fill(~visual, 0)
    if any(signal.rows == "raters" for there in plan.observed.values() for signal in there):
        text, most = text_of(pictures, "after").to(hidden.device), max(1, *pictures.layout.per_sample())
        where, real = columns_of(visual, most)
        query = gather(hidden, where, 1)
        share = attention_colmean(query[:, None], hidden[:, None], 1.0, real, valid=text)
        above = share > share.sum(1, keepdim=True) / text.sum(1, keepdim=True)
        # A single word is as much as the mean.
        pictures.raters = torch.where((above & text).any(1, keepdim=True), above & text, text)
