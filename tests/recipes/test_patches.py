"""The recipe `patches`: what each pass is asked and says, worked out again by hand with the plain model."""

from __future__ import annotations

import pytest
import torch
from transformers import TextIteratorStreamer

import vtokens
from tests.recipes.looking import QUESTION, answered, counted, made, picture, prompted
from vtokens.recipes import AnswerScorer, dyfo, patches
from vtokens.recipes.looking.patches import CHECK, DESCRIBE, Patches, parts, sentences
from vtokens.scenes import examples


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_parts_are_described_checked_and_put_together(family: str) -> None:
    model, processor = made(family)
    shown = picture()
    got = answered(patches, model, processor, shown, columns=1, least=0.0, tokens=5, max_new_tokens=3)
    said = 0
    notes = []
    for name, box in (("upper", (0, 0, 112, 42)), ("lower", (0, 42, 112, 84))):
        part = shown.crop(box)
        inputs = prompted(processor, DESCRIBE, part)
        tokens = model.generate(**inputs, do_sample=False, max_new_tokens=5)[0, inputs["input_ids"].shape[1] :]
        text = processor.tokenizer.decode(tokens, skip_special_tokens=True).strip()
        kept = []
        for one in sentences(text):
            said += 1
            if AnswerScorer(model, processor, CHECK, least=0.0)([part], one)[0] >= 0.5:
                kept.append(one)
        assert got.notes["parts"][name] == (text, kept)
        notes += [f"- {name}: {' '.join(kept)}"] * bool(kept)
    asked = "\n".join(["What parts of the picture show:", *notes, QUESTION]) if notes else QUESTION
    expected = model.generate(**prompted(processor, asked, shown), do_sample=False, max_new_tokens=3)
    assert torch.equal(got.said.sequences, expected)
    assert got.passes == 2 + said + 1


def test_without_a_check_all_is_kept_and_pruners_act_in_every_pass() -> None:
    model, processor = made("llava")
    with vtokens.attach(model, "cls(keep=0.25)"), counted(model) as lengths:
        got = patches(model, processor, picture(), QUESTION, threshold=0.0, tokens=3, max_new_tokens=2)
    assert got.passes == len(lengths) == 5
    assert list(got.notes["parts"]) == ["upper left", "upper right", "lower left", "lower right"]
    assert all(kept == sentences(text) for text, kept in got.notes["parts"].values())
    assert got.flops < got.flops_full


def test_a_streamer_gets_the_answer_alone() -> None:
    """Not what was said of the first part, behind which an iterator of texts would end."""
    model, processor = made("llava")
    streamer = TextIteratorStreamer(processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
    got = patches(model, processor, picture(), QUESTION, threshold=0.0, tokens=3, max_new_tokens=6, streamer=streamer)
    assert "".join(streamer).strip() == got.text
    with pytest.raises(ValueError, match="streamer: this recipe asks several times"):
        dyfo(model, processor, picture(), QUESTION, rollouts=1, streamer=streamer)


def test_a_check_takes_out_what_is_not_there() -> None:
    """The embedded model, asked as it was taught, keeps what is true of a part, and drops what is not."""
    model, processor = vtokens.load("scenes-llava", strategy="none")
    vtokens.detach(model)
    asked = [one for one in examples("test", 40, 0, kinds=["pope_random"]) if one.answer == "yes"][:3]
    for one in asked:
        there = one.question.removeprefix("Is there a ").removesuffix(" in the image?")
        recipe = Patches(rows=1, columns=1, check_by="Is there a {query} in the image?")
        absent = next(name for name in ("red circle", "blue square", "green ring", "yellow cross")
                      if name not in {thing.name for thing in one.scene.visible})  # fmt: skip
        scorer = AnswerScorer(model, processor, recipe.check_by)
        assert scorer([one.image], there)[0] >= recipe.threshold > scorer([one.image], absent)[0]


def test_parts_cover_a_picture() -> None:
    for size, rows, columns in (((113, 84), 3, 2), ((7, 5), 4, 1), ((10, 10), 1, 1)):
        found = parts(size, rows, columns)
        assert len(found) == rows * columns
        cover = sorted((x, y) for a, b, c, d in found.values() for x in range(a, c) for y in range(b, d))
        assert cover == [(x, y) for x in range(size[0]) for y in range(size[1])]
    assert list(parts((9, 9), 1, 3)) == ["left", "middle", "right"]
    assert sentences("A dog. Is it? yes\nno 3.5 m") == ["A dog.", "Is it?", "yes", "no 3.5 m"]


def test_what_is_wrong_is_said() -> None:
    model, processor = made("llava")
    for more, says in (
        ({"rows": 0}, "1 to 9"),
        ({"threshold": -1.0}, r"\[0, 1\]"),
        ({"check_by": "Is it?"}, "leaves the query out"),
        ({"describe": " "}, "is empty"),
        ({"tokens": 0}, "at least 1"),
        ({"least": 1.0, "tokens": 4}, "answers neither yes nor no"),
    ):
        with pytest.raises(ValueError, match=says):
            patches(model, processor, picture(), QUESTION, **more)
