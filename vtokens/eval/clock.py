"""Where the time of a call goes: encoding pictures, selecting tokens, prefill, decoding."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from transformers import PreTrainedModel

from vtokens.adapters import adapter_for
from vtokens.core.compat import given_cache
from vtokens.engine import attachment


@dataclass(frozen=True)
class Phases:
    """Seconds of each phase of the calls a clock saw, for the whole batch.

    Attributes:
        encode: vision tower and projector, with the scores a strategy reads off the tower.
        select: choosing tokens, as the attachment's report tells it; a part of `prefill`, 0 where nothing is attached.
        prefill: from the last picture encoded (from the start of the pass where there is none) to the prompt's logits.
        decode: from there to the logits of the last pass; choosing and feeding back each token is in it.
        tokens: decoding steps, which are forward passes: one less than the new tokens of a plain `generate`.
    """

    encode: float
    select: float
    prefill: float
    decode: float
    tokens: int

    @property
    def first_token(self) -> float:
        """Seconds from the start of encoding to the logits of the first new token."""
        return self.encode + self.prefill


class PhaseClock:
    """Times the calls of one model inside a `with` block.

    Hooks sit on the model, on its language model's siblings (tower, projector) and nowhere else, and are gone on
    leaving. On CUDA they record events and nothing waits until `phases()` is read.

    A pass counts as prefill if its cache is empty, if pictures were encoded for it, or if it is the first in the block;
    the later chunks of `prefill_chunk_size` therefore count as decoding.

    Args:
        model: a model of a supported family.
        now: seconds, read at each mark of a model that is not on CUDA.

    Raises:
        TypeError, ValueError: not a supported model.
    """

    def __init__(self, model: PreTrainedModel, now: Callable[[], float] = time.perf_counter) -> None:
        self._adapter = adapter_for(model)
        self._cuda, self._device, self._now = model.device.type == "cuda", model.device, now
        self._hooks: list[Any] = []
        self._reset()

    def _reset(self) -> None:
        self._spans: dict[str, list[tuple[Any, Any]]] = {"encode": [], "prefill": [], "decode": []}
        self._records: list[Any] = []
        self._steps = 0
        self._encode: list[Any] = []
        """Start and latest end of the pictures encoded since the last pass."""
        self._last: Any = None
        """The end of the pass before this one."""
        self._start: Any = None
        """Where the pass under way began; None between passes."""

    def __enter__(self) -> PhaseClock:
        self._reset()
        model, multimodal = self._adapter.model, self._adapter.multimodal
        for part in multimodal.children():
            if part is not self._adapter.language_model:
                self._hooks.append(part.register_forward_pre_hook(self._before_part))
                self._hooks.append(part.register_forward_hook(self._after_part))
        self._hooks.append(model.register_forward_pre_hook(self._before_pass, with_kwargs=True))
        self._hooks.append(model.register_forward_hook(self._after_pass))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._hooks:
            self._hooks.pop().remove()

    def phases(self) -> Phases:
        """The seconds so far; waits for the device."""
        sums = {name: sum(self._between(*span) for span in spans) for name, spans in self._spans.items()}
        return Phases(**sums, select=sum(record.seconds() for record in self._records), tokens=self._steps)

    def _mark(self) -> Any:
        if not self._cuda:
            return self._now()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def _between(self, start: Any, end: Any) -> float:
        if not self._cuda:
            return end - start
        end.synchronize()
        return start.elapsed_time(end) / 1e3

    def _before_part(self, module: Any, args: Any) -> None:
        if not self._encode:
            self._encode.append(self._mark())

    def _after_part(self, module: Any, args: Any, output: Any) -> None:
        self._encode[1:] = [self._mark()]

    def _before_pass(self, module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        cache = given_cache(kwargs)
        self._start, self._record = self._mark(), self._recorded()
        self._filled = cache is not None and cache.get_seq_length() > 0

    def _after_pass(self, module: Any, args: Any, output: Any) -> None:
        if self._start is None:
            return
        before, self._last = self._last, self._mark()
        if len(self._encode) == 2:
            self._spans["encode"].append((self._encode[0], self._encode[1]))
            self._spans["prefill"].append((self._encode[1], self._last))
        elif self._filled and before is not None:
            self._spans["decode"].append((before, self._last))
            self._steps += 1
        else:
            self._spans["prefill"].append((self._start, self._last))
        record = self._recorded()
        if record is not None and record is not self._record:
            self._records.append(record)
        self._encode, self._start = [], None

    def _recorded(self) -> Any:
        handle = attachment(self._adapter.model)
        return None if handle is None else handle.record
