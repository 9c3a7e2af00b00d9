"""The small bases: what a stranger writes in ten lines does what it says, and what cannot work is refused."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import vtokens
from tests.families import FAMILIES, build
from tests.limits import close_pass
from tests.strategies.helpers import kept, pair, report, three_rows
from vtokens.core.budget import Keep
from vtokens.core.layout import Layout
from vtokens.core.picture import Picture
from vtokens.strategies import (
    Attention,
    Contraster,
    Facts,
    Merger,
    Needs,
    Saliency,
    ScorePruner,
    Selection,
    Strategy,
    Visuals,
    parse,
)
from vtokens.strategies.base import needs_of
from vtokens.strategies.contrast.vcd import Vcd
from vtokens.strategies.prune.fastv import FastV
from vtokens.strategies.views.logits import Logits, NoPicture

FACTS = Facts("llava", depth=4, tower_depth=4, has_cls=True)


@dataclass(frozen=True)
class Given(ScorePruner):
    """Keeps by scores that depend on a token's place in its picture alone."""

    name: ClassVar[str] = "given"
    sign: float = 1.0

    def score(self, visuals: Visuals) -> Tensor:
        return self.sign * ((visuals.cells.float() * 7) % 16)


@dataclass(frozen=True)
class Late(Given):
    """The same before a decoder layer."""

    stage = "layer"
    layer: int = 2


@pytest.mark.parametrize("family", ["llava", "llava_next", "qwen2_5_vl"])
def test_score_pruner_keeps_the_highest_scores_of_each_picture(family: str) -> None:
    """From layer 0 on, or from the layer that its field names, in every picture of a ragged batch."""
    model, batch = pair(family)[0], three_rows(family)
    pictures = [part for sample in report(model, batch, Given(keep=1)).samples for part in sample.pictures]
    expected = []
    for part in pictures:
        cells = [cell for cell, view in enumerate(part.picture.view) if view >= 0]
        best = sorted(range(len(cells)), key=lambda slot: (-(cells[slot] * 7 % 16), slot))
        expected.append(sorted(best[:3]))
    everything = [list(range(int((part.picture.view >= 0).sum()))) for part in pictures]
    assert [kept(model, batch, Given(keep=3), layer) for layer in (0, 3)] == [expected] * 2
    assert [kept(model, batch, Late(keep=3), layer) for layer in (1, 2, 3)] == [everything, expected, expected]


def test_score_pruner_says_where_it_acts() -> None:
    """The class decides, whatever the author's `needs` add; what would act twice or nowhere is refused."""
    assert (Given.stages(), Late.stages(), FastV.stages()) == (("prompt",), ("layer",), ("layer",))
    assert needs_of(Late(layer=3), FACTS) == Needs(layer=(3,))
    assert needs_of(FastV(), FACTS) == Needs(signals=(Attention(1, "last"),), layer=(2,))
    for layer, error in ((0, "the nearest is 1"), (4, "the nearest is 3")):
        with pytest.raises(ValueError, match=error), vtokens.attach(pair("llava")[0], Late(layer=layer)):
            pass

    @dataclass(frozen=True)
    class Twice(Given):
        def needs(self, facts: Facts) -> Needs:
            return Needs(layer=(3,))

    with pytest.raises(ValueError, match=r"needs layer=\(3,\), but a ScorePruner acts once, here before the decoder"):
        needs_of(Twice(), FACTS)

    @dataclass(frozen=True)
    class Nowhere(Given):
        stage = "layer"

    with pytest.raises(TypeError, match="layer=None is not a layer number"):
        needs_of(Nowhere(), FACTS)
    with pytest.raises(ValueError, match=r"unknown stage 'layers'.*layer"):
        needs_of(type("Misspelt", (Given,), {"stage": "layers"})(), FACTS)


@pytest.mark.parametrize(
    ("base", "written", "missing"),
    [
        (ScorePruner, {}, r"ScorePruner without score\(\)"),
        (Merger, {}, r"Merger without members\(\) or at_encode\(\)"),
        (Contraster, {"contrast": None}, r"Contraster without negative\(\)"),
        (Contraster, {"negative": None}, r"Contraster without contrast\(\)"),
    ],
)
def test_what_a_base_leaves_to_its_author_has_to_be_there(base: type, written: dict[str, Any], missing: str) -> None:
    """When it is attached, and not in the first pass, or never."""
    mute = dataclass(frozen=True)(type("Mute", (base,), written))
    with pytest.raises(TypeError, match=f"Mute is a {missing}.*: it has to be written"):
        vtokens.attach(pair("llava")[0], mute())


def visuals(*sizes: int) -> Visuals:
    """One sample a size, each of one picture of so many tokens in a row; nothing was observed."""
    pictures = [Picture.of([(1, 1, size)], [False]) for size in sizes]
    width = max(sizes)
    mask = torch.zeros(len(sizes), width, dtype=torch.bool)
    for row, size in enumerate(sizes):
        mask[row, :size] = True
    layout = Layout.build({"image": mask}, {"image": pictures}, mask)
    return Visuals(torch.zeros(len(sizes), width, 2), layout, "image", cast(Any, None))


SCORES = st.one_of(st.floats(width=32, allow_nan=True, allow_infinity=True), st.sampled_from([0.0, math.nan, math.inf]))


@given(st.lists(st.lists(SCORES, min_size=1, max_size=9), min_size=1, max_size=3), st.data())
def test_scores_rank_as_sorting_says(rows: list[list[float]], data: st.DataObject) -> None:
    """inf first, -inf and nan last, ties to the earlier token; a padded slot never stays, however it is scored."""
    keep = data.draw(st.integers(1, min(map(len, rows))))
    view = visuals(*map(len, rows))
    scores = torch.full(view.valid.shape, math.inf)
    for row, values in enumerate(rows):
        scores[row, : len(values)] = torch.tensor(values)
    got = view.top(scores, keep)
    for row, values in enumerate(rows):
        worth = [-math.inf if math.isnan(value) else float(torch.tensor(value)) for value in values]
        best = sorted(range(len(values)), key=lambda slot: (-worth[slot], slot))[:keep]
        assert got.keep[row].nonzero().flatten().tolist() == sorted(best)
    assert got.counts == (keep,) * len(rows)


def test_scores_of_another_shape_or_kind_are_refused() -> None:
    view = visuals(4, 2)
    with pytest.raises(ValueError, match=r"scores have the shape \(4,\): one for each token is needed, \(2, 4\)"):
        view.top(torch.zeros(4), 1)
    with pytest.raises(TypeError, match=r"scores are torch.int64: floating ones are allowed, as scores.float\(\)"):
        view.top(torch.zeros(2, 4, dtype=torch.long), 1)


@dataclass(frozen=True)
class Unsaid(ScorePruner):
    """Reads a signal without having asked for it."""

    tower: bool = True

    def score(self, visuals: Visuals) -> Tensor:
        return visuals.saliency() if self.tower else visuals.attention(2, "text")


def test_a_signal_not_asked_for_is_named() -> None:
    """With what has to be written, in place of a KeyError."""
    model, batch = build("llava")[0], three_rows("llava")
    with pytest.raises(ValueError, match="computed under another strategy") as refused:
        report(model, batch, Unsaid())
    assert "Needs(signals=(Saliency(blocks=None, rows='cls', heads='mean'),))" in "".join(refused.value.__notes__)
    with pytest.raises(ValueError, match=r"Needs\(signals=\(Attention\(layer=2, rows='text', rotary=True, "):
        report(model, batch, Unsaid(tower=False))


@dataclass(frozen=True)
class Pairs(Merger):
    """Every token goes into the first of its pair."""

    name: ClassVar[str] = "pairs"
    attended: bool = True

    @property
    def unmerged(self) -> bool:
        return self.attended

    def members(self, visuals: Visuals) -> Tensor:
        slots = torch.arange(visuals.valid.shape[1], device=visuals.hidden.device)
        return (slots - slots % 2).expand(visuals.valid.shape)


@dataclass(frozen=True)
class Odd(ScorePruner):
    """Drops the second of every pair."""

    keep: Keep = 0.5

    def score(self, visuals: Visuals) -> Tensor:
        slots = torch.arange(visuals.valid.shape[1], device=visuals.hidden.device)
        return -(slots % 2).float().expand(visuals.valid.shape)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_merger_keeps_what_is_named(family: str) -> None:
    """Of an even number of tokens, half; not unmerged, that is what a pruner of the others answers, bit by bit."""
    model, batch = pair(family)[0], three_rows(family)
    sizes = [part.picture.tokens for sample in report(model, batch, Pairs()).samples for part in sample.pictures]
    assert kept(model, batch, Pairs()) == [list(range(0, size, 2)) for size in sizes]
    if any(size % 2 for size in sizes):
        return
    answers = []
    for strategy in (Pairs(attended=False), Odd()):
        with vtokens.attach(model, strategy):
            answers.append(model(**batch).logits)
    assert torch.equal(*answers)
    with vtokens.attach(model, Pairs()):
        assert not torch.equal(model(**batch).logits, answers[0])


@torch.no_grad()
def test_merger_of_equal_tokens_is_the_model_that_has_them_all() -> None:
    """Features that come in equal pairs, merged and unmerged: what the plain model answers to all of them.

    In a model of one layer, since its output would differ from position to position.
    """
    model, batch = build("llava", text_config={"num_hidden_layers": 1})[0], three_rows("llava")

    def doubled(module: Any, args: Any, output: Any) -> Any:
        return output[:, torch.arange(output.shape[1]) // 2 * 2]

    hook = model.model.multi_modal_projector.register_forward_hook(doubled)
    try:
        plain = model(**batch).logits[:, -1]
        with vtokens.attach(model, Pairs()):
            close_pass(model(**batch).logits[:, -1], plain)
        with vtokens.attach(model, Pairs(attended=False)):
            assert not torch.allclose(model(**batch).logits[:, -1], plain, atol=1e-3)
    finally:
        hook.remove()


@dataclass(frozen=True)
class Named(Merger):
    """Members as they are given."""

    table: Any = None

    def members(self, visuals: Visuals) -> Tensor:
        return self.table


def test_members_of_another_shape_or_kind_are_refused() -> None:
    view = visuals(4, 2)
    with pytest.raises(ValueError, match=r"members have the shape \(4,\): one for each token is needed, \(2, 4\)"):
        Named(table=torch.zeros(4, dtype=torch.long)).at_prompt(view)
    with pytest.raises(TypeError, match=r"members are torch.float32: places in the group are allowed"):
        Named(table=torch.zeros(2, 4)).at_prompt(view)


def test_two_strategies_cannot_unmerge() -> None:
    """The second would take what the first merged for gone; where one of them drops it, that is what is meant."""
    model = pair("llava")[0]
    dymu = parse("dymu(thresholds=(0.5, 0.5))")
    for spec in ((*dymu, Pairs()), (Pairs(), *dymu)):
        with pytest.raises(ValueError, match="would show attention what is merged twice"):
            vtokens.attach(model, spec)
    with vtokens.attach(model, (*dymu, Pairs(attended=False))) as handle:
        model(**three_rows("llava"))
        assert all(sample.visual_tokens[0] <= 16 for sample in handle.report().samples)


@given(st.data())
def test_merger_defines_every_assignment(data: st.DataObject) -> None:
    """Chains, circles and tokens that name padding: who is named stays for itself, the others go where they say."""
    sizes = data.draw(st.lists(st.integers(1, 7), min_size=1, max_size=3))
    view = visuals(*sizes)
    width = max(sizes)
    table = torch.tensor(
        [data.draw(st.lists(st.integers(0, width - 1), min_size=width, max_size=width)) for _ in sizes]
    )
    got = Named(table=table).at_prompt(view)
    assert isinstance(got, Selection)
    assert got.member is not None
    for row, size in enumerate(sizes):
        said = table[row, :size].tolist()
        for slot in range(size):
            stays = slot in said or said[slot] >= size
            assert bool(got.keep[row, slot]) is stays
            assert int(got.member[row, slot]) == (slot if stays else said[slot])
        assert not got.keep[row, size:].any()


@dataclass(frozen=True)
class Guided(Contraster):
    """Classifier-free guidance away from the text alone."""

    name: ClassVar[str] = "guided"
    weight: float = 0.5

    def negative(self, facts: Facts) -> NoPicture:
        return NoPicture()

    def contrast(self, logits: Logits) -> Tensor:
        return logits.positive + self.weight * (logits.positive - logits.negative)


@torch.no_grad()
def test_contraster_contrasts() -> None:
    """As `pai` does with the same weight, whose test works it out by hand; named twice it is refused."""
    model, batch = pair("llava")[0], three_rows("llava")
    plain = model(**batch).logits[:, -1]
    with vtokens.attach(model, Guided()):
        got = model(**batch).logits[:, -1]
    with vtokens.attach(model, "pai(gamma=1.5, beta=0.0)"):
        pai = model(**batch).logits[:, -1]
    # Both move by half of l - l', logits and log-probabilities alike; a row without a picture is left alone.
    close_pass(got.log_softmax(-1)[:2], pai.log_softmax(-1)[:2], passes=2)
    assert torch.equal(got[2], plain[2])
    assert not torch.allclose(got[:2], plain[:2], atol=1e-3)
    with pytest.raises(ValueError, match="twice: once is allowed"):
        vtokens.attach(model, [Guided(), Guided(weight=1.0)])
    assert needs_of(Guided(), FACTS) == needs_of(Vcd(), FACTS) == Needs(once=True)


def test_needs_are_sequences() -> None:
    """One value alone, or another kind of it, is refused with the way to write it."""
    assert Needs(signals=[Saliency()], attend=range(2)) == Needs(signals=(Saliency(),), attend=(0, 1))
    for given_, says in (
        ({"layer": 2}, r"Needs\(layer=2\) is not allowed: a sequence such as \(2,\) is"),
        ({"signals": Saliency()}, r"a sequence such as \(Saliency\(\),\) is"),
        ({"signals": ("saliency",)}, r"a sequence such as \(Saliency\(\),\) is"),
        ({"attend": "12"}, r"a sequence such as \(2,\) is"),
    ):
        with pytest.raises(TypeError, match=says):
            Needs(**given_)


def test_bases_are_exported() -> None:
    for name in ("ScorePruner", "Merger", "Steerer", "Evictor", "Contraster"):
        assert getattr(vtokens, name) is getattr(vtokens.strategies, name)
        assert issubclass(getattr(vtokens, name), Strategy)
    assert isinstance(parse("cls")[0], ScorePruner)
