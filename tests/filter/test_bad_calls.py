"""What the filter's methods are called with by mistake: an error says what is allowed, and nothing runs on for ever."""

import time

import numpy as np
import pytest
import torch

import vtokens
from vtokens import scenes

PROMPT = "Describe the image."


@pytest.fixture(scope="module")
def filtering():
    model, processor = vtokens.load("scenes-llava")
    return vtokens.HallucinationFilter.from_pretrained(model, processor)


@pytest.fixture(scope="module")
def picture():
    return scenes.examples("decorrelated", n=1, kinds=["caption"])[0].image


@pytest.mark.parametrize("response", ["", [], torch.tensor([], dtype=torch.long)])
def test_an_empty_response_mentions_nothing(filtering, picture, response):
    report = filtering.check(picture, PROMPT, response)
    assert (report.mentions, report.flagged, report.unjudged) == ((), (), ())
    assert "names nothing" in str(report)


def test_ids_of_any_kind_are_ids(filtering, picture):
    tokenizer = filtering.processor.tokenizer
    ids = tokenizer("red circle, blue square", add_special_tokens=False)["input_ids"]
    expected = filtering.check(picture, PROMPT, ids).to_dict()
    for given in (tuple(ids), torch.tensor(ids), np.array(ids), [np.int64(i) for i in ids]):
        assert filtering.check(picture, PROMPT, given).to_dict() == expected


@pytest.mark.parametrize(
    ("prompt", "response", "says"),
    [
        (PROMPT, None, "responses[0]=None is neither text nor a list of token ids"),
        (PROMPT, 7, "responses[0]=7 is neither"),
        (PROMPT, b"red circle", "is neither text nor"),
        (PROMPT, {"a": 1}, "is neither text nor"),
        (PROMPT, [1.5, 2], "it holds 1.5"),
        (PROMPT, [True], "it holds True"),
        (PROMPT, ["red circle"], "it holds 'red circle'"),
        (PROMPT, [-1], "holds token -1: ids from 0 to 70"),
        (PROMPT, [10**9], "holds token 1000000000: ids from 0 to 70"),
        (PROMPT, "red \ud800", "half of a surrogate pair"),
        (PROMPT, "red circle " * 100_000, "responses[0] has 1,100,000 characters"),
        (PROMPT, "red circle " * 600, "the model's context holds 1024"),
        ("red circle " * 100_000, "a dog", "the prompt has 1,100,000 characters"),
        ("\ud800", "a dog", "the prompt holds \\ud800"),
        (None, "a dog", "a prompt is text, got None"),
        (3.5, "a dog", "a prompt is text, got 3.5"),
        ([PROMPT, 3], ["a", "b"], "a prompt is text, got 3"),
        ([PROMPT, PROMPT], "ab", "the responses to 2 prompts are 'ab'"),
        ([PROMPT, PROMPT], ["a"], "got 1 responses for 2 prompts"),
    ],
)
def test_prompts_and_responses(filtering, picture, prompt, response, says):
    start = time.monotonic()
    with pytest.raises((TypeError, ValueError)) as error:
        filtering.check([picture] * 2 if isinstance(prompt, list) else picture, prompt, response)
    assert says in str(error.value)
    assert len(str(error.value)) < 500
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("method", ["generate", "stream"])
def test_a_prompt_longer_than_the_context_is_not_answered(filtering, picture, method):
    with pytest.raises(ValueError, match="the model's context holds 1,024"):
        list(getattr(filtering, method)(picture, "red circle " * 600, threshold=0.5))


@pytest.mark.parametrize("images", [None, [], [[]]])
def test_no_picture(filtering, images):
    with pytest.raises((ValueError, TypeError), match="picture"):
        filtering.check(images, PROMPT, "a dog")


def test_what_is_no_model_and_no_signal(filtering):
    for model in (None, 3):
        with pytest.raises(TypeError, match="neither a model nor the name of one"):
            vtokens.HallucinationFilter.from_pretrained(model, filtering.processor)
    with pytest.raises(TypeError, match="3 is no signal"):
        vtokens.HallucinationFilter(filtering.model, filtering.processor, signals=3)


def test_what_cannot_be_recorded_beside_is_refused_when_the_filter_is_made(embedded):
    """`census` lets tokens count for several, inside attention, and `auto` stands for it here."""
    model, processor = embedded
    filtering = vtokens.HallucinationFilter.from_pretrained(model, processor)
    for spec in ("census(keep=0.25)", "auto(task='general')"):
        with vtokens.attach(model, spec):
            with pytest.raises(ValueError, match="'census' lets tokens count for several"):
                vtokens.HallucinationFilter.from_pretrained(model, processor)
            with pytest.raises(ValueError, match="'census' lets tokens count for several"):
                filtering.check_action("flag")
    filtering.check_action("redact")  # by the certificate that ships
    with vtokens.attach(model, "cls(keep=0.1)"):
        filtering.check_action("redact", threshold=0.5)
        with pytest.raises(ValueError, match="fitted under other conditions: strategy 'cls"):
            filtering.check_action("redact")
    with pytest.raises(ValueError, match="Did you mean 'redact'"):
        filtering.check_action("redcat", threshold=0.5)
