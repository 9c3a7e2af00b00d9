"""Quantised caches of transformers under strategies: what was kept is stored, quantised as transformers does it."""

from __future__ import annotations

import copy
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from transformers import DynamicCache, QuantizedCache

import vtokens
from tests.engine.cases import model
from tests.engine.compare import DETAILS, GREEDY, SPEC, check_tokens, one, ragged
from tests.engine.test_cache import step
from tests.families import FAMILIES, inputs
from tests.limits import close_pass
from vtokens.core.compat import as_cache

pytestmark = pytest.mark.usefixtures("no_grad")
BACKENDS = (
    {"backend": "fp8"},
    # Four keys are added before all of them are quantised anew.
    {"backend": "quanto", "nbits": 4, "q_group_size": 8, "residual_length": 4},
    {"backend": "hqq", "nbits": 4, "axis_key": 1, "axis_value": 1, "q_group_size": 8, "residual_length": 4},
)
NEEDED = {"fp8": "torch", "quanto": "optimum.quanto", "hqq": "hqq"}


@pytest.fixture(params=BACKENDS, ids=lambda options: options["backend"])
def options(request: Any) -> dict[str, Any]:
    """What makes a quantised cache, where the back end is installed."""
    package = NEEDED[request.param["backend"]]
    if find_spec(package.partition(".")[0]) is None or find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    return copy.deepcopy(request.param)


def caches(target: Any, options: dict[str, Any]) -> tuple[DynamicCache, QuantizedCache]:
    text = target.config.get_text_config(decoder=True)
    return DynamicCache(config=text), QuantizedCache(config=text, **options)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("spec", [SPEC, "vhr", "fastv(keep=0.3, layer=1)", "todre(keep=0.4, exit_threshold=2.0)"])
def test_steps_equal_those_over_the_kept_keys_quantised_by_hand(
    family: str, spec: str, options: dict[str, Any]
) -> None:
    """The dynamic cache of the same prompt, its layers handed to transformers' own quantised ones, gives each step."""
    target, batch = model(family, "pruned"), ragged(family)
    plain, quantised = caches(target, options)
    with vtokens.attach(target, spec):
        expected = target(**batch, **as_cache(target, plain), use_cache=True).logits
        assert torch.equal(target(**batch, **as_cache(target, quantised), use_cache=True).logits, expected)
        for index, layer in enumerate(caches(target, options)[1].layers):
            there = plain.layers[index]
            layer.update(there.keys, there.values)
            if hasattr(there, "inner"):
                there.inner = layer
            else:
                plain.layers[index] = layer
        valid = batch["attention_mask"]
        for count in (1, 1, 3, 1, 1, 1, 2):
            given = step(family, valid, count)
            valid = given["attention_mask"]
            mine, theirs = (target(**given, **as_cache(target, cache)).logits for cache in (quantised, plain))
            assert torch.equal(mine, theirs)


def test_beams_and_programs_of_rows(options: dict[str, Any]) -> None:
    """What is generated with beams, and under a program a row, is what each row alone gives."""
    target, batch = model("llava", "pruned"), one("llava")
    how = {"cache_implementation": "quantized", "cache_config": options}
    with vtokens.attach(target, SPEC) as handle:
        beams = target.generate(**batch, **GREEDY, **DETAILS, num_beams=3, **how)
        assert beams.sequences.shape[1] == batch["input_ids"].shape[1] + GREEDY["max_new_tokens"]
        alone = target.generate(**batch, **GREEDY, **DETAILS, **how)
        twice = {name: torch.cat([value, value]) for name, value in batch.items()}
        with handle.using([SPEC, SPEC]):
            together = target.generate(**twice, **GREEDY, **DETAILS, **how)
    # A scale for all rows is that of each: the rows are equal.
    check_tokens(together, copy.copy(alone) | {
        "sequences": alone.sequences.repeat(2, 1), "logits": tuple(part.repeat(2, 1) for part in alone.logits)
    }, GREEDY["max_new_tokens"])  # fmt: skip


def test_a_contrast_after_text_is_refused(options: dict[str, Any]) -> None:
    """A negative prompt begins with the keys of the text before the picture, which are not given back."""
    target, text, batch = model("llava", "pruned"), dict(inputs("llava", ["hello there"])), one("llava")
    cache = caches(target, options)[1]
    with vtokens.attach(target, "vcd"):
        target(**text, **as_cache(target, cache), use_cache=True)
        mask = torch.cat([text["attention_mask"], batch["attention_mask"]], 1)
        with pytest.raises(ValueError, match=r"a QuantizedCache does not give them back: begin with the picture"):
            target(**{**batch, "attention_mask": mask}, **as_cache(target, cache), use_cache=True)
        close_pass(
            *(target(**batch, **as_cache(target, fresh), use_cache=True).logits for fresh in caches(target, options))
        )
