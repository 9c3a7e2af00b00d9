"""Acting on responses that are there already: the action's own threshold, single samples and batches."""

import pytest

from tests.filter.filtering import made
from vtokens import scenes
from vtokens.filter.actions.action import ABSTENTION


@pytest.fixture(scope="module")
def hf():
    return made()


@pytest.fixture(scope="module")
def sample():
    """(example, caption with an object put in that is not there, that object)"""
    example = scenes.examples("decorrelated", n=1, kinds=["caption"])[0]
    here = {word for thing in example.scene.visible for word in thing.name.split()}
    absent = next(c for c in scenes.CLASSES if not here & set(c.split()))
    return example, f"{example.answer}, {absent}", absent


@pytest.mark.parametrize("action", ["flag", "redact", "abstain"])
def test_what_each_action_leaves(hf, sample, action):
    example, text, absent = sample
    outcome = hf.act(example.image, example.question, text, action, threshold=0.9)
    assert outcome.text == {"flag": text, "redact": example.answer, "abstain": ABSTENTION}[action]
    assert outcome.draft == text
    assert [judged.name for judged in outcome.report.flagged] == [absent]


def test_a_batch_gives_what_its_samples_give(hf, sample):
    example, text, _ = sample
    texts = [text, example.answer, "", "hello"]
    both = hf.act([example.image] * 4, [example.question] * 4, texts, "redact", threshold=0.9)
    assert [outcome.text for outcome in both] == [example.answer, example.answer, "", "hello"]
    assert hf.act([], [], [], "flag") == []


def test_what_cannot_be_done(hf, sample):
    example, text, _ = sample
    with pytest.raises(ValueError, match="needs a threshold"):
        hf.act(example.image, example.question, text, "redact")
    with pytest.raises(ValueError, match="writes responses"):
        hf.act(example.image, example.question, text, "regenerate", threshold=0.5)
    with pytest.raises(ValueError, match="got 2 responses for 1 prompts"):
        hf.act([example.image], [example.question], [text, text])
    with pytest.raises(ValueError, match="Did you mean 'redact'"):
        hf.act(example.image, example.question, text, "redac")
