"""Watching the vision tower: what it saw and how it attended travels with the features it returns."""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vtokens.adapters import Adapter
from vtokens.engine.attention import Attention, Tap
from vtokens.kernels import attention_colmean
from vtokens.picture import Picture

MODALITIES = ("image", "video")
_MARK = "_vtokens_seen"
_running = threading.local()


@dataclass
class Seen:
    """One run of the tower.

    Attributes:
        modality: "image" or "video".
        pictures: what it was given, in the order of the features.
        inputs: the arguments of the feature call.
        scores: tower block -> float32 score chunks, in the order the tower worked.
    """

    adapter: Adapter
    modality: str
    inputs: Mapping[str, Any]
    scores: dict[int, list[Tensor]] = field(default_factory=dict)

    @functools.cached_property
    def pictures(self) -> list[Picture]:
        return self.adapter.pictures(self.modality, self.inputs)

    def saliency(self, blocks: tuple[int, ...] | None) -> Tensor:
        """float32 (sum of picture lengths,): summed scores of tower blocks, None for the feature block."""
        depth = len(self.adapter.tower_attentions)
        numbers = [self.adapter.feature_block] if blocks is None else [block % depth for block in blocks]
        total = torch.stack([torch.cat(self.scores[number]) for number in numbers]).sum(0)
        return self.adapter.to_tokens(self.modality, total, self.inputs)


def seen_in(modality: str, output: Any, needed: bool) -> Seen | None:
    """What the tower saw when it made `output`.

    Raises:
        ValueError: it was made while nothing was attached, though what it saw is `needed`.
    """
    seen = getattr(output, _MARK, None)
    if seen is None and needed:
        raise ValueError(
            f"mm_encoder_outputs[{modality!r}] was computed before the strategy was attached, or cut by "
            f"prefill_chunk_size, so its layout is unknown: call model.get_{modality}_features(...) again, pass "
            "pixel_values, or leave prefill_chunk_size out"
        )
    return seen


class _Features:
    """Stands in for `get_image_features` on one instance; an object, so that a deep copy belongs to the copy."""

    def __init__(self, adapter: Adapter, modality: str, name: str, report: Callable[[Seen], None]) -> None:
        self._adapter, self._modality, self.__name__, self._report = adapter, modality, name, report
        # generate() reads the parameters off the signature.
        self.__signature__ = inspect.signature(getattr(adapter.multimodal, name))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        seen = Seen(self._adapter, self._modality, dict(self.__signature__.bind_partial(*args, **kwargs).arguments))
        before, _running.seen = getattr(_running, "seen", None), seen
        try:
            multimodal = self._adapter.multimodal
            output = getattr(type(multimodal), self.__name__)(multimodal, *args, **kwargs)
        finally:
            _running.seen = before
        if not isinstance(output, tuple):
            output[_MARK] = seen  # an entry, since accelerate copies entries, not attributes, between devices
        self._report(seen)
        return output


class TowerWatch:
    """Watches a model's feature calls until `remove()`.

    `generate` calls `get_image_features` before the forward pass, and only that call knows the image sizes, so a
    module hook would come too late: the method is wrapped on this one instance, and unwrapped again.
    """

    def __init__(self, adapter: Adapter, blocks: Sequence[int], report: Callable[[Seen], None]) -> None:
        self._adapter = adapter
        self._taps = [Tap(adapter.tower_attentions[b], functools.partial(self._on_block, b)) for b in blocks]
        self._wrapped: list[str] = []
        for modality in MODALITIES:
            name = f"get_{modality}_features"
            if hasattr(adapter.multimodal, name):
                # In __dict__ itself: nn.Module has no say in it, and deleting it uncovers the class's method again.
                adapter.multimodal.__dict__[name] = _Features(adapter, modality, name, report)
                self._wrapped.append(name)

    def remove(self) -> None:
        """Stop watching."""
        for name in self._wrapped:
            self._adapter.multimodal.__dict__.pop(name, None)
        for tap in self._taps:
            tap.remove()

    def _on_block(self, block: int, attention: Attention) -> tuple[Tensor, Any]:
        seen: Seen | None = getattr(_running, "seen", None)
        if seen is not None and seen.adapter is self._adapter:
            seen.scores.setdefault(block, []).extend(self._scores(attention))
        return attention.run()

    def _scores(self, attention: Attention) -> Iterator[Tensor]:
        """float32 (patches,), for each stretch of patches that attend to each other."""
        query, key = attention.query.detach(), attention.key.detach()
        parts, bounds = [(query, key)], attention.kwargs.get("cu_seq_lens_q")
        if bounds is not None:  # flash attention gets all images of a packed tower in one row
            sizes = bounds.diff().tolist()
            parts = list(zip(query.split(sizes, 2), key.split(sizes, 2), strict=True))
        for q, k in parts:
            # The class token asks for the patches' scores; without one, every patch has a vote. Votes are counted, not
            # averaged: 1 is an even share in a window as in a whole picture, so windows and blocks of any size compare.
            scores = (
                attention_colmean(q[:, :, :1], k, attention.scaling)[:, 1:]
                if self._adapter.has_cls
                else attention_colmean(q, k, attention.scaling) * q.shape[2]
            )
            yield scores.flatten()
