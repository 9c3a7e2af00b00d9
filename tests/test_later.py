"""What is worked out when it is asked for: once, by whoever asks first, and not at all where nobody does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

import vtokens
from tests.families import build
from tests.filter.traced import ask
from vtokens.core.later import Later, Made
from vtokens.filter.trace.prompts import prompt_inputs
from vtokens.strategies import Facts, Strategy
from vtokens.strategies.needs import Needs
from vtokens.strategies.views.heads import Heads, Rows, Span

ROWS = ("answers", "last", "writing", "spans")


@dataclass
class _Holder:
    value: Any
    plain: int = 0


setattr(_Holder, "value", Made("value"))  # noqa: B010 (as the package does it, behind the decorator)


def test_it_is_made_once_and_stays_through_a_copy() -> None:
    asked: list[int] = []

    def make() -> list[int]:
        asked.append(1)
        return [3]

    one = _Holder(Later(make))
    assert not asked
    assert one.value is one.value
    assert replace(one, plain=1).value is one.value
    assert asked == [1]
    one.value = 4
    assert one.value == 4


@dataclass(frozen=True)
class _Looks(Strategy):
    """Watches an attention call, and keeps what it says of its rows."""

    name = "looks"
    tell: Callable[[Heads], None]

    def needs(self, facts: Facts) -> Needs:
        return Needs(attend=(1,), watches=True)

    def at_attend(self, heads: Heads) -> None:
        self.tell(heads)


@pytest.mark.usefixtures("no_grad")
def test_rows_that_nobody_asks_for_are_not_worked_out() -> None:
    """Those who ask get them: where the prompts of a padded batch end is where its mask says."""
    model, processor = build("llava_next")
    images, prompts = ask(processor)
    inputs = prompt_inputs(processor, images, prompts, "cpu")
    waiting: list[bool] = []
    given: list[tuple[Any, ...]] = []

    def tell(heads: Heads) -> None:
        held = [vars(heads)[name] for name in ROWS]
        waiting.extend(isinstance(one, Later) and "value" not in vars(one) for one in held)
        given.append(tuple(getattr(heads, name) for name in ROWS))

    with vtokens.attach(model, _Looks(tell)):
        model(**inputs)
    assert waiting == [True] * len(ROWS)
    [(answers, last, writing, spans)] = given
    assert all(isinstance(one, Rows) for one in (answers, last, writing))
    assert all(isinstance(one, Span) for one in spans)
    length = inputs["input_ids"].shape[1]
    assert torch.equal(last.index, torch.full((len(prompts), 1), length - 1))  # padded on the left
    padding = (inputs["attention_mask"] == 0).sum(1).tolist()
    assert [span.first for span in spans] == padding
