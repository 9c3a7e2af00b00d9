"""lmms-eval's generation settings as arguments of `model.generate`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, StoppingCriteria

_PARAGRAPH = "\n\n"
"""What lmms-eval writes into the settings of every task that names no stop string; nobody asked for it."""
_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "typical_p")


@dataclass(frozen=True)
class GenerationSettings:
    """How one request is to be generated.

    Attributes:
        arguments: keyword arguments of `model.generate`.
        stop: strings that end the answer and are no part of it.
    """

    arguments: Mapping[str, Any]
    stop: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Equal for settings that may share a batch."""
        return json.dumps([dict(self.arguments), self.stop], sort_keys=True)

    def cut(self, text: str) -> str:
        """`text` up to the first stop string."""
        ends = [at for at in (text.find(stop) for stop in self.stop) if at >= 0]
        return text[: min(ends)] if ends else text


class StopStringCriteria(StoppingCriteria):
    """Ends each row at its first stop string.

    The `stop_strings` of transformers 5.23 fail for tokenizers that know whole words only, and match tokens instead of
    the text that is handed out.

    Args:
        tokenizer: of the model.
        stop: the strings.
        start: the length of the prompt.
    """

    def __init__(self, tokenizer: Any, stop: tuple[str, ...], start: int) -> None:
        self._tokenizer, self._stop, self._start = tokenizer, stop, start
        self._window = 1 + max(len(one.encode()) for one in stop)  # no token stands for less than a byte

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Tensor:
        """bool (B,): which rows have ended with the last token."""
        tail = input_ids[:, max(self._start, input_ids.shape[1] - self._window) :]
        texts = self._tokenizer.batch_decode(tail, skip_special_tokens=True)
        return torch.tensor([any(stop in text for stop in self._stop) for text in texts], device=input_ids.device)


def settings(given: Mapping[str, Any], max_new_tokens: int) -> GenerationSettings:
    """Read the `generation_kwargs` of a task.

    `do_sample: false` or a temperature of 0 is greedy; a temperature alone samples, as in lmms-eval's own models. Names
    that `generate` does not know are meant for other models and are passed over.

    Args:
        given: the task's settings; not changed.
        max_new_tokens: for a task that sets no limit.

    Raises:
        TypeError, ValueError: a value out of range, or several answers to one request.
    """
    given = {name: value for name, value in given.items() if value is not None}
    limit = given.get("max_new_tokens", given.get("max_gen_toks", max_new_tokens))
    if int(limit) != limit or limit < 1:
        raise ValueError(f"max_new_tokens={limit!r} is not allowed: an int of at least 1")
    if given.get("num_return_sequences", 1) != 1:
        raise ValueError("num_return_sequences must be 1: for several answers to a request use lmms-eval's --repeats")
    known = vars(GenerationConfig())
    arguments = {name: value for name, value in given.items() if name in known and not name.startswith("_")}
    temperature = given.get("temperature")
    sample = temperature != 0 and bool(given.get("do_sample", temperature is not None))
    if not sample:  # transformers warns of sampling settings that a greedy call cannot use, its defaults' own included
        arguments |= dict.fromkeys(_SAMPLING)
    arguments |= {"max_new_tokens": int(limit), "do_sample": sample}
    return GenerationSettings(arguments, _stops(given.get("until", ())))


def _stops(until: Any) -> tuple[str, ...]:
    until = [until] if isinstance(until, str) else list(until)
    if not all(isinstance(stop, str) for stop in until):
        raise TypeError(f"until={until!r} is not allowed: a string or a list of strings")
    return tuple(stop for stop in until if stop and stop != _PARAGRAPH)
