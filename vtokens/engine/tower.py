"""Standing by while the vision tower works: its feature calls are noted, its blocks watched."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor

from vtokens.adapters import Adapter
from vtokens.engine import encode
from vtokens.engine.attention import Attention, Tap
from vtokens.engine.encode import Stage
from vtokens.engine.merging import Merging
from vtokens.engine.seen import MODALITIES, Seen, mark, run, running
from vtokens.kernels import attention_colmean


class _Features:
    """Stands in for `get_image_features` on one instance; an object, so that a deep copy belongs to the copy."""

    def __init__(
        self, adapter: Adapter, modality: str, name: str, stage: Stage, report: Callable[[Seen], None]
    ) -> None:
        self._adapter, self._modality, self.__name__, self._stage = adapter, modality, name, stage
        self._report = report
        # generate() reads the parameters off the signature.
        self.__signature__ = inspect.signature(getattr(adapter.multimodal, name))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        multimodal = self._adapter.multimodal
        seen = Seen(self._adapter, self._modality, dict(self.__signature__.bind_partial(*args, **kwargs).arguments))
        if self._stage:
            self._adapter.check_merging(seen.inputs)
        with run(seen):
            output = getattr(type(multimodal), self.__name__)(multimodal, *args, **kwargs)
        if self._stage and not self._adapter.merge_points and not isinstance(output, tuple):
            output.pooler_output = encode.merge_features(seen, self._stage, output.pooler_output)
        mark(output, seen)
        self._report(seen)
        return output


class TowerWatch:
    """Watches a model's feature calls until `remove()`.

    `generate` calls `get_image_features` before the forward pass, and only that call knows the image sizes, so a
    module hook would come too late: the method is wrapped on this one instance, and unwrapped again.

    Args:
        blocks: those whose attention is scored.
        stage: those in which tokens are merged.
        report: is told of each feature call.
    """

    def __init__(self, adapter: Adapter, blocks: Sequence[int], stage: Stage, report: Callable[[Seen], None]) -> None:
        self._adapter, self._blocks, self._stage = adapter, frozenset(blocks), stage
        # From the first merge on, every block has to know how much a token stands for.
        merged = range(min(stage), len(adapter.tower_attentions)) if stage and adapter.merge_points else ()
        self._taps = [
            Tap(adapter.tower_attentions[b], functools.partial(self._on_block, b)) for b in sorted({*blocks, *merged})
        ]
        self._wrapped: list[str] = []
        for modality in MODALITIES:
            name = f"get_{modality}_features"
            if hasattr(adapter.multimodal, name):
                # In __dict__ itself: nn.Module has no say in it, and deleting it uncovers the class's method again.
                adapter.multimodal.__dict__[name] = _Features(adapter, modality, name, stage, report)
                self._wrapped.append(name)

    def remove(self) -> None:
        """Stop watching."""
        for name in self._wrapped:
            self._adapter.multimodal.__dict__.pop(name, None)
        for tap in self._taps:
            tap.remove()

    def _on_block(self, block: int, attention: Attention) -> tuple[Tensor, Any]:
        seen = running(self._adapter)
        if seen is None:
            return attention.run()
        if block in self._blocks:
            seen.scores.setdefault(block, []).extend(self._scores(attention, seen.merging))
        if self._stage and self._adapter.merge_points:
            return encode.attend(seen, self._stage, block, attention)
        return attention.run()

    def _scores(self, attention: Attention, merging: Merging | None) -> Iterator[Tensor]:
        """float32 (patches,), for each stretch of patches that attend to each other."""
        query, key = attention.query.detach(), attention.key.detach()
        if merging is not None and merging.begun:
            yield merging.to_patches(self._votes(query, key, attention.scaling, merging)).flatten()
            return
        parts, bounds = [(query, key)], attention.kwargs.get("cu_seq_lens_q")
        if bounds is not None:  # flash attention gets all images of a packed tower in one row
            sizes = bounds.diff().tolist()
            parts = list(zip(query.split(sizes, 2), key.split(sizes, 2), strict=True))
        for q, k in parts:
            yield self._votes(q, k, attention.scaling)[:, int(self._adapter.has_cls) :].flatten()

    def _votes(self, query: Tensor, key: Tensor, scaling: float, merging: Merging | None = None) -> Tensor:
        """float32 (B, N): what each token gets.

        The class token asks for the patches' scores; without one, every patch has a vote. Votes are counted, not
        averaged: 1 is an even share in a window as in a whole picture, so windows and blocks of any size compare.
        """
        bias, size = (None, None) if merging is None else (merging.bias, merging.size)
        if self._adapter.has_cls:
            return attention_colmean(query[:, :, :1], key, scaling, bias=bias)
        voters = query.shape[2] if merging is None else merging.member.shape[1]
        return attention_colmean(query, key, scaling, rows=size, bias=bias) * voters
