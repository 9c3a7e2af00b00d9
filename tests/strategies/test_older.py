"""Members that `Needs` replaced: a strategy that overrides them works as before, and is told what to write."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import vtokens
from tests.families import build
from tests.strategies.helpers import pair, registry_restored, three_rows
from vtokens.adapters import adapter_for
from vtokens.engine.plan import Plan
from vtokens.strategies import Attention, Facts, Needs, Saliency, Selection, Strategy, Visuals, parse, register
from vtokens.strategies.attend.vhr import Vhr
from vtokens.strategies.base import needs_of
from vtokens.strategies.merge.dymu import Dymu
from vtokens.strategies.older import REPLACED
from vtokens.strategies.prune.cls import Cls
from vtokens.strategies.views.heads import Heads

FACTS = Facts("llava", depth=4, tower_depth=4, has_cls=True)


def older(make: Callable[[], type], *names: str) -> type:
    """The class that `make` defines, which warns of these names and of no others."""
    with pytest.warns(DeprecationWarning, match="overrides") as found:
        cls = dataclass(frozen=True)(make())
    told = [str(one.message) for one in found]
    assert sorted(text.split("`")[1] for text in told) == sorted(names)
    assert all("goes away in 0.3" in text and "docs/migrating.md" in text for text in told)
    assert all(f"Needs({REPLACED[name]}=...)" in " ".join(told) for name in names)
    assert {one.filename for one in found} == {__file__}
    return cls


def test_every_replaced_member_has_its_field() -> None:
    new = {
        "rows",
        "states",
        "mlp",
        "sizes",
        "compact",
        "cache",
        "pixels",
        "blends",
        "early",
        "grounds",
        "minds_sizes",
        "moves",
        "norm",
        "shortcut",
        "waits",
        "weighs",
    }  # nothing had a name for these before
    assert {*REPLACED.values()} | new == {field.name for field in dataclasses.fields(Needs)}


def test_built_in_strategies_override_none() -> None:
    for name in vtokens.strategies():
        cls = vtokens.strategies.get(name)
        mine = [one for one in cls.__mro__ if issubclass(one, Strategy)]
        assert not [name for one in mine for name in REPLACED if name in vars(one)]


def make_fastv() -> type:
    class OldFastV(Strategy):
        name = "old_fastv"
        keep: float = 0.25
        layer: int = 2

        def signals(self, facts: Facts) -> Sequence[Attention]:
            return (Attention(self.layer - 1),)

        def acts_before(self, facts: Facts) -> Sequence[int]:
            return (self.layer,)

        def at_layer(self, visuals: Visuals, index: int) -> Selection:
            return visuals.top(visuals.attention(index - 1), self.keep)

    return OldFastV


def make_vhr() -> type:
    class OldVhr(Vhr):
        once: ClassVar[bool] = True

        def attends_in(self, facts: Facts) -> Sequence[int]:
            return (1, 3)

        def wants_branch(self) -> bool:
            return True

    return OldVhr


def make_dymu() -> type:
    class OldDymu(Strategy):
        name = "old_dymu"
        once: ClassVar[bool] = True

        def encodes_in(self, facts: Facts) -> Sequence[int]:
            return (0, 1)

        def unmerges(self) -> bool:
            return True

        def prepare(self, facts: Facts) -> Any:
            return (0.5, 0.5)

        at_encode = Dymu.at_encode
        order = "raster"

        def at_prompt(self, visuals: Visuals) -> Selection | None:
            copies = visuals.copies()
            assert copies is not None
            first = (copies[:, :, None] == copies[:, None]).int().argmax(2)
            keep = (first == torch.arange(first.shape[1])) & visuals.valid
            return Selection(keep, member=first)

    return OldDymu


@pytest.mark.parametrize(
    ("make", "names", "now"),
    [
        (make_fastv, ("signals", "acts_before"), "fastv(keep=0.25)"),
        (make_vhr, ("once", "attends_in", "wants_branch"), "vhr(layers=(1, 3), divergence='two_branch')"),
        (make_dymu, ("once", "encodes_in", "unmerges"), "dymu(thresholds=(0.5, 0.5))"),
    ],
)
@torch.no_grad()
def test_it_answers_as_the_strategy_of_today(make: Callable[[], type], names: tuple[str, ...], now: str) -> None:
    """Bit by bit, with `super()` and without, alone and behind a pruner."""
    model, batch = pair("llava")[0], three_rows("llava")
    strategy = older(make, *names)()
    for before in ((), parse("cls(keep=0.75)")):
        answers = []
        for spec in ((*before, strategy), (*before, *parse(now))):
            with vtokens.attach(model, spec):
                answers.append(model(**batch).logits)
        assert torch.equal(*answers)


@torch.no_grad()
def test_watching_and_computing() -> None:
    """`watches` sees passes without pictures and single tokens; of two that compute, one is refused."""
    seen: list[str] = []

    def make_watch() -> type:
        class OldWatch(Strategy):
            watches: ClassVar[bool] = True

            def attends_in(self, facts: Facts) -> Sequence[int]:
                return (1,)

            def at_attend(self, heads: Heads) -> None:
                seen.append("attend")

            def at_step(self, layer: int, query: Tensor, hidden: Tensor, output: Tensor) -> None:
                seen.append("step")

        return OldWatch

    def make_compute() -> type:
        class OldCompute(Strategy):
            computes = True

            def at_attend(self, heads: Heads) -> None:
                """Changes nothing."""

        return OldCompute

    model, batch = build("llava")[0], three_rows("llava")
    with vtokens.attach(model, older(make_watch, "watches", "attends_in")()):
        model.generate(**batch, max_new_tokens=3, min_new_tokens=3, do_sample=False)
        model(input_ids=batch["input_ids"].clamp(max=9))
    assert seen == ["attend", "step", "step", "attend"]
    compute = older(make_compute, "computes")
    with pytest.raises(ValueError, match="would compute attention twice"):
        Plan(adapter_for(model), [compute(), compute()])


def test_the_nearest_class_has_the_last_word() -> None:
    """An override of before counts over the `needs` it inherits, and gives way to one further down."""

    def make_cls() -> type:
        class OldCls(Cls):
            def signals(self, facts: Facts) -> Sequence[Saliency]:
                return (*super().signals(facts), Saliency((0,)))  # type: ignore[misc]

        return OldCls

    old = older(make_cls, "signals")
    assert needs_of(old(), FACTS) == Needs(signals=(Saliency(), Saliency((0,))))
    with warnings.catch_warnings():
        warnings.simplefilter("error")

        @dataclass(frozen=True)
        class New(old):  # type: ignore[misc, valid-type]
            def needs(self, facts: Facts) -> Needs:
                return Needs(signals=(Saliency((1,)),))

        @dataclass(frozen=True)
        class More(older(make_fastv, "signals", "acts_before")):  # type: ignore[misc]
            def needs(self, facts: Facts) -> Needs:
                return dataclasses.replace(super().needs(facts), once=True)

    assert needs_of(New(), FACTS) == Needs(signals=(Saliency((1,)),))
    assert needs_of(More(), FACTS) == Needs(signals=(Attention(1),), layer=(2,), once=True)


def test_naming_it_twice_is_refused_as_before() -> None:
    def make() -> type:
        class OldOnce(Strategy):
            once = True

            def at_prompt(self, visuals: Visuals) -> Selection | None:
                return None

        return OldOnce

    with registry_restored():
        cls = register("old_once")(older(make, "once"))
        with pytest.raises(ValueError, match="names 'old_once' twice: once is allowed"):
            vtokens.attach(pair("llava")[0], [cls(), cls()])
