"""The cache by either of its names, on genuine models of whatever transformers is installed."""

import inspect
import warnings

import pytest
import torch
from transformers import DynamicCache
from transformers.modeling_outputs import BaseModelOutputWithPast

import vtokens
from tests.families import BROKEN, FAMILIES, build, image, inputs
from vtokens.adapters import adapter_for
from vtokens.core.compat import as_cache, given_cache, returned_cache, swap_cache

OLD, NEW = "past_key_values", "cache"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_cache_goes_by_the_name_that_a_forward_has_for_it(family: str) -> None:
    adapter = adapter_for(build(family)[0])
    for module in (adapter.model, adapter.multimodal, adapter.language_model, adapter.layers[0]):
        names = set(inspect.signature(type(module).forward).parameters) & {OLD, NEW}
        assert set(as_cache(module, None)) == names != set()


@pytest.mark.parametrize("name", [OLD, NEW])
def test_a_cache_is_found_and_swapped_under_either_name(name: str) -> None:
    decoder, one, other = adapter_for(build("llava")[0]).language_model, DynamicCache(), DynamicCache()
    assert given_cache({name: one, "use_cache": True}) is one
    assert given_cache({OLD: None, NEW: None}) is None
    assert swap_cache(decoder, {name: one, "use_cache": True}, other) == {"use_cache": True, **as_cache(decoder, other)}


def test_an_output_is_read_by_its_own_fields() -> None:
    states, cache = torch.zeros(1, 1, 1), DynamicCache()
    assert returned_cache(BaseModelOutputWithPast(states, cache)) is cache
    assert returned_cache(BaseModelOutputWithPast(states)) is None
    assert returned_cache((states, cache)) is None


@pytest.mark.parametrize("spec", ["fastv(keep=0.5, layer=1)", "vhr", "m3id"])
def test_a_user_may_give_the_cache_by_its_old_name(spec: str) -> None:
    """Releases that renamed it still take the old name, with a warning: a second step then is the same step."""
    model, processor = build("llava")
    batch = inputs(processor, ["what is <image> this?"], [[image(84, 84, seed=1)]])
    after = {"input_ids": torch.tensor([[5, 6]]), "attention_mask": torch.ones(1, batch["input_ids"].shape[1] + 2)}
    answers = []
    with vtokens.attach(model, spec), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        for by_old_name in (True, False):
            cache = returned_cache(model(**batch, use_cache=True))
            answers.append(model(**after, **({OLD: cache} if by_old_name else as_cache(model, cache))).logits)
    assert torch.equal(*answers)


def test_llama4_is_refused_by_the_releases_that_cannot_run_it() -> None:
    """Those say so themselves, in each call; where one of them is not installed, Llama 4 is attached to."""
    model, processor = build("llama4")
    batch = inputs(processor, ["what is <image> this?"], [[image(56, 56, seed=1)]])
    if not BROKEN:
        with vtokens.attach(model, "cls(keep=0.5)"), torch.no_grad():
            assert model(**batch).logits.isfinite().all()
        return
    with pytest.raises(AttributeError, match="image_outputs"), torch.no_grad():
        model(**batch)
    with pytest.raises(ValueError, match="cannot run its own Llama 4"):
        vtokens.attach(model, "cls(keep=0.5)")
