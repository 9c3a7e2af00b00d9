"""What tests of recipes by name share: tiny models, prompts as recipes write them, and a count of the passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from tests.engine.state import snapshot
from tests.families import build, image
from vtokens.adapters import adapter_for
from vtokens.core.prompts import encode_prompts, question_prompt
from vtokens.recipes import Looked

QUESTION = "what is in the corner?"
GREEDY = {"max_new_tokens": 4, "min_new_tokens": 4}
made = cache(build)


def picture(seed: int = 4) -> Image.Image:
    return image(112, 84, seed=seed)


def prompted(processor: Any, question: str, *images: Image.Image) -> Any:
    text = question_prompt(processor, question, len(images))
    return encode_prompts(processor, [text], [list(images)])


def received(family: str, question: str, layer: int, shown: Image.Image) -> np.ndarray:
    """(h, w): what patches get from the prompt's end in one layer of a plain eager model, mean over heads."""
    model, processor = made(family, attn_implementation="eager")
    inputs = prompted(processor, question, shown)
    row = model(**inputs, output_attentions=True).attentions[layer][0, :, -1].mean(0)
    return grid(model, inputs, row.detach().double().numpy())


def grid(model: Any, inputs: Any, row: np.ndarray) -> np.ndarray:
    """A row over the keys of a prompt with one picture, on the grid of its patches."""
    visual = row[(inputs["input_ids"][0] == model.config.image_token_id).numpy()]
    if "image_grid_thw" not in inputs:
        side = round(len(visual) ** 0.5)
        return visual.reshape(side, side)
    _, rows, columns = inputs["image_grid_thw"][0].tolist()
    merge = model.config.vision_config.spatial_merge_size
    return visual.reshape(rows // merge, columns // merge)


@contextmanager
def counted(model: Any) -> Iterator[list[int]]:
    """The lengths of the prompts that the decoder reads meanwhile; passes of one token are those of answers."""
    lengths: list[int] = []

    def note(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        fed = kwargs["inputs_embeds"] if kwargs.get("inputs_embeds") is not None else kwargs["input_ids"]
        if fed.shape[1] > 1:
            lengths.append(fed.shape[1])

    hook = adapter_for(model).language_model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield lengths
    finally:
        hook.remove()


def answered(recipe: Callable[..., Looked], model: Any, processor: Any, shown: Image.Image, **settings: Any) -> Looked:
    """The answer of a recipe, which leaves the model as it was and says how many prompts were read."""
    # transformers leaves hooks of its own in the first call
    model.generate(**prompted(processor, QUESTION, shown).to(model.dtype), max_new_tokens=1)
    clean = snapshot(model)
    with counted(model) as lengths:
        got = recipe(model, processor, shown, QUESTION, **settings)
    assert snapshot(model) == clean
    assert got.passes == len(lengths)
    return got
