"""Compositions: a name that is read as the spec it stands for, and those of the package."""

import dataclasses
from collections.abc import Iterator
from typing import ClassVar

import pytest
import torch

import vtokens
from tests.strategies.helpers import kept, pair, registry_restored, report, three_rows
from vtokens.core.budget import budget
from vtokens.strategies import Composition, Facts, describe, format_spec, get, parse, register


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    with registry_restored():
        yield


@pytest.fixture
def both() -> type[Composition]:
    @register("both", aliases=("twofold",))
    @dataclasses.dataclass(frozen=True)
    class Both(Composition):
        """Composes a grid with FastV."""

        composes: ClassVar[str] = "uniform(keep={keep})+fastv(keep={late}, layer=1)"
        acts: ClassVar[tuple[str, ...]] = ("prompt", "layer")
        keep: float = 0.5
        late: float = 0.25

    return Both


def test_a_name_is_read_as_its_spec(both: type[Composition]) -> None:
    """In texts, as an object, as a dict, beside others, with a keep from outside; what comes out are its strategies."""
    expected = parse("uniform(keep=0.5)+fastv(keep=0.25, layer=1)")
    assert parse("both") == parse("twofold") == parse(both()) == parse({"name": "both"}) == expected
    assert parse("both(late=0.5)") == parse("uniform(keep=0.5)+fastv(keep=0.5, layer=1)")
    assert parse("both", keep=0.75)[0] == parse("uniform(keep=0.75)")[0]
    assert parse("cls(keep=0.5)+both+random") == (*parse("cls(keep=0.5)"), *expected, *parse("random"))
    assert parse(format_spec(parse("both"))) == expected
    with pytest.raises(ValueError, match="field of strategy 'both'"):
        parse("both(kept=0.5)")


def test_it_prunes_as_its_spec_does(both: type[Composition]) -> None:
    model, batch = pair("llava")[0], three_rows("llava")
    assert kept(model, batch, "both") == kept(model, batch, "uniform(keep=0.5)+fastv(keep=0.25, layer=1)")


def test_its_card_says_what_it_stands_for(both: type[Composition], capsys: pytest.CaptureFixture[str]) -> None:
    card = describe("both")
    assert card.stages == ("prompt", "layer")
    assert "stands for: uniform(keep={keep})+fastv(keep={late}, layer=1)" in str(card)
    for name in ("information_horizon",):
        assert describe(name).composes == get(name).composes  # type: ignore[attr-defined]
        assert {stage for one in parse(name) for stage in one.stages()} <= {*describe(name).stages}
    assert describe("fastv").composes == ""
    from vtokens.cli import main

    main(["strategies", "*horizon*"])
    assert "stands for: {ranked}(keep={keep})+late_random" in capsys.readouterr().out
    main(["strategies", "*o*"])
    assert "information_horizon  composition" in capsys.readouterr().out.replace("\n", "  ")


def test_information_horizon_is_what_its_release_runs() -> None:
    """DART leaves 252 of 576 tokens at layer 2, and chance 38 of them at layer 20: 192 a layer."""
    dart, late = parse("information_horizon")
    facts = Facts("llava", depth=32, tower_depth=4, has_cls=True)
    assert (dart.name, dart.layer, 576 * dart.keep) == ("dart", 2, 252)  # type: ignore[attr-defined]
    assert (late.prepare(facts), late._left(252, 0)) == ((20,), 38)  # type: ignore[attr-defined]
    assert (2 * 576 + 18 * 252 + 12 * 38) / 32 == 192
    assert parse("information_horizon(ranked=fastv)")[0].name == "fastv"


def test_late_tokens_are_drawn_alike_for_equal_pictures() -> None:
    """By seed and number of tokens, whatever else is in the batch; other seeds give other ones."""
    model, batch = pair("llava")[0], three_rows("llava")
    first, *others = kept(model, batch, "late_random(keep=5, layers=(2,))")
    assert all(ranks == first for ranks in others)
    assert kept(model, batch, "late_random(keep=5, layers=(2,))", layer=1)[0] == list(range(16))
    assert first == torch.rand(16, generator=torch.Generator().manual_seed(0)).topk(5).indices.sort().values.tolist()
    assert kept(model, batch, "late_random(keep=5, layers=(2,), seed=1)")[0] != first
    assert report(model, batch, "late_random(keep=4, layers=(1, 3), before=(0.5,))").samples[0].visual_tokens == (
        16, 8, 8, 4,
    )  # fmt: skip
    with pytest.raises(ValueError, match="seed=-1 is out of range"):
        parse("late_random(seed=-1)")
    assert vtokens.strategies("late*") == ["late_random"]


def test_duet_is_the_schedule_of_its_release() -> None:
    """300 + 7 of 576 tokens, half of them from layer 16 of 32 on, none from 24 on: 192 a layer."""
    zipped, half, gone = parse("duet")
    facts = Facts("llava", depth=32, tower_depth=24, has_cls=True)
    count = budget(576, zipped.keep)  # type: ignore[attr-defined]
    assert (count, round(count * zipped.contextual)) == (307, 7)  # type: ignore[attr-defined]
    assert (half.prepare(facts), half._left(307, 0)) == ((16,), 154)  # type: ignore[attr-defined]
    assert gone.needs(facts).layer == (24,)
    assert round((16 * 307 + 8 * 154) / 32) == 192
    model, batch = pair("llava")[0], three_rows("llava")
    assert report(model, batch, "duet").samples[0].visual_tokens == (9, 9, 5, 0)
