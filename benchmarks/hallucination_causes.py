"""What a hallucination on scenes rests on: parts of the picture are covered, and the model is asked again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

import vtokens
from benchmarks.watching import Hide
from vtokens import scenes
from vtokens.eval.hallucination import exam, mentioned, visible
from vtokens.eval.metrics import wilson, yes_no
from vtokens.scenes import CLASSES, PAIRS, Example, Pair
from vtokens.scenes.questions import exist_question

Facts = list[dict[str, Any]]


def missing(split: str, questions: int, captions: int, seed: int) -> list[Example]:
    """Questions for a missing partner, and captions of pictures with a trigger without its partner."""
    drawn = exam(split, questions=questions, captions=captions, seed=seed)
    asks = [e for e in drawn if e.kind == "pope_adversarial" and e.answer == "no"]
    return asks + [e for e in drawn if e.kind == "caption" and pair_of(e) is not None]


def pair_of(example: Example) -> Pair | None:
    """The pair an example is about: the one whose partner is asked for, or whose trigger is there alone."""
    there = visible(example)
    for pair in PAIRS:
        about = example.kind == "caption" or example.question == exist_question(pair.partner)
        if about and CLASSES[pair.trigger] in there and CLASSES[pair.partner] not in there:
            return pair
    return None


def trigger_cell(example: Example) -> int:
    """The cell of the trigger whose partner is missing."""
    pair = pair_of(example)
    assert pair is not None
    return next(t.cell for t in example.scene.visible if t.number == pair.trigger)


def causes(model: Any, processor: Any, asked: Sequence[Example]) -> Facts:
    """How often a missing partner is seen when parts of the picture are taken away, by yes/no question and in captions.

    The covered cell is the trigger's, an empty one, or another object's (of the examples that have one). In
    `trigger named, covered` the caption's text already names the trigger, whose picture is covered.
    """
    rng, rows = np.random.default_rng(0), Facts()
    covers: dict[str, Callable[[Example], list[int]]] = {
        "nothing": lambda e: [-1],
        "trigger": lambda e: [trigger_cell(e)],
        "empty cell": lambda e: sorted({*range(16)} - {t.cell for t in (*e.scene.objects, *e.scene.digits)}),
        "other object": lambda e: [t.cell for t in e.scene.visible if t.cell != trigger_cell(e)],
    }
    for pair in PAIRS:
        partner = CLASSES[pair.partner]
        mine = [e for e in asked if pair_of(e) == pair]
        row: dict[str, Any] = {"partner": partner, "dose": pair.dose, "questions": {}, "captions": {}}
        for name, cells in covers.items():
            for kind, key in (("pope_adversarial", "questions"), ("caption", "captions")):
                part = [e for e in mine if e.kind == kind and cells(e)]
                hidden = [int(rng.choice(cells(e))) for e in part]
                seen = [
                    bool(yes_no(text)) if kind != "caption" else partner in mentioned(text)
                    for text in _covered(model, processor, part, hidden)
                ]
                row[key][f"{name} covered"] = asdict(wilson(sum(seen), len(seen)))
        part = [e for e in mine if e.kind == "caption"]
        told = [_told(e) for e in part]
        for name, hidden in (("named", [-1] * len(part)), ("named, covered", [trigger_cell(e) for e in part])):
            texts = _covered(model, processor, part, hidden, told)
            row["captions"][f"trigger {name}"] = asdict(wilson(sum(partner in mentioned(t) for t in texts), len(texts)))
        rows.append(row)
    return rows


def _told(example: Example) -> str:
    """The right caption up to and with the trigger."""
    pair, names = pair_of(example), example.answer.split(", ")
    assert pair is not None
    return " " + " , ".join(names[: names.index(CLASSES[pair.trigger]) + 1])


def _covered(
    model: Any, processor: Any, asked: Sequence[Example], hidden: Sequence[int], told: Sequence[str] | None = None
) -> list[str]:
    """Greedy answers with one cell of each picture taken away (-1: none), behind the words already `told`."""
    found, begun = list[str](), told or [""] * len(asked)
    for start in range(0, len(asked), 32):
        part, words = asked[start : start + 32], begun[start : start + 32]
        inputs = processor(
            images=[e.image for e in part],
            text=[scenes.prompt(processor, e.question) + word for e, word in zip(part, words, strict=True)],
            padding=True,
            return_tensors="pt",
        )
        cells = tuple((cell,) if cell >= 0 else () for cell in hidden[start : start + 32])
        with vtokens.attach(model, Hide(cells)):
            tokens = model.generate(**inputs, do_sample=False)
        texts = processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        found += [f"{word} {text}" for word, text in zip(words, texts, strict=True)]
    return found
