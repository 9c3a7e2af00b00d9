"""Every pair of strategies, in both orders: each sample of a batch gets what it gets alone, or it is refused.

`make fuzz` runs each pair on all of `FAMILIES`. The suite runs each on one of them, so that the two orders of a pair
meet different ones, and a strategy meets all of them beside some partner.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from itertools import product
from typing import Any

import hypothesis
import pytest
import torch

import vtokens
from tests.engine.cases import FACTS, model
from tests.engine.combos import refusal, tables
from tests.families import image, inputs
from tests.limits import close_pass
from vtokens.adapters import adapter_for
from vtokens.strategies import Composition, VideoPruner
from vtokens.strategies.base import needs_of

GROUPS = [[image(60, 60, seed=0)], [image(84, 112, seed=1), image(60, 60, seed=2)], []]
PROMPTS = ("Is there a cat?", "Compare <image> with <image>, and say which one is red", "hello there")
LEADING = ("There is a cat! Is there?", "Red <image> and <image> blue", "hello")
NEW = 3
# What cannot be at once, whichever strategies ask for it.
REFUSED = (
    "lets tokens count for several in attention|acts on what the strategy written|would compute attention twice|"
    "lets visual tokens pass through layers|without any: name other layers|show attention what is merged twice|"
    "show it fewer, twice|would weigh attention twice|reads what single positions attend to"
)
CONTRASTS = vtokens.strategies.list_strategies(stage="logits")
HELD = [name for name in CONTRASTS if vtokens.strategies.get(name)().negative(FACTS) is not None]
TEMPORAL = [name for name in vtokens.strategies() if issubclass(vtokens.strategies.get(name), VideoPruner)]
# One stands for all that act at the same stages and are made on the same base; contrasts stand for themselves.
WHOLE = [name for name in vtokens.strategies() if not issubclass(vtokens.strategies.get(name), Composition)]
KINDS = {
    (*vtokens.describe(name).stages, name if name in CONTRASTS else vtokens.strategies.get(name).__mro__[1]): name
    for name in WHOLE
}
EVERY = sorted(KINDS.values())
# The others are met by a pruner before the decoder and by one inside of it, and those two by them.
OTHERS = [name for name in WHOLE if name not in EVERY]
MET = [pair for name in OTHERS for one in ("cls", "fastv") for pair in ((name, one), (one, name))]
# Logits come last wherever a contrast is written; `test_the_order_of_a_contrast` has one the other way round.
PAIRS = [(a, b) for a, b in (*product(EVERY, repeat=2), *MET) if a not in CONTRASTS or b in CONTRASTS]


FAMILIES = ("llava", "llava_onevision", "qwen2_5_vl")
PLACES = {name: place for place, name in enumerate(WHOLE)}


def families(first: str, second: str) -> tuple[str, ...]:
    """The families that a pair runs on: where the suite has to be done in minutes, one that its places choose."""
    if not hypothesis.settings.default.derandomize:
        return FAMILIES
    able = FAMILIES[1:] if {first, second} & {*TEMPORAL} else FAMILIES
    turn = PLACES[first] + PLACES[second] + (first < second)
    return (*FAMILIES[: -len(able)], able[turn % len(able)])  # what Llava refuses takes no time


CASES = [(family, *pair) for family in FAMILIES for pair in PAIRS if family in families(*pair)]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, dict[str, Any]]]:
    """What a strategy needs beside its defaults to do something on a family's tiny model."""

    @cache
    def of(family: str) -> dict[str, dict[str, Any]]:
        facts = adapter_for(model(family, "pruned")).facts
        sinks, patterns, _ = tables(facts, tmp_path_factory.mktemp("tables"))
        return {
            "mminference": {"patterns": patterns, "min_length": 1},
            "var": {"sinks": sinks, "first_layer": 0, "min_nonsink_ratio": 0.1, "min_visual": 0.0},
            "vhr": {"layers": (1, 3)},
            # More than half of the tokens stay distinct: of equal ones rounding would choose, which a batch changes.
            "dymu": {"thresholds": (0.95, 0.95, 0.95)},
        }

    return of


def chosen(name: str, settings: dict[str, dict[str, Any]]) -> dict[str, Any]:
    more = {"keep": 0.5} if "keep" in vtokens.describe(name).fields else {}
    return {"name": name, **more, **settings.get(name, {})}


def refused_together(target: Any, pair: list[dict[str, Any]]) -> str | None:
    """Why two strategies cannot be attached together; None if they can."""
    try:
        with vtokens.attach(target, pair):
            return None
    except ValueError as error:
        return str(error)


@cache
def prompted(family: str, texts: tuple[str, ...], rows: tuple[int, ...]) -> dict[str, Any]:
    """Inputs, made once: a call leaves them as they are."""
    return dict(inputs(family, [texts[row] for row in rows], [GROUPS[row] for row in rows]))


def generate(target: Any, family: str, *rows: int) -> Any:
    batch = prompted(family, PROMPTS, rows)
    handle = vtokens.attachment(target)
    assert handle is not None
    led = "lqcd" in handle.strategy
    with handle.negative_prompt(**prompted(family, LEADING, rows)) if led else nullcontext():
        return target.generate(
            **batch,
            do_sample=False,
            max_new_tokens=NEW,
            min_new_tokens=NEW,
            return_dict_in_generate=True,
            output_logits=True,
        )


@pytest.mark.fuzz
@pytest.mark.parametrize(("family", "first", "second"), CASES)
@torch.no_grad()
def test_pair(family: str, first: str, second: str, settings: Callable[[str], dict[str, dict[str, Any]]]) -> None:
    target = model(family, "pruned")
    pair = [chosen(first, settings(family)), chosen(second, settings(family))]
    if family == "llava" and {first, second} & {*TEMPORAL}:
        with pytest.raises(ValueError, match="drops tokens of videos alone, and a Llava"):
            vtokens.attach(target, pair)
        assert vtokens.attachment(target) is None
        return
    settings_of = ({field: value for field, value in one.items() if field != "name"} for one in pair)
    adapter = adapter_for(target)
    # What is refused by itself is refused beside others, unless it needs one before it.
    reasons = [*filter(None, (refusal(*one, adapter) for one in zip((first, second), settings_of, strict=True)))]
    why = refused_together(target, pair)
    if why is not None and any(reason in why for reason in reasons):
        assert vtokens.attachment(target) is None
        return
    once = needs_of(vtokens.strategies.parse(pair[:1])[0], adapter.facts).once
    if first == second and once:
        with pytest.raises(ValueError, match=f"names '{first}' twice"):
            vtokens.attach(target, pair)
        assert vtokens.attachment(target) is None
        return
    if all("encode" in vtokens.describe(name).stages for name in (first, second)):
        with pytest.raises(ValueError, match="would merge the tokens of one vision tower, or show it fewer, twice"):
            vtokens.attach(target, pair)
        return
    if first in HELD and second in HELD:
        with pytest.raises(ValueError, match="would contrast logits twice"):
            vtokens.attach(target, pair)
        return
    if why is not None:
        assert re.search(REFUSED, why), why
        assert vtokens.attachment(target) is None
        return
    # A contrast adds up the rounding of both branches, each times its weight.
    passes = 2 if second in CONTRASTS else 1
    with vtokens.attach(target, pair) as handle:
        together = generate(target, family, 0, 1, 2)
        told = handle.report().contributions
        assert [part.strategy.split("(")[0] for part in told] == [first, second]
        for row in range(3):
            alone = generate(target, family, row)
            for step in range(NEW):
                close_pass(together.logits[step][row], alone.logits[step][0], passes)
                if together.sequences[row, step - NEW] != alone.sequences[0, step - NEW]:
                    break  # a tie, from which on the two go different ways


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_the_order_of_a_contrast(family: str) -> None:
    """Where it is written makes no difference."""
    target = model(family, "pruned")
    with vtokens.attach(target, "vcd+cls(keep=0.5)"):
        before = generate(target, family, 0, 1, 2)
    with vtokens.attach(target, "cls(keep=0.5)+vcd"):
        after = generate(target, family, 0, 1, 2)
    assert all(torch.equal(a, b) for a, b in zip(before.logits, after.logits, strict=True))


@torch.no_grad()
@pytest.mark.parametrize("divergence", ["single_pass", "two_branch"])
def test_heads_of_a_negative_branch(divergence: str) -> None:
    """Heads are chosen in the branch as in a prompt that has its few tokens alone, which `cls` makes."""
    target, vhr = model("llava", "pruned"), f"vhr(layers=(0, 1, 2, 3), divergence='{divergence}')"
    batch = dict(inputs("llava", [*PROMPTS], GROUPS))
    found = []
    for spec in (vhr, f"cls(keep=3)+{vhr}", f"{vhr}+damro(k=3, alpha=1.0, beta=0)"):
        with vtokens.attach(target, spec):
            found.append(target(**batch).logits[:, -1])
    plain, few, contrasted = found
    close_pass(contrasted[:2], 2 * plain[:2] - few[:2], passes=2)
    assert (plain[:2] - few[:2]).abs().max() > 1e-2
