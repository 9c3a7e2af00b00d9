"""The filter on the embedded model: checking, acting, streaming, fitting, and what it refuses."""

from __future__ import annotations

import json

import pytest

import vtokens
from tests.families import build
from vtokens import HallucinationFilter, Risk, scenes
from vtokens.filter.actions.action import ABSTENTION
from vtokens.filter.calibrators.labels import label_scenes

LOW = 0.05  # of uncalibrated scores: flags a third of these captions


@pytest.fixture(scope="module")
def plain(embedded):
    return HallucinationFilter(*embedded, extractor="scenes")


def asked(captions):
    return [e.image for e in captions], [e.question for e in captions]


def test_check_a_response(plain, captions):
    report = plain.check(captions[0].image, captions[0].question, "red circle, blue square")
    assert [(m.text, m.kind) for m in report.mentions] == [("red circle", "object"), ("blue square", "object")]
    assert [s.text for s in report.sentences] == ["red circle", "blue square"]
    assert not report.calibrated
    assert report.threshold == 0.5
    assert "uncalibrated" in str(report)
    held = json.loads(report.to_json())
    assert [m["p"] for m in held["mentions"]] == [m.p for m in report.mentions]


def test_a_batch_is_checked_as_its_samples_are(plain, captions):
    images, prompts = asked(captions[:4])
    responses = [captions[i].answer for i in (1, 0, 3, 2)]
    together = plain.check(images, prompts, responses)
    for number, report in enumerate(together):
        alone = plain.check(images[number], prompts[number], responses[number])
        assert [m.p for m in report.mentions] == pytest.approx([m.p for m in alone.mentions], abs=1e-4)
        assert [m.mention for m in report.mentions] == [m.mention for m in alone.mentions]


@pytest.mark.parametrize("response", ["", "   ", "I do not know.", "?!"])
def test_nothing_to_check(plain, captions, response):
    report = plain.check(captions[0].image, captions[0].question, response)
    assert report.mentions == ()
    assert report.response == response
    assert report.trace is None


def test_flag_answers_as_plain_generation(plain, embedded, captions):
    outcomes = plain.generate(*asked(captions), threshold=LOW)
    assert [o.text for o in outcomes] == scenes.answer(*embedded, captions)
    assert any(o.report.flagged for o in outcomes)


def test_what_is_flagged_does_not_depend_on_who_wrote(plain, captions):
    for outcome, example in zip(plain.generate(*asked(captions)), captions, strict=True):
        ids = outcome.report.trace.ids.tolist()
        read = plain.check(example.image, example.question, ids)
        assert read.response == outcome.text
        assert [m.p for m in read.mentions] == pytest.approx([m.p for m in outcome.report.mentions], abs=1e-4)


def test_redact_drops_and_abstain_says_nothing(plain, captions):
    flagged = plain.generate(*asked(captions), threshold=LOW)
    redacted = plain.generate(*asked(captions), action="redact", threshold=LOW)
    silent = plain.generate(*asked(captions), action="abstain", threshold=LOW)
    for whole, part, none in zip(flagged, redacted, silent, strict=True):
        bad = whole.report.bad()
        kept = [s.text for s, wrong in zip(whole.report.sentences, bad, strict=True) if not wrong]
        assert [text.strip() for text in part.text.split(",") if text.strip()] == kept
        assert none.text == (ABSTENTION if any(bad) else whole.text)


@pytest.mark.parametrize("retries", [("ban",), ("vhr", "ban"), ("resample",)])
def test_regenerate_leaves_nothing_flagged(plain, captions, retries):
    outcomes = plain.generate(*asked(captions), action="regenerate", threshold=LOW, retries=retries)
    assert any(o.passes > 1 for o in outcomes)
    for outcome in outcomes:
        dropped = {edit.before for edit in outcome.edits if edit.what == "redacted"}
        assert {s.text for s, bad in zip(outcome.report.sentences, outcome.report.bad(), strict=True) if bad} <= dropped
        assert outcome.passes <= 1 + 8
        assert (outcome.text == outcome.draft) == (not outcome.edits)


def test_a_ban_keeps_the_rejected_words_out(plain, captions):
    for outcome in plain.generate(*asked(captions), action="regenerate", threshold=LOW):
        for edit in outcome.edits:
            if edit.what == "regenerated":
                assert edit.before not in outcome.text[outcome.text.index(edit.after) :]


@pytest.mark.parametrize("action", ["flag", "redact", "regenerate"])
def test_a_stream_tells_what_generate_answers(plain, captions, action):
    outcomes = plain.generate(*asked(captions), action=action, threshold=LOW)
    for example, outcome in zip(captions, outcomes, strict=True):
        events = list(plain.stream(example.image, example.question, action, threshold=LOW))
        assert "".join(event.text for event in events) == outcome.text


def test_an_abstaining_stream_ends_at_the_first_flagged_sentence(plain, captions):
    whole = plain.generate(*asked(captions), threshold=LOW)
    number = next(i for i, outcome in enumerate(whole) if any(outcome.report.bad()) and not outcome.report.bad()[0])
    first = whole[number].report.bad().index(True)
    events = list(plain.stream(captions[number].image, captions[number].question, "abstain", threshold=LOW))
    assert [event.what for event in events] == ["kept"] * first + ["abstained"]


def test_a_stream_that_is_left_leaves_nothing_behind(plain, embedded, captions):
    stream = plain.stream(captions[0].image, captions[0].question)
    next(stream)
    stream.close()
    assert vtokens.attachment(embedded[0]) is None
    assert not embedded[0]._forward_hooks
    assert plain.generate(captions[0].image, captions[0].question).text == scenes.answer(*embedded, captions[:1])[0]


@pytest.mark.parametrize("strategy", ["todre(keep=0.25)", "fastv(keep=0.25)", "dymu"])
def test_a_pruner_stays_attached_and_at_work(embedded, captions, strategy):
    model, processor = embedded
    with vtokens.attach(model, strategy) as handle:
        found = HallucinationFilter(model, processor, extractor="scenes")
        outcomes = found.generate(*asked(captions), threshold=LOW)
        assert vtokens.attachment(model) is handle
        assert [o.text for o in outcomes] == scenes.answer(model, processor, captions)
        assert found.setting().strategy == handle.strategy
        read = found.check(*asked(captions), [o.report.trace.ids.tolist() for o in outcomes])
        for one, other in zip(outcomes, read, strict=True):
            assert [m.p for m in one.report.mentions] == pytest.approx([m.p for m in other.mentions], abs=1e-3)
    assert vtokens.attachment(model) is None


def records(found, split, count, seed):
    """Captions of the model, and those of the next picture, which are mostly wrong."""
    drawn = scenes.examples(split, n=count, seed=seed, kinds=["caption"])
    made = []
    for shift in (0, 1):
        said = [drawn[(i + shift) % count].answer for i in range(count)]
        for example, report in zip(drawn, found.check(*asked(drawn), said), strict=True):
            labels = label_scenes(example, [judged.mention for judged in report.mentions])
            made.append(report.record(f"{split}-{seed}-{example.index}", labels))
    return made


@pytest.fixture(scope="module")
def calibrated(embedded):
    found = HallucinationFilter(*embedded, extractor="scenes")
    found.fit(records(found, "train", 60, 11))
    return found.calibrate(records(found, "calibration", 60, 12), Risk("any", alpha=0.2, delta=None))


def test_fit_and_calibrate(calibrated, captions):
    drawn = records(calibrated, "test", 40, 13)
    p = [p for record in drawn for p in calibrated.judge.calibrator.predict(record.signals)]
    labels = [label for record in drawn for label in record.labels]
    wrong = [a for a, bad in zip(p, labels, strict=True) if bad]
    right = [a for a, bad in zip(p, labels, strict=True) if not bad]
    assert sum(wrong) / len(wrong) > 0.5 > sum(right) / len(right)
    guarantee = calibrated.certificate()
    assert not guarantee.infeasible
    assert "assumptions" in str(guarantee)
    outcome = calibrated.generate(captions[0].image, captions[0].question, action="redact", risk=0.2)
    assert outcome.certificate == calibrated.certificate(0.2, "redact")
    assert outcome.report.calibrated


def test_a_saved_filter_says_the_same(calibrated, embedded, captions, tmp_path):
    path = calibrated.save(tmp_path / "filter.json")
    again = HallucinationFilter.from_pretrained(*embedded, calibrator=path)
    assert again.judge.extractor.name == "scenes"
    assert again.certificate() == calibrated.certificate()
    for response in ("red circle, blue square", captions[0].answer):
        one, other = (f.check(captions[0].image, captions[0].question, response) for f in (calibrated, again))
        assert [m.p for m in one.mentions] == [m.p for m in other.mentions]


def test_a_calibrator_of_another_setting_is_told_apart(calibrated, embedded, captions, tmp_path):
    path, (model, processor) = calibrated.save(tmp_path / "filter.json"), embedded
    with vtokens.attach(model, "todre(keep=0.25)"):
        with pytest.warns(UserWarning, match="todre"):
            found = HallucinationFilter.from_pretrained(model, processor, calibrator=path)
        with pytest.raises(ValueError, match="todre"):
            found.generate(captions[0].image, captions[0].question, action="redact", risk=0.2)
    other = vtokens.load("scenes-llava", strategy="none")[0]
    other.get_input_embeddings().weight.data[:] += 0.5
    with pytest.raises(ValueError, match="other conditions"):
        HallucinationFilter.from_pretrained(other, processor, calibrator=path)


def test_what_mentions_are_found_follows_from_the_model(embedded):
    """Of a model that ships with us the words of scenes, with its calibrator or without; of others any English."""
    assert HallucinationFilter.from_pretrained(*embedded, calibrator=None).judge.extractor.name == "scenes"
    assert HallucinationFilter.from_pretrained(*build("llava"), calibrator=None).judge.extractor.name == "chunks"


def test_a_guarantee_that_cannot_be_kept_is_refused(calibrated, captions):
    with pytest.raises(ValueError, match="cannot be guaranteed"):
        calibrated.generate(captions[0].image, captions[0].question, action="redact", risk=0.001)


def test_images_fitted_on_do_not_calibrate(calibrated, embedded):
    found = HallucinationFilter(*embedded, extractor="scenes")
    same = records(found, "train", 60, 11)
    with pytest.raises(ValueError, match="image"):
        found.fit(same).calibrate(same)


def test_what_is_refused(plain, captions):
    image, prompt = captions[0].image, captions[0].question
    with pytest.raises(ValueError, match="'redact'"):
        plain.generate(image, prompt, action="redct")
    with pytest.raises(ValueError, match="needs a threshold"):
        plain.generate(image, prompt, action="redact")
    with pytest.raises(ValueError, match="not calibrated"):
        plain.generate(image, prompt, risk=0.1)
    with pytest.raises(ValueError, match=r"threshold=1\.5"):
        plain.check(image, prompt, "red circle", threshold=1.5)
    with pytest.raises(ValueError, match="exclude"):
        plain.check(image, prompt, "red circle", threshold=0.5, risk=0.1)
    with pytest.raises(ValueError, match="num_return_sequences=2"):
        plain.generate(image, prompt, num_return_sequences=2, num_beams=2)
    with pytest.raises(ValueError, match="1 samples and 2 prompts"):
        plain.check([image], [prompt, prompt], ["", ""])
    with pytest.raises(ValueError, match="1 responses for 2 prompts"):
        plain.check([image, image], [prompt, prompt], ["red circle"])
    with pytest.raises(ValueError, match="vhr"):
        plain.generate(image, prompt, action="regenerate", threshold=0.5, retries=["vhrr"])
    with pytest.raises(ValueError, match="one prompt at a time"):
        plain.stream([image], [prompt])
    with pytest.raises(TypeError, match="processor"):
        HallucinationFilter.from_pretrained(plain.model)
    with pytest.raises(ValueError, match="batch_size=0"):
        HallucinationFilter(plain.model, plain.processor, batch_size=0)
    with pytest.raises(ValueError, match="extractor"):
        HallucinationFilter(plain.model, plain.processor, extractor="scense")
    with pytest.raises(ValueError, match="comes first"):
        plain.calibrate([])
