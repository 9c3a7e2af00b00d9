"""Strategies that act on logits and elsewhere: answers are judged with the latter, or the report says so."""

from __future__ import annotations

import pytest

import vtokens
from tests.families import build
from tests.filter.traced import EVERYTHING, ask, distances, fixed
from vtokens import scenes
from vtokens.filter import HallucinationFilter
from vtokens.filter.trace import passes
from vtokens.filter.trace.passes import generate, score
from vtokens.strategies import parse
from vtokens.strategies.base import Strategy

pytestmark = pytest.mark.usefixtures("no_grad")
SAME = {
    "pai(alpha=0.4)": "pai(alpha=0.4, gamma=1, beta=0)",  # a contrast with gamma 1 and nothing ruled out is none
    "cls(keep=0.3)+pai(alpha=0.4, first_layer=1)": "cls(keep=0.3)+pai(alpha=0.4, first_layer=1, gamma=1, beta=0)",
}


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
@pytest.mark.parametrize("spec", SAME)
def test_pai_is_judged_with_its_attention_half(family: str, spec: str) -> None:
    """What a contrast wrote is judged as by a model whose attention is amplified, and whose logits are its own."""
    model, processor = build(family)
    asked = ask(processor)
    with vtokens.attach(model, spec):
        traces = generate(model, processor, *asked, EVERYTHING, **fixed(processor))
    ids = [trace.ids.tolist() for trace in traces]
    with vtokens.attach(model, SAME[spec]):
        expected = score(model, processor, *asked, ids, EVERYTHING)
    with vtokens.attach(model, spec.replace("0.4", "0.0")):
        plain = score(model, processor, *asked, ids, EVERYTHING)
    for one, other, without in zip(traces, expected, plain, strict=True):
        assert max(distances(one, other).values()) < 2e-4
        assert distances(one, without)["logprob"] > 1e-3


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
@pytest.mark.parametrize("spec", ["vista", "dola", "adavboost(visual=3)", "cls(keep=0.3)+m3id", "avisc"])
def test_writing_is_recorded(family: str, spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits are noted before strategies change them, and reading what was written finds the same where it can."""
    model, processor = build(family)
    asked, options = ask(processor), fixed(processor)
    with vtokens.attach(model, spec):
        with monkeypatch.context() as patch:
            patch.delattr(passes, "_read")  # nothing is read again
            traces = generate(model, processor, *asked, EVERYTHING, **options)
        ids = [trace.ids.tolist() for trace in traces]
        read = score(model, processor, *asked, ids, EVERYTHING)
    assert all(trace.left_out == () for trace in traces)
    if spec.startswith("adavboost"):  # each token is boosted by the risk of the one before
        assert {trace.left_out for trace in read} == {("adavboost",)}
        assert any((one.logprob - other.logprob).abs().max() > 1e-3 for one, other in zip(traces, read, strict=True))
        return
    for one, other in zip(traces, read, strict=True):
        assert other.left_out == ()
        assert max(distances(one, other).values()) < 2e-4


def test_what_is_left_of_a_strategy() -> None:
    for spec in ("cls", "vcd", "pai", "adavboost", "vista"):
        [whole] = parse(spec)
        half = whole.silent()
        assert (half is whole) == (spec == "cls")
        assert (half is None) == (spec in ("vcd", "adavboost"))
        if half is not None and half is not whole:
            assert half.stages() == tuple(stage for stage in whole.stages() if stage != "logits")
            assert isinstance(half, type(whole))
            assert vars(half) == vars(whole)
            assert half == whole.silent() != whole
            assert Strategy.silent(half) is half


def test_the_report_says_what_did_not_act(embedded) -> None:
    """AdaVBoost goes by logits of the step before: an answer that is there already is read without it."""
    model, processor = embedded
    [example] = scenes.examples("test", n=1, seed=41, kinds=["caption"])
    with vtokens.attach(model, "adavboost"):
        hf = HallucinationFilter(model, processor, extractor="scenes")
        said = hf.check(example.image, example.question, example.answer)
        wrote = hf.generate(example.image, example.question, max_new_tokens=8).report
    [note] = said.notes
    assert "'adavboost' can act only while an answer is written" in note
    assert wrote.notes == ()
    assert str(said).count(note) == 1
