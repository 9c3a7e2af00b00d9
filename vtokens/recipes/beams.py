"""OPERA: a beam search that turns from tokens on which all that follows dwells, called by `generate`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Unpack, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel

from vtokens.adapters import adapter_for
from vtokens.core.compat import given_cache
from vtokens.engine.attach import joined
from vtokens.recipes.beam_loop import BeamLoop, Opera
from vtokens.recipes.overtrust import Dwelling

if TYPE_CHECKING:
    from vtokens.core.generate_options import OnwardOptions


def opera(
    model: PreTrainedModel,
    inputs: Mapping[str, Any],
    settings: Opera = Opera(),  # noqa: B008 (frozen)
    *,
    num_beams: int = 5,
    **options: Unpack[OnwardOptions],
) -> Any:
    """Answer one prompt by a beam search that turns from tokens on which all that follows dwells (OPERA).

    Args:
        model: of a supported family; what is attached to it acts in every pass.
        inputs: of one prompt, as the processor makes them.
        settings: of the method.
        num_beams: the beams.
        options: of `generate`.

    Returns:
        What `generate` returns with beams. With `return_dict_in_generate=True` the output has `found`: how many tokens
        were left each time that the beams went back.

    Raises:
        ValueError: several prompts, sampling, a cache to go on from, or an option that the search does not know.
    """
    facts, asked = adapter_for(model).facts, cast(Any, model)
    look = Dwelling(facts.nearest_attending(facts.depth - 1))
    with joined(model, look), torch.no_grad():
        loop = _Call(settings, look)
        return asked.generate(**inputs, **options, num_beams=num_beams, custom_generate=loop)


@dataclass(frozen=True)
class _Call:
    """The decoding loop that `generate` calls."""

    settings: Opera
    look: Dwelling

    def __call__(
        self, model: Any, input_ids: Tensor, logits_processor: Any, stopping_criteria: Any, generation_config: Any,
        **prepared: Any,
    ) -> Any:  # fmt: skip
        _check(generation_config, input_ids, prepared)
        loop = BeamLoop(self.settings, model, self.look, generation_config, input_ids, prepared)
        loop.run(logits_processor, stopping_criteria)
        return loop.output()


def _check(config: Any, input_ids: Tensor, prepared: Mapping[str, Any]) -> None:
    """Raise `ValueError` for what the search does not know."""
    beams, cache = config.num_beams or 1, given_cache(prepared)
    wrong = {
        f"{len(input_ids) // beams} prompts at once": len(input_ids) != beams,
        "do_sample=True": config.do_sample,
        "num_return_sequences above num_beams": (config.num_return_sequences or 1) > beams,
        f"early_stopping={config.early_stopping!r}": config.early_stopping not in (None, False, True),
        "a cache to go on from": cache is not None and int(cache.get_seq_length()) > 0,
        "use_cache=False": config.use_cache is False,
    }
    for what, given in wrong.items():
        if given:
            raise ValueError(
                f"OPERA searches one prompt with beams, from its start and with a cache: {what} is not allowed. Ask "
                "prompts one by one, as opera(model, inputs, num_beams=5, do_sample=False)"
            )
