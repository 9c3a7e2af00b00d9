"""Prompts of many families as one batch: the one that their processor would have made."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import vtokens
from tests.families import build, image, inputs
from tests.serve.common import alone, answers, greedy, job, loaded, prompt, questions
from vtokens.serve.batcher import Batcher
from vtokens.serve.join import Joiner

LONG = "no picture here, but as many words as it takes not to be mostly padding beside the others"
TEXTS = ("what is <image> this?", "look at <image> and at <image> well", LONG, "and <image>")
PICTURES = ([image(84, 84, 1)], [image(56, 84, 2), image(84, 56, 3)], [], [image(150, 60, 3)])
JOINED = ("llava_next", "idefics3", "qwen2_5_vl", "gemma4", "minicpmv4_6", "llava_onevision", "mistral3")
"""Tiles with room for more, rows with room for more, patches in a row, places that are -1, a strip, counts, sizes."""


def rows_of(processor: Any) -> list[dict[str, Any]]:
    return [dict(inputs(processor, [text], [group])) for text, group in zip(TEXTS, PICTURES, strict=True)]


@pytest.mark.parametrize("family", JOINED)
def test_the_batch_is_the_processors_own(family: str) -> None:
    processor = build(family)[1]
    joiner, rows = Joiner(processor), rows_of(processor)
    for which in ((0, 1, 2, 3), (1, 0), (2, 3)):
        some = [rows[number] for number in which]
        assert joiner.joins(some)
        made = joiner.join(some)
        texts, groups = [TEXTS[number] for number in which], [PICTURES[number] for number in which]
        whole = dict(inputs(processor, texts, groups))
        assert {*made} == {*whole}
        for name, value in whole.items():
            assert torch.equal(made[name], value), name


@pytest.mark.parametrize("family", ["molmo2", "mllama"])
def test_what_cannot_be_joined_runs_by_itself(family: str) -> None:
    """Numbers of patches over the whole batch, and marks of what is not there that differ from place to place."""
    model, processor = build(family)
    rows = rows_of(processor)
    assert not Joiner(processor).joins(rows[:2])
    settings = greedy(4, min_new_tokens=4)
    jobs = [job(row, "uniform(keep=0.5)", settings) for row in rows[:2]]
    with vtokens.attach(model, "none") as handle, Batcher(model, processor, handle, wait=1) as batcher:
        found = answers(batcher, jobs)
        assert [heard.began.rows for heard in found] == [1, 1]
        assert [list(heard.end.ids) for heard in found] == [alone(model, handle, one) for one in jobs]


@pytest.mark.parametrize("family", ["llava_next", "idefics3", "qwen2_5_vl", "gemma4"])
def test_rows_of_other_families_answer_as_alone(family: str) -> None:
    """Rows with one picture, two and none, each pruned otherwise."""
    model, processor = build(family)
    names = ["uniform(keep=0.3)", "none", "random(keep=0.5)", "divprune(keep=0.4)"]
    settings = greedy(6, min_new_tokens=6)
    jobs = [job(row, name, settings) for row, name in zip(rows_of(processor), names, strict=True)]
    with vtokens.attach(model, "none") as handle, Batcher(model, processor, handle, wait=5, most=4) as batcher:
        found = answers(batcher, jobs)
        assert [heard.began.rows for heard in found] == [4] * 4
        assert [list(heard.end.ids) for heard in found] == [alone(model, handle, one) for one in jobs]


def test_padding_of_a_prompt_itself_is_taken_off() -> None:
    processor = loaded()[1]
    one = prompt(processor, questions()[0].question, questions()[0].images)
    padded = {name: value.clone() for name, value in one.items()}
    padded["input_ids"] = torch.nn.functional.pad(one["input_ids"], (5, 0), value=0)
    padded["attention_mask"] = torch.nn.functional.pad(one["attention_mask"], (5, 0))
    joiner = Joiner(processor)
    assert all(torch.equal(value, one[name]) for name, value in joiner.join([padded]).items())
    both, twice = joiner.join([padded, one]), joiner.join([one, one])
    assert all(torch.equal(value, twice[name]) for name, value in both.items())
    unknown = {**one, "more": torch.ones(1)}
    assert not joiner.joins([unknown, one])
    assert torch.equal(joiner.join([unknown])["more"], torch.ones(1))
