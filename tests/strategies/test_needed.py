"""What a card says a strategy needs: the same from source and from the class, and all that it asks a model for."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from torch import Tensor

from tests.strategies.helpers import registry_restored
from vtokens.strategies import (
    Facts,
    Needs,
    Saliency,
    ScorePruner,
    TowerKeys,
    Visuals,
    describe,
    get,
    list_strategies,
    register,
)
from vtokens.strategies.base import needs_of
from vtokens.strategies.card import card
from vtokens.strategies.needed import WORDS, meets, signals

LLAVA = Facts("llava", depth=32, tower_depth=24, has_cls=True, width=4096)


@pytest.mark.parametrize("name", list_strategies())
def test_a_card_names_what_is_asked_for(name: str) -> None:
    """What the strategy asks a model for with its defaults is on the card, read either way."""
    read = describe(name)
    assert card(get(name)) == read
    if "table" in read.needs:  # of a model that there is none for, it asks for nothing
        with pytest.raises(ValueError, match=r"calibrate|search-patterns|not known"):
            needs_of(get(name)(), LLAVA)
        return
    needs = needs_of(get(name)(), LLAVA)
    asked = {"".join(f" {c.lower()}" if c.isupper() else c for c in type(one).__name__)[1:] for one in needs.signals}
    assert asked <= set(read.needs), "a signal that is asked for is named in a method of the class or of a base"
    assert set(read.needs) - set(WORDS) <= {
        "".join(f" {c.lower()}" if c.isupper() else c for c in s)[1:] for s in signals()
    }


def test_a_class_that_is_imported_says_it_too() -> None:
    """A plugin's: what any of its methods reads, in properties and nested functions as well."""
    with registry_restored():

        @register("mine_needs")
        @dataclass(frozen=True)
        class Mine(ScorePruner):
            """Keeps some."""

            @property
            def _signals(self) -> tuple[Saliency | TowerKeys, ...]:
                return tuple(make() for make in (lambda: Saliency(), lambda: TowerKeys(-1)))

            def needs(self, facts: Facts) -> Needs:
                return Needs(signals=self._signals)

            def score(self, visuals: Visuals) -> Tensor:
                return visuals.saliency(None)

        found = describe("mine_needs")
    assert (found.needs, found.kind) == (("saliency", "tower keys"), "")
    assert "needs: saliency (what the vision tower attends to" in str(found)


def test_words_for_needs() -> None:
    """A whole need, one word of it, and the other names that people know them by."""
    assert [meets(("tower keys",), one) for one in ("keys", "tower keys", "layer keys", "cls")] == [
        True,
        True,
        False,
        False,
    ]
    assert meets(("saliency",), "cls")
    assert meets(("saliency",), "saliency")
    assert not meets((), "text")
