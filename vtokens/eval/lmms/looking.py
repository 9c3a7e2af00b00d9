"""Requests answered by a recipe that asks about a picture in several passes, one by one, with what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image

from vtokens.adapters import adapter_for
from vtokens.core.costs import kv_bytes, prefill_flops
from vtokens.core.errors import shorten
from vtokens.eval.clock import PhaseClock
from vtokens.eval.journal import Answer
from vtokens.eval.lmms.answering import pruned
from vtokens.eval.lmms.asked import Asked
from vtokens.eval.lmms.generation import StopStringCriteria
from vtokens.eval.lmms.media import picture
from vtokens.loading.responses import response_lengths
from vtokens.recipes import Recipe
from vtokens.recipes.looking.asking import Asking


def recipe_answers(
    model: Any, processor: Any, asked: Sequence[Asked], recipe: Recipe
) -> list[Answer]:  # fmt: skip
    """Answer requests by a recipe.

    Times and FLOPs are those of all passes; tokens, cells and cached bytes those of the prompt that is answered.
    `flops_full` and `kv_bytes_full` are those of the plain question, so that their ratios tell what a recipe costs.

    Raises:
        ValueError: a request that is not one question about one picture.
    """
    return [_answer(model, processor, one, recipe) for one in asked]


def question_of(messages: Any, where: str, recipe: str) -> tuple[Image.Image, str]:
    """The picture and the question of lmms-eval's `ChatMessages`.

    Raises:
        ValueError: there is more than one turn, or another number of pictures than one; `where` is named.
    """
    parts = [part for message in messages.messages for part in message.content]
    shown = [part for part in parts if part.type != "text"]
    if len(messages.messages) != 1 or [part.type for part in shown] != ["image"]:
        raise ValueError(
            f"the recipe {recipe} answers one question about one picture, and {where} has "
            f"{len(messages.messages)} turn(s) with {[part.type for part in shown]}: ask such tasks without a recipe"
        )
    text = "\n".join(part.text.strip() for part in parts if part.type == "text").replace("<image>", "").strip()
    return picture(shown[0].url), text


def _answer(model: Any, processor: Any, one: Asked, recipe: Recipe) -> Answer:
    chosen, arguments = one.settings, dict(one.settings.arguments)
    image, question = question_of(one.messages(), f"document {one.doc} of {shorten(one.task)}", recipe.name)
    asking = Asking(model, processor, image, question, arguments)
    if chosen.stop:
        asking.criteria = lambda start: [StopStringCriteria(processor.tokenizer, chosen.stop, start)]
    with PhaseClock(model) as clock:
        looked = recipe.answer(asking)
    phases, said = clock.phases(), looked.said
    plain = asking.inputs(question, [image])[1]["input_ids"].shape[1]
    adapter = adapter_for(model)
    config, lengths = adapter.language_model.config, [plain] * len(adapter.layers)
    cached_full = kv_bytes(config, lengths, model.dtype.itemsize)
    report = said.report
    visual, average, kept, grid = pruned(report, 0, 1)
    return Answer(
        task=one.task,
        doc=one.doc,
        text=chosen.cut(looked.text),
        output_tokens=response_lengths(model, said.sequences[:1, said.start :], arguments, end=True)[0],
        prompt_tokens=said.start,
        visual_tokens=visual,
        kept_tokens=average,
        flops=asking.flops,
        flops_full=prefill_flops(config, lengths),
        kv_bytes=cached_full if report is None else report.kv_bytes,
        kv_bytes_full=cached_full,
        batch=1,
        kept=kept,
        grid=grid,
        encode=phases.encode,
        select=phases.select,
        prefill=phases.prefill,
        decode=phases.decode,
    )
