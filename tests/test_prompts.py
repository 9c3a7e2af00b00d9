"""Prompts: the same text and the same tokens, whoever asks; the beginning stands there once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from tests.families import FAMILIES, build, image
from vtokens import scenes
from vtokens.core.prompts import encode_prompts, question_prompt
from vtokens.filter.trace.prompts import prompt_inputs
from vtokens.loading.responses import response_lengths

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}USER: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %} ASSISTANT:"
)


def templated(where: str) -> Any:
    """A LLaVA processor whose tokenizer adds <s>, with a chat template that writes <s> itself."""
    _, processor = build("llava")
    holder = processor if where == "processor" else processor.tokenizer
    holder.chat_template = TEMPLATE
    return processor


def ids(batch: Any) -> list[list[int]]:
    """The real tokens of each row."""
    return [row[mask.bool()].tolist() for row, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)]


@pytest.mark.parametrize("where", ["processor", "tokenizer"])
def test_a_beginning_that_the_template_writes_is_not_added_once_more(where: str) -> None:
    """By none who asks questions; the template may be the tokenizer's alone."""
    processor = templated(where)
    text = question_prompt(processor, "How many?")
    assert text == "<s>USER: <image>How many? ASSISTANT:"
    [want] = processor(images=image(84, 84, 0), text=text, add_special_tokens=False)["input_ids"]
    assert want.count(processor.tokenizer.bos_token_id) == 1
    assert scenes.prompt(processor, "How many?") == text
    assert ids(encode_prompts(processor, [text], [[image(84, 84, 0)]])) == [want]
    assert ids(prompt_inputs(processor, [[image(84, 84, 0)]], ["How many?"], "cpu")) == [want]


def test_rows_with_and_without_a_written_beginning_read_as_each_alone() -> None:
    """A prompt that was given whole, behind one that went through the template."""
    processor = templated("processor")
    texts, pictures = ["How many?", "<image> How many blue circles?"], [[image(84, 84, 0)], [image(60, 100, 1)]]
    alone = [ids(prompt_inputs(processor, [p], [t], "cpu"))[0] for t, p in zip(texts, pictures, strict=True)]
    assert ids(prompt_inputs(processor, pictures, texts, "cpu")) == alone
    assert [row.count(processor.tokenizer.bos_token_id) for row in alone] == [1, 1]


@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_without_a_written_beginning_are_what_the_processor_makes_of_them(family: str) -> None:
    _, processor = build(family)
    texts, pictures = (
        [question_prompt(processor, "How many?", n) for n in (1, 2)],
        [image(84, 84, 0), image(60, 100, 1)],
    )
    nested = [pictures[:1], pictures]
    plain = processor(images=nested, text=texts, padding=True, padding_side="left", return_tensors="pt")
    made = encode_prompts(processor, texts, nested)
    assert made.keys() == plain.keys()
    assert all(torch.equal(torch.as_tensor(made[name]), torch.as_tensor(plain[name])) for name in plain)


def test_a_question_without_pictures_needs_no_image_token() -> None:
    _, processor = build("llava")
    assert question_prompt(processor, "How many?", 0) == "How many?"
    with pytest.raises(ValueError, match="holds 1 '<image>' for 0 picture"):
        question_prompt(processor, "On <image>?", 0)


@pytest.mark.parametrize(
    ("row", "length", "with_end"),
    [
        ([5, 6, 7, 8], 4, 4),  # as long as was allowed
        ([5, 6, 2, 0], 2, 3),  # an end token, then padding
        ([5, 0, 0, 0], 1, 1),  # a stop string: padding alone
        ([5, 0, 6, 2], 3, 4),  # a padding token in the middle is the response's
        ([2, 0, 0, 0], 0, 1),
    ],
)  # fmt: skip
def test_a_response_ends_at_its_end_token_or_where_padding_begins(row: list[int], length: int, with_end: int) -> None:
    model, _ = build("llava")
    model.generation_config = GenerationConfig(eos_token_id=[2, 3], pad_token_id=0)
    rows = torch.tensor([row, [5, 6, 3, 0]])
    assert response_lengths(model, rows, {}) == [length, 2]
    assert response_lengths(model, rows, {}, end=True) == [with_end, 3]
    assert response_lengths(model, torch.tensor([[5, 6, 2, 9]]), {"eos_token_id": 9}, end=True) == [4]
