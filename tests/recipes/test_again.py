"""Recipes behind `generate(custom_generate=...)`, against both calls made by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
    TemperatureLogitsWarper,
)

import vtokens
from tests.engine.state import snapshot
from tests.families import build, image
from vtokens.core.compat import as_cache, returned_cache
from vtokens.recipes import Again, Zoom, zoom

pytestmark = pytest.mark.usefixtures("no_grad")
GREEDY = {"do_sample": False, "max_new_tokens": 4, "min_new_tokens": 4}
WORDS = ("what is in the corner?", "is there a cat in it, or another animal?")
SIZES = ((112, 84), (70, 98))
made = cache(build)


def written(family: str, row: int, count: int) -> str:
    marks = {"qwen": "<|vision_start|><|image_pad|><|vision_end|>", "gemm": "<start_of_image>"}
    return marks.get(family[:4], "<image>") * count + WORDS[row]


def asked(family: str) -> tuple[Any, Any, list[Any], list[Any], Any]:
    """Model, processor, prompts and images of two samples, and what the processor makes of them."""
    model, processor = made(family)
    prompts = [partial(written, family, row) for row in range(2)]
    images = [image(*size, seed=row) for row, size in enumerate(SIZES)]
    batch = processor(
        images=[[one] for one in images], text=[one(1) for one in prompts], padding=True, padding_side="left",
        return_tensors="pt",
    )  # fmt: skip
    return model, processor, prompts, images, batch


@pytest.mark.parametrize("spec", ["none", "cls(keep=0.5)", "fastv(keep=0.5, layer=2)+pai"])
@pytest.mark.parametrize("family", ["llava", "llava_onevision", "qwen2_5_vl", "gemma3"])
def test_a_batch_is_answered_as_each_picture_zoomed_alone(family: str, spec: str) -> None:
    """The caller's prompts, and behind them what the function's second `generate` said; boxes are the function's."""
    model, processor, prompts, images, batch = asked(family)
    recipe = Zoom(processor, prompts, images)
    with vtokens.attach(model, spec):
        model.generate(**batch, **GREEDY)  # transformers leaves hooks of its own at the first call
        clean = snapshot(model)
        got = model.generate(
            **batch, custom_generate=recipe, **GREEDY, return_dict_in_generate=True, output_logits=True
        )
        plain = model.generate(**batch, custom_generate=recipe, **GREEDY)
        assert snapshot(model) == clean
        alone = [zoom(model, processor, *pair, **GREEDY) for pair in zip(prompts, images, strict=True)]
    length = batch["input_ids"].shape[1]
    assert torch.equal(got.sequences[:, :length], batch["input_ids"])
    assert torch.equal(got.sequences, plain)
    assert len(got.logits) == 4
    for row, one in enumerate(alone):
        assert got.sequences[row, length:].tolist() == one.sequences[0, -4:].tolist()
        assert got.found[row].box == one.box


def test_without_batch_it_is_one_sample() -> None:
    model, processor = made("qwen2_vl")
    ask, picture = partial(written, "qwen2_vl", 0), image(112, 84, seed=4)
    batch = processor(images=[[picture]], text=[ask(1)], return_tensors="pt")
    got = model.generate(**batch, custom_generate=Zoom(processor, ask, [picture], share=0.4), **GREEDY)
    expected = zoom(model, processor, ask, picture, share=0.4, **GREEDY)
    assert torch.equal(got, torch.cat([batch["input_ids"], expected.sequences[:, -4:]], 1))


@dataclass(frozen=True)
class Reword(Again):
    """Asks about the same pictures in other words."""

    second_inputs: Any
    streamer: Any = None

    def second(self, model: Any, prompts: Sequence[Tensor]) -> tuple[Mapping[str, Any], list[int]]:
        return self.second_inputs, [len(one) for one in prompts]


def reworded() -> tuple[Any, Any, Any, Any]:
    model, processor, prompts, images, batch = asked("llava")
    texts = [one(1) + " please say it" for one in prompts]
    other = processor(
        images=[[one] for one in images], text=texts, padding=True, padding_side="left", return_tensors="pt"
    )
    return model, batch, other, Reword(other)


def behind(sequences: Tensor, inputs: Any) -> list[list[int]]:
    return sequences[:, inputs["input_ids"].shape[1] :].tolist()


@pytest.mark.parametrize(
    "options",
    [
        {**GREEDY, "num_beams": 3},
        {**GREEDY, "num_beams": 3, "num_return_sequences": 2},
        {"do_sample": True, "num_return_sequences": 3, "temperature": 1.3, "top_k": 20, "max_new_tokens": 5},
        {"do_sample": False, "repetition_penalty": 1.5, "max_new_tokens": 6},
        {"do_sample": False, "max_new_tokens": 3, "no_repeat_ngram_size": 2, "max_time": 100.0},
    ],
)
def test_options_are_those_of_the_second_generate(options: dict[str, Any]) -> None:
    model, batch, other, recipe = reworded()
    torch.manual_seed(5)
    got = model.generate(**batch, custom_generate=recipe, **{**options, "return_dict_in_generate": True})
    torch.manual_seed(5)
    expected = model.generate(**other, **options)
    assert behind(got.sequences, batch) == behind(expected, other)
    lengths = batch["attention_mask"].sum(1)
    assert got.found == lengths.tolist()
    copies = options.get("num_return_sequences", 1)
    first = batch["input_ids"].repeat_interleave(copies, 0)
    assert torch.equal(got.sequences[:, : first.shape[1]], first)


def test_lengths_count_from_the_callers_prompt() -> None:
    """`max_length` and `min_length` are of what comes back, whose prompt is the caller's."""
    model, batch, other, recipe = reworded()
    length = batch["input_ids"].shape[1]
    got = model.generate(**batch, custom_generate=recipe, do_sample=False, max_length=length + 5, min_length=length + 5)
    expected = model.generate(**other, do_sample=False, max_new_tokens=5, min_new_tokens=5)
    assert got.shape[1] == length + 5
    assert behind(got, batch) == behind(expected, other)


class Never(LogitsProcessor):
    """A token that may not be."""

    def __init__(self, token: int) -> None:
        self.token = token

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return scores.index_fill(1, torch.tensor([self.token]), -torch.inf)


class After(StoppingCriteria):
    """Stops once two tokens of a kind came."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        self.count += 1
        return torch.full((len(input_ids),), self.count >= 2)


def test_what_the_caller_wrote_himself_goes_along() -> None:
    model, batch, other, recipe = reworded()
    first = model.generate(**other, **GREEDY)[0, other["input_ids"].shape[1]]
    got = model.generate(
        **batch, custom_generate=recipe, logits_processor=LogitsProcessorList([Never(int(first))]),
        stopping_criteria=StoppingCriteriaList([After()]), do_sample=False, max_new_tokens=6,
    )  # fmt: skip
    expected = model.generate(
        **other, logits_processor=LogitsProcessorList([Never(int(first))]), do_sample=False, max_new_tokens=2
    )
    assert behind(got, batch) == behind(expected, other)
    assert got[0, batch["input_ids"].shape[1]] != first


@pytest.mark.parametrize(
    "option",
    [
        {"logits_processor": LogitsProcessorList([TemperatureLogitsWarper(0.5)])},
        {
            "logits_processor": LogitsProcessorList([TemperatureLogitsWarper(0.5)]),
            "do_sample": True,
            "temperature": 0.7,
        },
        {"prefix_allowed_tokens_fn": lambda row, ids: [5, 6]},
    ],
)
def test_what_was_made_for_the_callers_prompt_is_refused(option: dict[str, Any]) -> None:
    model, batch, _, recipe = reworded()
    with pytest.raises(ValueError, match="was made for one prompt, and a recipe asks another"):
        model.generate(**batch, custom_generate=recipe, max_new_tokens=2, **option)


class Stream:
    def __init__(self) -> None:
        self.got: list[Any] = []

    def put(self, value: Tensor) -> None:
        self.got.append(value.flatten().tolist())

    def end(self) -> None:
        self.got.append("end")


def test_a_streamer_of_the_recipe_gets_the_second_prompt_and_its_answer() -> None:
    model, batch, other, _ = reworded()
    one = {name: value[:1] for name, value in other.items()}
    here, there = Stream(), Stream()
    model.generate(**{n: v[:1] for n, v in batch.items()}, custom_generate=Reword(one, here), **GREEDY)
    model.generate(**one, streamer=there, **GREEDY)
    assert here.got == there.got
    assert here.got[-1] == "end"


def test_a_call_that_goes_on_from_a_cache_is_refused() -> None:
    model, batch, _, recipe = reworded()
    keys = returned_cache(model(**batch, use_cache=True))
    more = torch.cat([batch["input_ids"], batch["input_ids"][:, -2:]], 1)
    with pytest.raises(ValueError, match="goes on from a cache"):
        model.generate(
            more,
            attention_mask=torch.ones_like(more),
            **as_cache(model, keys),
            custom_generate=recipe,
            max_new_tokens=2,
        )


def test_other_prompts_and_other_counts_are_refused() -> None:
    model, processor, prompts, images, batch = asked("llava")
    for recipe, says in (
        (Zoom(processor, prompts[::-1], images), "prompt 0 that was given to generate is another"),
        (Zoom(processor, prompts[0], images[:1]), "one of each for a"),
        (Zoom(processor, prompts[:1], images), "one of each for a"),
        (Zoom(processor, prompts, images, layer=9), "the nearest is"),
        (Zoom(processor, prompts, images, share=2.0), r"\(0, 1\]"),
    ):
        clean = snapshot(model)
        with pytest.raises(ValueError, match=says):
            model.generate(**batch, custom_generate=recipe, **GREEDY)
        assert snapshot(model) == clean


def test_called_by_itself_it_says_how_to_call_it() -> None:
    model, batch, _, recipe = reworded()
    with pytest.raises(ValueError, match="custom_generate=recipe"):
        recipe(model, batch["input_ids"])


def test_tiles_of_which_nobody_knows_the_place_are_refused() -> None:
    model, processor = made("idefics3")
    picture = image(100, 60, seed=0)
    with pytest.raises(ValueError, match=r"cut this image into \d tiles"):
        zoom(model, processor, lambda count: "<image>" * count + "what?", picture)
