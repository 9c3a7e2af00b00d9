"""The gate: which answers are let through unchecked, what that misses, and that nothing else changes."""

import math

import pytest

from vtokens import scenes
from vtokens.filter import Gate, HallucinationFilter
from vtokens.filter.calibrators.records import LabelledResponse
from vtokens.filter.gate import KINDS, kind_of
from vtokens.filter.mentions import Mention


@pytest.mark.parametrize(
    ("prompt", "kind"),
    [
        ("Is there a red circle in the image?", "yes or no"),
        ("Does the image show a dog?", "yes or no"),
        ("Where is the red circle?", "question"),
        ("How many dogs are there?", "question"),
        ("Describe the image.", "description"),
        ("USER: <image> Is there a dog? ASSISTANT: no USER: Where is it? ASSISTANT:", "question"),
        ("What is this? Now describe all of it.", "description"),
    ],
)
def test_kinds_of_prompts(prompt, kind):
    assert kind_of(prompt) == kind


def record(number, prompt, entropy, wrong):
    mention = Mention(0, 1, "x", "object", "x")
    return LabelledResponse(number, prompt, "x", [mention], {"s": [0.0]}, [wrong], {"entropy": entropy})


def test_a_gate_is_as_wide_as_its_misses_allow():
    """By hand: ten wrong answers at 1, 2, ... 10 nats, and right ones half a nat below each."""
    asked = "Is there a dog?"
    rows = [record(i, asked, float(i), True) for i in range(1, 11)]
    rows += [record(100 + i, asked, i - 0.5, False) for i in range(1, 11)]
    rows += [record(200 + i, "Describe the image.", 0.1, False) for i in range(5)]
    for misses, most, missed, skipped in ((0.0, 0.5, 0.0, 1 / 20), (0.1, 1.5, 0.1, 3 / 20), (0.25, 2.5, 0.2, 5 / 20)):
        gate = Gate.fit(rows, misses)
        assert dict(gate.most) == {"yes or no": most}, "of descriptions none was wrong, which tells nothing"
        assert gate.misses["yes or no"] == pytest.approx(missed)
        assert gate.skipped["yes or no"] == pytest.approx(skipped)
        assert gate.passes(asked, most)
        assert not gate.passes(asked, most + 0.01)
        assert not gate.passes("Describe the image.", 0.0)
    assert Gate.fit(rows, 1.0).most["yes or no"] == math.inf
    ties = [record(1, asked, 1.0, True), *(record(10 + i, asked, 1.0, False) for i in range(9))]
    assert not Gate.fit(ties, 0.5).most, "right answers as sure as the wrong one cannot be told from it"
    assert "5% of answers, 0.0% of the wrong ones" in str(Gate.fit(rows, 0.0))
    with pytest.raises(ValueError, match="misses=2 is not allowed"):
        Gate.fit(rows, 2)
    with pytest.raises(ValueError, match="does not note the entropy"):
        Gate.fit([LabelledResponse(1, asked, "x", [], {}, [], {})])
    with pytest.raises(ValueError, match="Did you mean 'yes or no'"):
        Gate({"yes or noo": 1.0})
    with pytest.raises(ValueError, match="an entropy in nats"):
        Gate({"question": float("nan")})


@pytest.fixture(scope="module")
def hf():
    return HallucinationFilter.from_pretrained("scenes-llava", calibrator=None, batch_size=4)


def test_what_is_let_through_is_what_is_written_and_costs_no_record(hf):
    drawn = scenes.examples("test", n=4, seed=9, kinds=["exist", "caption"])
    images, prompts = [e.image for e in drawn], [e.question for e in drawn]
    plain = hf.generate(images, prompts, threshold=0.5)
    every = hf.generate(images, prompts, threshold=0.5, gate=Gate(dict.fromkeys(KINDS, math.inf)))
    for one, other in zip(every, plain, strict=True):
        assert one.text == other.text
        assert (one.report.checked, one.report.mentions, one.report.trace) == (False, (), None)
        assert "not checked: the gate let it through" in str(one.report)
    none = hf.generate(images, prompts, threshold=0.5, gate=Gate(dict.fromkeys(KINDS, 0.0)))
    assert all(one.report.checked for one in none if one.report.trace.entropy[0] > 0)
    some = hf.generate(images, prompts, threshold=0.5, gate=Gate({"yes or no": math.inf}))
    for one, other, prompt in zip(some, plain, prompts, strict=True):
        asked = kind_of(prompt) == "yes or no"
        assert one.report.checked != asked
        if not asked:
            assert [m.p for m in one.report.mentions] == pytest.approx([m.p for m in other.report.mentions], abs=1e-5)
    with pytest.raises(ValueError, match="no risk is known"):
        HallucinationFilter.from_pretrained("scenes-llava").generate(
            images[0], prompts[0], risk=0.2, gate=Gate({"description": 1.0})
        )


def test_records_note_the_entropy_at_prefill(hf):
    """That of the first token's distribution, as the model's own logits have it."""
    example = scenes.examples("test", n=1, seed=9, kinds=["caption"])[0]
    report = hf.generate(example.image, example.question, threshold=0.5).report
    labelled = report.record("a", [False] * len(report.mentions))
    prompt = scenes.prompt(hf.processor, example.question)
    logits = hf.model(**hf.processor(images=example.image, text=prompt, return_tensors="pt")).logits[0, -1].double()
    p = logits.softmax(-1)
    assert labelled.meta["entropy"] == pytest.approx(float(-(p * p.log()).sum()), rel=1e-4)
