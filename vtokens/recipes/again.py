"""How a recipe works behind `model.generate(**inputs, custom_generate=recipe)`.

transformers prepares the call, and hands a callable the prompt's ids, its processors and criteria, and its settings. A
recipe looks at the prompt, writes another one, and has `generate` answer that; what comes back is the caller's own
prompt with the new tokens behind it, as from any `generate`.

    generate(prompt)  ->  recipe: look, write another prompt  ->  generate(other prompt)
    prompt + new tokens   <-------------------------------------  other prompt + new tokens
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from vtokens.core.compat import given_cache

_CLOCK = "initial_timestamp"


class Again(ABC):
    """A recipe that asks again, as `custom_generate` of any `generate`. Subclasses write `second`.

    Attributes:
        streamer: what new tokens are handed to. `generate` hands a callable none, so it is given here.
    """

    streamer: Any = None

    @abstractmethod
    def second(self, model: PreTrainedModel, prompts: Sequence[Tensor]) -> tuple[Mapping[str, Any], Any]:
        """What is asked in the caller's place, and what was found out.

        Args:
            model: the one that `generate` was called on; what is attached to it acts in every pass.
            prompts: for each sample int64 (N,), the ids of its prompt, padding left out.

        Returns:
            The inputs of the second `generate`, padded on the left, with as many rows; and anything, for `found`.
        """

    def __call__(
        self,
        model: PreTrainedModel,
        input_ids: Tensor,
        logits_processor: Sequence[Any] = (),
        stopping_criteria: Sequence[Any] = (),
        generation_config: GenerationConfig | None = None,
        **prepared: Any,
    ) -> Any:
        """What `generate` returns: the prompts with the new tokens behind them, or an output that has `found` too.

        Raises:
            ValueError: the call goes on from a cache, or has what holds for its own prompt only.
        """
        if generation_config is None:
            raise ValueError("a recipe is called by generate: model.generate(**inputs, custom_generate=recipe)")
        cache = given_cache(prepared)
        if cache is not None and int(cache.get_seq_length()) > 0:
            raise ValueError(
                "a recipe asks from the start, and this call goes on from a cache: give it the whole conversation"
            )
        asked: Any = model
        config = _config(generation_config, input_ids.shape[1])
        made = asked.generate(
            input_ids[:1], attention_mask=torch.ones_like(input_ids[:1]), generation_config=config,
            custom_generate=_prepared,
        )  # fmt: skip
        own = [_own(given, other) for given, other in zip((logits_processor, stopping_criteria), made, strict=True)]
        copies = max(config.num_beams or 1, config.num_return_sequences or 1)
        first = input_ids[::copies]
        mask = prepared.get("attention_mask")
        real = torch.ones_like(first, dtype=torch.bool) if mask is None else mask[::copies].bool()
        prompts = [row[there] for row, there in zip(first, real, strict=True)]
        following, found = self.second(model, prompts)
        output = asked.generate(
            **following, generation_config=config, logits_processor=own[0], stopping_criteria=own[1],
            streamer=self.streamer,
        )  # fmt: skip
        sequences = output if isinstance(output, Tensor) else output.sequences
        new = sequences[:, following["input_ids"].shape[1] :]
        sequences = torch.cat([first.to(new.device).repeat_interleave(len(new) // len(first), 0), new], 1)
        if isinstance(output, Tensor):
            return sequences
        output.sequences, output.found = sequences, found
        return output


def _config(given: GenerationConfig, length: int) -> GenerationConfig:
    """The settings of a call for another prompt than theirs, which had `length` ids: as many new tokens as it may."""
    public = {name: value for name, value in given.to_dict().items() if not name.startswith("_")}
    least = max(0, (given.min_length or 0) - length)
    lengths = {"max_length": None, "min_length": None, "max_new_tokens": given.max_length - length}
    return GenerationConfig(**{**public, **lengths, "min_new_tokens": least or None})


def _prepared(
    model: Any, input_ids: Tensor, logits_processor: Any, stopping_criteria: Any, **more: Any
) -> tuple[list[Any], list[Any]]:
    """A decoding loop that only tells which processors and criteria `generate` makes of its settings."""
    return list(logits_processor), list(stopping_criteria)


def _own(given: Iterable[Any], made: Sequence[Any]) -> list[Any]:
    """Those that the caller brought, which the settings do not make.

    Raises:
        ValueError: one of transformers' own, that may hold for the caller's prompt alone.
    """
    own = [one for one in given if not any(_alike(one, other) for other in made)]
    for one in own:
        if type(one).__module__.startswith("transformers."):
            raise ValueError(
                f"a {type(one).__name__} was made for one prompt, and a recipe asks another: say it by an option of "
                "generate (temperature=0.5, ...), or bring a class of your own"
            )
    return own


def _alike(one: Any, other: Any) -> bool:
    return type(one) is type(other) and _plain(one) == _plain(other)


def _plain(one: Any) -> dict[str, Any]:
    """The settings of a processor or criterion that are numbers and texts."""
    return {name: value for name, value in vars(one).items() if isinstance(value, int | float | str) and name != _CLOCK}
