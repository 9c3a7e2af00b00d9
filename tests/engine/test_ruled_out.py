"""Tokens that a contrast rules out are written where `generate` itself forbids all others, and only there."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import vtokens
from tests.engine.cases import model
from tests.families import image, inputs
from vtokens.strategies import Strategy
from vtokens.strategies.views.logits import Logits

pytestmark = pytest.mark.usefixtures("no_grad")
# beta=1 leaves nothing but the favourite.
SPECS = ("vcd(beta=1.0)", "pai(gamma=1.5, beta=1.0)", "m3id(beta=1.0)", "dola(beta=1.0)")


def prompt() -> dict[str, Any]:
    """One question about one picture."""
    return dict(inputs("llava", ["What is in <image>?"], [[image(100, 60, seed=0)]]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("spec", SPECS)
def test_the_next_best_is_written_where_the_favourite_is_forbidden(spec: str, dtype: torch.dtype) -> None:
    """As plain generate writes it under the same ban, up to logits that the dtype does not tell apart that far down."""
    target, batch = copy.deepcopy(model("llava", "plain")).to(dtype), prompt()
    batch["pixel_values"] = batch["pixel_values"].to(dtype)
    own = target(**batch).logits[0, -1].float()
    first = int(own.argmax())
    options: dict[str, Any] = {"max_new_tokens": 1, "suppress_tokens": [first]}
    plain = target.generate(**batch, do_sample=False, **options)[0, -1]
    with vtokens.attach(target, spec):
        free = target.generate(**batch, do_sample=False, max_new_tokens=1)[0, -1]
        greedy = target.generate(**batch, do_sample=False, **options)[0, -1]
        drawn = target.generate(**batch, do_sample=True, **options)[0, -1]
    assert free == first
    apart = torch.finfo(dtype).eps * 2**9  # between numbers of less than 512
    assert own[greedy] >= own[plain] - apart
    assert drawn != first


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("options", [{"do_sample": False}, {"do_sample": True}, {"num_beams": 3}], ids=str)
def test_answers_are_as_long_as_they_must_be(spec: str, options: dict[str, Any]) -> None:
    """The favourite ends the answer, which is forbidden for five tokens."""
    target, batch = model("llava", "pruned"), prompt()
    end = int(target(**batch).logits[0, -1].argmax())
    with vtokens.attach(target, spec):
        got = target.generate(**batch, eos_token_id=end, min_new_tokens=5, max_new_tokens=8, **options)
    answer = got[0, batch["input_ids"].shape[1] :].tolist()
    assert len(answer) >= 5
    assert end not in answer[:5]


def test_nothing_that_is_ruled_out_is_drawn() -> None:
    """In single precision its probability is 0, at a high temperature too."""
    target, batch = model("llava", "pruned"), prompt()
    with vtokens.attach(target, "vcd(beta=1.0)"):
        logits = target(**batch).logits[0, -1]
    assert int((logits / 2).softmax(-1).count_nonzero()) == 1
    assert logits.isfinite().all()


@dataclass(frozen=True)
class Nothing(Strategy):
    """Rules every token out."""

    name: ClassVar[str] = "nothing"

    def at_logits(self, logits: Logits) -> Tensor:
        return torch.full_like(logits.positive, -torch.inf)


def test_the_model_chooses_where_nothing_is_left() -> None:
    target, batch = model("llava", "pruned"), prompt()
    plain = target.generate(**batch, do_sample=False, max_new_tokens=4)
    with vtokens.attach(target, Nothing()):
        assert torch.equal(target.generate(**batch, do_sample=False, max_new_tokens=4), plain)
