"""Arguments given by position count as those given by name, whichever of the modules is called."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import pytest
import torch

import vtokens
from tests.engine.cases import model
from tests.engine.compare import ragged
from tests.families import FAMILIES
from vtokens.core.compat import as_cache, returned_cache

SPEC = "random(keep=0.4)"


def by_position(module: Any, given: dict[str, Any], names: Sequence[str]) -> Any:
    """What a call gives whose arguments up to the last of `names` stand in the order of its signature."""
    parameters = [*inspect.signature(type(module).forward).parameters][1:]
    last = max(parameters.index(name) for name in names)
    args = [given.get(name) for name in parameters[: last + 1]]
    return module(*args, **{name: value for name, value in given.items() if name not in parameters[: last + 1]})


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_the_decoder_by_itself_goes_on_from_a_shortened_cache(family: str) -> None:
    """Its padding mask and its cache by position: rows of different lengths, so that the mask matters."""
    target, batch, answers = model(family, "positional"), ragged(family), []
    decoder, valid = target.model.language_model, batch["attention_mask"]
    with vtokens.attach(target, SPEC):
        for names in ((), ("attention_mask", "past_key_values")):
            cache = returned_cache(target(**batch, use_cache=True))
            places = valid.sum(1, keepdim=True)
            given = {
                "input_ids": 65 + torch.arange(len(valid))[:, None],
                "attention_mask": torch.nn.functional.pad(valid, (0, 1), value=1),
                "position_ids": places.expand(3, -1, -1) if family.startswith("qwen") else places,
                **as_cache(decoder, cache),
            }
            if names and "past_key_values" not in given:  # called otherwise in this release of transformers
                names = ("attention_mask", next(iter(as_cache(decoder, cache))))
            answers.append((by_position(decoder, given, names) if names else decoder(**given))[0])
    torch.testing.assert_close(answers[1], answers[0], rtol=0, atol=0)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_pictures_and_masks_by_position(family: str) -> None:
    """The model with logits, and the multimodal module by itself."""
    batch = ragged(family)
    names = [name for name in ("attention_mask", "pixel_values") if name in batch]
    with vtokens.attach(model(family, "positional"), SPEC) as handle:
        for module in (model(family, "positional"), model(family, "positional").model):
            expected = module(**batch)[0]
            counts = handle.report().samples
            found = by_position(module, batch, names)[0]
            torch.testing.assert_close(found, expected, rtol=0, atol=0)
            assert [one.visual_tokens for one in handle.report().samples] == [one.visual_tokens for one in counts]
