"""Steering: a model under a `Steerer` answers as one whose layers and MLPs have hooks that add the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

import vtokens
from tests.engine.cases import MODES, cases, share
from tests.engine.cases import model as tiny
from tests.engine.compare import GREEDY, check_programs, one, ragged
from tests.engine.masked import decoder_layers
from tests.engine.state import snapshot
from tests.families import EVERY, build
from tests.limits import close_pass
from vtokens.core.compat import as_cache, returned_cache
from vtokens.strategies import Facts, Needs, States, Steerer, Strategy, parse

DETAILS: dict[str, Any] = {**GREEDY, "output_logits": True, "return_dict_in_generate": True}


def bent(hidden: Tensor, weight: float) -> Tensor:
    """What is added, row by row."""
    return weight * hidden.roll(1, -1).tanh()


@dataclass(frozen=True)
class Bend(Steerer):
    """Adds to what leaves layers."""

    name: ClassVar[str] = "bend"
    weight: float = 0.5
    layers: tuple[int, ...] | None = None

    def steer(self, states: States) -> Tensor:
        return bent(states.hidden, self.weight)


@dataclass(frozen=True)
class BendMlp(Bend):
    """Adds to what leaves MLPs."""

    name: ClassVar[str] = "bend_mlp"
    place = "mlp"


@contextmanager
def hooked(model: Any, place: str, weight: float, layers: tuple[int, ...]) -> Iterator[None]:
    """Let hooks of torch's add what the steerers above add."""

    def add(module: Any, args: Any, output: Any) -> Any:
        return output + bent(output, weight)

    modules = [decoder_layers(model)[index] for index in layers]
    handles = [(m if place == "layer" else m.mlp).register_forward_hook(add) for m in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def steerer(place: str, weight: float, layers: tuple[int, ...]) -> Strategy:
    return (Bend if place == "layer" else BendMlp)(weight=weight, layers=layers)


SPECS = (
    "none", "cls(keep=0.5)", "fastv(keep=0.5, layer=2)", "vcd", "m3id", "cls(keep=0.25)+m3id", "vhr",
    "dymu(thresholds=(0.2, 0.2, 0.2))",
)  # fmt: skip


@pytest.mark.fuzz
@settings(max_examples=share(2))
@given(st.data())
@torch.no_grad()
def test_steered_is_hooked(data: Any) -> None:
    """Prefill and steps, alone and batched, beams, pruners and both lanes of a contrast, in any family."""
    family, spec = data.draw(st.sampled_from(EVERY)), data.draw(st.sampled_from(SPECS))
    place, weight = data.draw(st.sampled_from(["layer", "mlp"])), data.draw(st.sampled_from([0.5, -0.3]))
    model = tiny(family, "pruned")
    depth = len(decoder_layers(model))
    layers = data.draw(st.lists(st.integers(0, depth - 1), min_size=1, unique=True).map(tuple))
    case = data.draw(cases())
    batch = case.batch(family)
    options = {**DETAILS, **MODES[case.mode]}
    if "m3id" not in spec and case.mode != "beam":  # which counts the steps of a cache
        options["use_cache"] = data.draw(st.booleans())
    own = parse(spec)
    try:
        with hooked(model, place, weight, layers), vtokens.attach(model, own):
            torch.manual_seed(0)
            expected = model.generate(**batch, **options)
    except ValueError as error:  # an answer that holds a placeholder is no prompt, which it is without a cache
        assume("tokens do not match" not in str(error))
        raise
    with vtokens.attach(model, (*own, steerer(place, weight, layers))):
        torch.manual_seed(0)
        got = model.generate(**batch, **options)
    assert torch.equal(got.sequences, expected.sequences)
    close_pass(torch.stack(got.logits), torch.stack(expected.logits), passes=2)


@pytest.mark.parametrize("place", ["layer", "mlp"])
@torch.no_grad()
def test_recorded_states_and_second_turns_are_steered(place: str) -> None:
    model, _ = build("llava")
    first, more = one("llava"), torch.full((1, 3), 9)

    def turns() -> tuple[Tensor, ...]:
        begun = model(**first, use_cache=True, output_hidden_states=True)
        states = begun.hidden_states
        return (*states, model(input_ids=more, **as_cache(model, returned_cache(begun))).logits)

    with hooked(model, place, 0.5, (0, 2, 3)):
        expected = turns()
    with vtokens.attach(model, steerer(place, 0.5, (0, 2, -1))):
        got = turns()
    for mine, theirs in zip(got, expected, strict=True):
        close_pass(mine, theirs)


@dataclass(frozen=True)
class Twice(Bend):
    """Names a layer twice in what it needs."""

    name: ClassVar[str] = "twice"

    def needs(self, facts: Facts) -> Needs:
        return Needs(states=(1, 1))


@pytest.mark.parametrize(
    "steered", [Bend(layers=(1, -3)), BendMlp(layers=(1, -3)), Twice()], ids=["layer", "mlp", "needs"]
)
@torch.no_grad()
def test_a_layer_that_is_named_twice_is_steered_once(steered: Bend) -> None:
    model, _ = build("llava")
    assert len(decoder_layers(model)) == 4
    with vtokens.attach(model, steerer(steered.place, steered.weight, (1,))):
        expected = model(**one("llava")).logits
    with vtokens.attach(model, steered):
        got = model(**one("llava")).logits
    assert torch.equal(got, expected)


@torch.no_grad()
def test_rows_are_steered_by_their_own_programs() -> None:
    model, _ = build("qwen2_5_vl")
    batch = ragged("qwen2_5_vl")
    programs: list[Any] = [Bend(), "cls(keep=0.5)", BendMlp(weight=-0.2)]
    check_programs(model, batch, programs, **GREEDY)


@dataclass(frozen=True)
class Towards(Steerer):
    """Adds what the picture changed at the end of the prompt, decided where the picture comes in."""

    name: ClassVar[str] = "towards"
    place = "mlp"

    def needs(self, facts: Facts) -> Needs:
        return Needs(text_lane=True)

    def steer(self, states: States) -> Tensor | None:
        if states.is_image_prefill:
            assert states.text_lane is not None
            states.remember("way", states.at_last() - states.text_lane)
            return None
        way = states.recall("way")
        return None if way is None else way[:, None]


@pytest.mark.parametrize("family", ["llava", "qwen2_vl"])
@torch.no_grad()
def test_what_is_noted_of_samples_is_found_in_later_passes(family: str) -> None:
    """The direction is the difference of the MLPs' outputs with and without the picture; steps add it."""
    model, _ = build(family)
    batch = one(family)
    ids = batch["input_ids"]
    text = {"input_ids": ids[ids != model.config.image_token_id][None]}
    layers, seen = decoder_layers(model), dict[int, list[Tensor]]()

    def note(index: int) -> Callable[..., None]:
        return lambda module, args, output: seen.setdefault(index, []).append(output[:, -1])

    handles = [layer.mlp.register_forward_hook(note(index)) for index, layer in enumerate(layers)]
    model(**batch)
    model(**text)
    for handle in handles:
        handle.remove()
    ways = [with_picture - without for with_picture, without in (seen[index] for index in range(len(layers)))]
    begun = model(**batch, use_cache=True)
    token = begun.logits[:, -1:].argmax(-1)
    handles = [
        layer.mlp.register_forward_hook(lambda module, args, output, way=way: output + way)
        for layer, way in zip(layers, ways, strict=True)
    ]
    expected = model(input_ids=token, **as_cache(model, returned_cache(begun))).logits
    for handle in handles:
        handle.remove()
    with vtokens.attach(model, Towards()):
        begun = model(**batch, use_cache=True)
        close_pass(model(input_ids=token, **as_cache(model, returned_cache(begun))).logits, expected, passes=2)


@dataclass(frozen=True)
class Counting(Steerer):
    """Counts the passes of each sample, those without pictures too, in the cache."""

    name: ClassVar[str] = "counting"
    layers: tuple[int, ...] = (1,)

    def steer(self, states: States) -> Tensor:
        before = states.recall("passes")
        now = torch.ones(len(states.hidden)) if before is None else before + 1
        states.remember("passes", now)
        return now[:, None, None] * 0.1

    def check(self, facts: Facts) -> None:
        assert facts.depth > 1


@torch.no_grad()
def test_notes_of_every_pass_follow_the_sequence() -> None:
    """Of a text prompt as of one with a picture: the third pass adds three times as much as the first."""
    model, _ = build("llava")
    for batch in (one("llava"), {"input_ids": torch.full((2, 5), 7)}):
        tokens = [torch.full((len(batch["input_ids"]), 1), token) for token in (8, 9)]
        with vtokens.attach(model, Counting()):
            output = model(**batch, use_cache=True)
            got = [output.logits]
            for token in tokens:
                output = model(input_ids=token, **as_cache(model, returned_cache(output)))
                got.append(output.logits)
        layer, cache, expected = decoder_layers(model)[1], None, []
        for number, given_ in enumerate((batch, *({"input_ids": token} for token in tokens)), 1):
            handle = layer.register_forward_hook(lambda m, a, out, number=number: out + number * 0.1)
            output = model(**given_, use_cache=True, **as_cache(model, cache))
            handle.remove()
            cache = returned_cache(output)
            expected.append(output.logits)
        for mine, theirs in zip(got, expected, strict=True):
            close_pass(mine, theirs)


@dataclass(frozen=True)
class Wrong(Steerer):
    """Adds something of another shape."""

    name: ClassVar[str] = "wrong"

    def steer(self, states: States) -> Tensor:
        return torch.ones(3)


@torch.no_grad()
def test_what_cannot_be_added_is_refused_and_nothing_is_left() -> None:
    model, _ = build("llava")
    model(**one("llava"), output_hidden_states=True)  # transformers leaves hooks of its own from then on
    clean = snapshot(model)
    with vtokens.attach(model, Wrong()), pytest.raises(ValueError, match=r"'wrong' adds \(3,\) to states of \(1, "):
        model(**one("llava"))
    for layers, says in (((0, 99), "the nearest is"), ((-9,), "the nearest is")):
        with pytest.raises(ValueError, match=says):
            vtokens.attach(model, Bend(layers=layers))
    with pytest.raises(TypeError, match="Steerer without steer"):
        vtokens.attach(model, Steerer())
    assert snapshot(model) == clean
