"""How one row of a batch is to be written: what `generate` would make of its settings if it ran by itself."""

from __future__ import annotations

import copy
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.generation import GenerationMode

SHARED = (
    "use_cache", "cache_implementation", "cache_config", "prefill_chunk_size", "compile_config", "disable_compile",
    "low_memory",
)  # fmt: skip
"""Settings that a whole batch runs under: rows that differ in one run in batches of their own."""

REFUSED = {
    "num_return_sequences": "send the request several times, each with a seed of its own",
    "guidance_scale": "a contrast such as 'vcd' or 'm3id' as the request's strategy does the like",
    "token_healing": None,
    "max_time": "a deadline does the like",
    "output_attentions": None,
    "output_hidden_states": None,
    "output_scores": "logprobs tell them",
    "output_logits": "logprobs tell them",
    "return_dict_in_generate": None,
}
"""Settings that ask for what no answer carries, or for passes of their own, and what to do in their place."""


_STATELESS = (TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper, MinPLogitsWarper)
"""Processors that look at nothing but scores, and keep nothing: rows may share them."""
_MOST = 256  # settings that are remembered


@dataclass(frozen=True, eq=False)
class Decoding:
    """How the answer of one row is written.

    Attributes:
        processors: what changes its scores (1, V), given its own tokens (1, N).
        samples: whether tokens are drawn; else the likeliest are taken.
        ends: tokens that end it.
        stops: texts that end it.
        most: tokens after which it ends.
        shared: what its batch has to run under.
    """

    processors: LogitsProcessorList
    samples: bool
    ends: frozenset[int]
    stops: tuple[str, ...]
    most: int
    shared: tuple[tuple[str, Any], ...]


class Decodings:
    """`decoding` of one model, which prepares the same settings once.

    What depends on the prompt, or keeps something while it writes, is prepared for each request.

    Args:
        model: the model; its generation settings may change.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._known: OrderedDict[Any, Decoding] = OrderedDict()

    def __call__(self, ids: Tensor, settings: GenerationConfig) -> Decoding:
        """As `decoding`; from any thread."""
        parts = [_written(one) for one in (settings, self._model.generation_config)]
        key = None if settings.max_new_tokens is None or None in parts else tuple(parts)
        found = None if key is None else self._known.get(key)
        if found is None:
            found = decoding(self._model, ids, settings)
            if key is not None and all(type(one) in _STATELESS for one in found.processors):
                self._known[key] = found
                if len(self._known) > _MOST:
                    self._known.popitem(last=False)
        return found


def _written(settings: GenerationConfig) -> str | None:
    """Settings as text; None if some are objects, of which text does not tell all."""
    given = {name: value for name, value in vars(settings).items() if value is not None}
    plain = (bool, int, float, str, list, tuple, dict)
    return repr(given) if all(isinstance(value, plain) for value in given.values()) else None


def decoding(model: Any, ids: Tensor, settings: GenerationConfig) -> Decoding:
    """Have `generate` prepare what it would write an answer under, without running the model.

    Args:
        model: the model.
        ids: int64 (1, N), the prompt without padding.
        settings: of the request; the model's defaults stand in for what is None.

    Raises:
        ValueError: settings that transformers refuses, or that cannot hold for one row of a batch.
    """
    settings, stops = copy.deepcopy(settings), settings.stop_strings
    settings.stop_strings = None  # they are looked for in what is streamed
    cache = settings.cache_implementation or model.generation_config.cache_implementation
    settings.cache_implementation = "dynamic"  # holds nothing yet; a static one may be in use by a batch that runs
    if settings.max_new_tokens is None and settings.max_length is None:
        raise ValueError(
            "settings say neither max_new_tokens nor max_length: one is needed, such as max_new_tokens=128"
        )
    ids = ids.to(model.device)
    # Positions are given as some families make them of pictures, which are not here; nothing looks at them.
    given = {"attention_mask": torch.ones_like(ids), "position_ids": torch.arange(ids.shape[1]).to(ids)[None]}
    processors, config = model.generate(input_ids=ids, **given, generation_config=settings, custom_generate=_prepared)
    _check(config)
    config.cache_implementation = cache
    ends = [] if config._eos_token_tensor is None else config._eos_token_tensor.tolist()
    found = [stops] if isinstance(stops, str) else list(stops or ())
    if not all(found):
        raise ValueError(f"stop_strings={found!r}: an empty one would end every answer at once")
    return Decoding(
        processors,
        bool(config.do_sample),
        frozenset(ends),
        tuple(found),
        config.max_length - ids.shape[1],
        tuple((name, getattr(config, name, None)) for name in SHARED),
    )


def shared_config(shared: tuple[tuple[str, Any], ...], most: int) -> GenerationConfig:
    """What a batch is run under; what rows differ in is done by `choose` and `watch`."""
    return GenerationConfig(**dict(shared), max_new_tokens=most, do_sample=False, num_beams=1)


def _prepared(model: Any, input_ids: Any, logits_processor: Any, generation_config: Any, **rest: Any) -> Any:
    return logits_processor, generation_config


def _check(config: GenerationConfig) -> None:
    mode = config.get_generation_mode()
    if mode not in (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE):
        raise ValueError(
            f"settings ask for {mode.value}: greedy search and sampling are allowed in a batch of requests"
        )
    for name, instead in REFUSED.items():
        value = getattr(config, name, None)
        if value is True or value not in (None, False, 1, 1.0):
            raise ValueError(
                f"{name}={value!r} cannot hold for one request of a batch" + (f": {instead}" if instead else "")
            )
