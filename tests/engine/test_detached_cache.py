"""A cache that was filled under a strategy, and is gone on with when that is detached."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from transformers import DynamicCache

import vtokens
from tests.engine.compare import one, ragged
from tests.families import build
from tests.limits import close_pass

pytestmark = pytest.mark.usefixtures("no_grad")
FAMILY = "llava"


def filled(model: Any, spec: str, batch: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """A cache, and what is fed next."""
    with vtokens.attach(model, spec):
        cache = model(**batch, past_key_values=DynamicCache(config=model.config)).past_key_values
    tokens = batch["input_ids"][:, -2:]
    mask = torch.cat([batch["attention_mask"], torch.ones_like(tokens)], 1)
    return cache, {"input_ids": tokens, "attention_mask": mask}


@pytest.mark.parametrize(
    ("spec", "batch", "fed"),
    [
        ("cls(keep=0.5)", one, 2),  # a mask over what was fed
        ("cls(keep=0.5)", ragged, 1),
        ("dymu(thresholds=(0.5, 0.5))", one, 1),  # keys that are not turned
        ("cls(keep=0.5, positions='compact')", one, 1),  # other numbers
    ],
)
def test_what_would_fail_or_be_wrong_is_refused(spec: str, batch: Any, fed: int) -> None:
    model = build(FAMILY)[0]
    cache, more = filled(model, spec, batch(FAMILY))
    short = {"input_ids": more["input_ids"][:, :fed], "attention_mask": more["attention_mask"][:, : fed - 2 or None]}
    with pytest.raises(RuntimeError, match="filled under a strategy that is no longer attached"):
        model(**short, past_key_values=cache)
    with vtokens.attach(model, spec):
        model(**short, past_key_values=cache)


def test_what_is_attached_to_another_model_does_not_see_to_it() -> None:
    model, other = build(FAMILY)[0], copy.deepcopy(build(FAMILY)[0])
    cache, more = filled(model, "cls(keep=0.5)", one(FAMILY))
    with vtokens.attach(other, "cls(keep=0.5)"):
        other(**one(FAMILY))
        with pytest.raises(RuntimeError, match="filled under a strategy that is no longer attached"):
            model(**more, past_key_values=cache)


def test_one_token_sees_what_was_kept() -> None:
    model, spec = build(FAMILY)[0], "cls(keep=0.5)"
    cache, more = filled(model, spec, one(FAMILY))
    step = {"input_ids": more["input_ids"][:, :1], "attention_mask": more["attention_mask"][:, :-1]}
    got = model(**step, past_key_values=copy.deepcopy(cache)).logits
    with vtokens.attach(model, spec):
        close_pass(got, model(**step, past_key_values=cache).logits)


def test_copies_of_an_attached_model_go_on() -> None:
    """Whose engines were never put on: those of the original are gone."""
    model, spec = build(FAMILY)[0], "cls(keep=0.5)"
    with vtokens.attach(model, spec):
        made = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
    for copied in made:
        cache = copied(**one(FAMILY), past_key_values=DynamicCache(config=copied.config)).past_key_values
        assert copied(input_ids=one(FAMILY)["input_ids"][:, -2:], past_key_values=cache).logits.isfinite().all()
        vtokens.detach(copied)
