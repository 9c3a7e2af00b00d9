"""`pyramiddrop`, and with it what all staged pruners share: layers, shares and counts."""

import pytest

import vtokens
from tests.strategies.helpers import kept, pair
from tests.strategies.staging import FAMILIES, best, run
from vtokens.strategies import Facts, get, parse
from vtokens.strategies.staged import layers_at

PDROP = get("pyramiddrop")


def facts(depth: int, linear: tuple[int, ...] = ()) -> Facts:
    return Facts("llava", depth=depth, tower_depth=4, has_cls=True, linear=linear)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_each_stage_keeps_what_the_last_word_attends_to(family: str, side: str) -> None:
    """Of those that the layer before saw, by that layer's eager attention from the last position."""
    found = run(family, "pyramiddrop(keep=0.2)", side)
    for seen in found.pictures:
        counts = [max(1, int(len(seen.places) * 0.2 ** (stage / 3) + 0.5)) for stage in (1, 2, 3)]
        assert seen.left[0] == seen.places
        for layer, count in zip((1, 2, 3), counts, strict=True):
            before = seen.left[layer - 1]
            scores = found.attentions[layer - 1][seen.row, :, found.last[seen.row]].mean(0)[before]
            assert seen.left[layer] == best(scores, before, count)


def test_the_schedule_of_the_paper() -> None:
    """Half, a quarter and an eighth at layers 8, 16 and 24 of 32, 270 tokens a layer; other depths in proportion."""
    strategy = PDROP()
    assert strategy.prepare(facts(32)) == (8, 16, 24)
    assert [strategy._left(576, stage) for stage in range(3)] == [288, 144, 72]
    assert sum(8 * count for count in (576, 288, 144, 72)) / 32 == 270
    assert strategy.shares(0.125) == pytest.approx((0.5, 0.25))
    assert strategy.shares(0.001) == pytest.approx((0.1, 0.01))
    assert strategy.prepare(facts(28)) == (7, 14, 21)
    assert strategy.prepare(facts(40)) == (10, 20, 30)
    assert strategy.prepare(facts(4)) == (1, 2, 3)


def test_layers_without_attention_are_stepped_over() -> None:
    """The nearest layer behind one with attention stands in for a share of the depth, a later one for each stage."""
    every_fourth = tuple(layer for layer in range(32) if layer % 4 != 3)
    assert PDROP().prepare(facts(32, every_fourth)) == (8, 16, 24)
    assert PDROP(layers=(0.2, 0.21, 0.22)).prepare(facts(32, every_fourth)) == (8, 12, 16)
    with pytest.raises(ValueError, match="needs 3 layers behind layer 0, and of the 4 of this decoder 2 are possible"):
        PDROP().prepare(facts(4, (0,)))


@pytest.mark.parametrize(
    ("layers", "depth", "expected"),
    [((0.5,), 4, (2,)), ((0.01, 0.02), 32, (1, 2)), ((0.98, 0.99), 32, (30, 31)), ((3, 0.5), 32, (3, 16))],
)
def test_shares_of_the_depth_have_room_for_each_other(
    layers: tuple[float, ...], depth: int, expected: tuple[int, ...]
) -> None:
    assert layers_at("layers", layers, facts(depth), range(1, depth)) == expected


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("layers=(2, 1, 3)", "not ascending"),
        ("layers=()", "one layer or more"),
        ("layers=(0.5, 1.5, 2.5)", r"a share of the depth in \(0, 1\)"),
        ("layers=(1, 2)", r"2 stages, and 'pyramiddrop' is published with 3: .* before=\(0\.5,\)"),
        ("before=(0.5,)", "the 3 stages .* need 2"),
        ("before=(0.25, 0.5)", "shares in"),
        ("keep=0.5, before=(0.5, 0.25)", r"then keep=0\.5"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse(f"pyramiddrop({settings})")


def test_what_a_model_has_no_room_for_is_refused_when_attached() -> None:
    model = pair("llava")[0]
    with pytest.raises(ValueError, match="layers=8 is out of range for a model with 4 layers"):
        vtokens.attach(model, "pyramiddrop(layers=(8, 16, 24))")
    with pytest.raises(ValueError, match=r"needs 1 layers behind layer 3, and of the 4"):
        vtokens.attach(model, "pyramiddrop(layers=(3, 0.5), before=(0.5,))")


def test_shares_are_those_of_what_the_first_stage_finds_or_of_the_original() -> None:
    """Of 16 tokens 8 are left by another strategy; half of either stays."""
    from tests.strategies.helpers import three_rows

    model, batch = pair("llava")[0], three_rows("llava")
    for of, expected in (("left", 4), ("original", 8)):
        spec = f"uniform(keep=0.5)+pyramiddrop(keep=0.25, layers=(1, 2), before=(0.5,), of={of})"
        assert {len(ranks) for ranks in kept(model, batch, spec, layer=1)} == {expected}
    counts = [{len(ranks) for ranks in kept(model, batch, "pdrop(keep=2)", layer)} for layer in range(4)]
    assert counts == [{16}, {8}, {4}, {2}]
