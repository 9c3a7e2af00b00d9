"""Labelled responses of the embedded model for the filter: captions and yes/no answers about scenes, kept on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import torch
from rich.progress import track

import vtokens
from vtokens import scenes
from vtokens.filter.calibrators.labels import label_scenes
from vtokens.filter.calibrators.records import LabelledResponse, read, write
from vtokens.filter.guarantees.setting import CalibrationSetting
from vtokens.filter.mentions import get_extractor
from vtokens.filter.signals import features, get_signals, parts_for
from vtokens.filter.trace import passes
from vtokens.filter.trace.offsets import encode_with_spans, token_spans
from vtokens.scenes.world import COLUMNS, NUMBERS, ROWS

CHUNK = 250  # responses a file
SEED = 1000
GIVEN = "given_"
ASKED = tuple(kind for kind in scenes.KINDS if kind not in ("caption", "exist"))  #: questions of a word or two
#: Captions, POPE's settings, both as somebody else might have written them, with errors put in by lot, and captions of
#: several sentences.
KINDS = (
    "caption", *scenes.POPE, "given_caption", "given_pope_random", *scenes.STORIES, *ASKED,
    *(f"{GIVEN}{kind}" for kind in ASKED),
)  # fmt: skip
DRAWS = range(SEED, SEED + len(KINDS))
"""The seeds of these kinds, one each."""
_TURNED = {"yes": "no", "no": "yes"}
_ANSWERS = {
    "where": tuple(f"{row} {column}" for row in ROWS for column in COLUMNS),
    "at": (*scenes.CLASSES, "nothing"),
    "colour": scenes.COLOURS,
    "shape": scenes.SHAPES,
    "count": NUMBERS[:7],
    "digit": NUMBERS,
}
_WRONG = 0.3  # share of the objects and answers of given responses that are made wrong


def collect(
    model: Any,
    processor: Any,
    spec: str,
    split: str,
    numbers: Mapping[str, int],
    signals: Sequence[str] | str,
    folder: Path,
    batch: int = 125,
) -> list[LabelledResponse]:
    """Responses under a strategy with their signals and exact labels, from `folder` as far as they are there.

    Raises ValueError for responses there that another model wrote, or of which other signals were taken.

    Args:
        numbers: how many of each kind (`KINDS`); every one is about a scene of its own, and a longer list begins with
            the shorter one.
        batch: how many are asked at a time, and lost at most by a run that is stopped.
    """
    records: list[LabelledResponse] = []
    names = {signal.name for signal in get_signals(signals)}
    for kind, n in numbers.items():
        # A seed of its own for each kind, or all kinds would show the same pictures.
        seed = SEED + KINDS.index(kind)
        place = folder / quote(f"{spec}@{split}-{kind}-{seed}", safe="()+=.,@")
        place.mkdir(parents=True, exist_ok=True)
        examples, found = (
            scenes.examples(split, n=n, seed=seed, kinds=[kind.removeprefix(GIVEN)]),
            list[LabelledResponse](),
        )
        with vtokens.attach(model, spec):
            wanted = _setting(model, kind.startswith(GIVEN)).meta.items()
        for start in track(range(0, n, CHUNK), description=place.name):
            part, path = examples[start : start + CHUNK], place / f"{start:06d}.jsonl"
            given = list(read(path)) if path.exists() else []
            for one in given:
                taken = {name.split(".")[0] for name in one.signals}
                if any(one.meta.get(name) != value for name, value in wanted) or (one.mentions and not names <= taken):
                    raise ValueError(
                        f"{path} holds responses of another model, or other signals: delete it, or give another folder"
                    )
            if len(given) < len(part):
                with vtokens.attach(model, spec):
                    for begin in range(len(given), len(part), batch):
                        given += ask(model, processor, part[begin : begin + batch], signals, kind.startswith(GIVEN))
                        write(path, given)
            found += given
        records += found[:n]
    return records


def edited(example: scenes.Example) -> str:
    """The right answer with errors: objects replaced by absent ones, half of them alike, and answers turned round."""
    rng = np.random.default_rng((SEED, example.seed, example.index))
    if example.answer in _TURNED:
        return _TURNED[example.answer] if rng.random() < _WRONG else example.answer
    if example.kind != "caption":
        others = [one for one in _ANSWERS[example.kind.partition("_")[0]] if one != example.answer]
        return others[int(rng.integers(len(others)))] if rng.random() < _WRONG else example.answer
    there = [thing.name for thing in example.scene.visible]
    named = []
    for name in there:
        absent = [other for other in scenes.CLASSES if other not in there]
        alike = [other for other in absent if set(other.split()) & set(name.split())]
        pool = alike if alike and rng.random() < 0.5 else absent
        named.append(pool[int(rng.integers(len(pool)))] if rng.random() < _WRONG else name)
    return ", ".join(named)


@torch.no_grad()
def ask(
    model: Any, processor: Any, examples: Sequence[scenes.Example], signals: Sequence[str] | str, given: bool = False
) -> list[LabelledResponse]:
    """Greedy answers of a batch, read while they were written; or given ones, read in one pass."""
    extractor, chosen = get_extractor("scenes"), get_signals(signals)
    setting = _setting(model, given)
    parts = parts_for(chosen, model.config.get_text_config().num_hidden_layers)
    images, prompts = [[e.image] for e in examples], [e.question for e in examples]
    if given:
        responses = [encode_with_spans(processor.tokenizer, edited(e)) for e in examples]
        traces = passes.score(model, processor, images, prompts, [ids for ids, _ in responses], parts)
    else:
        traces = passes.generate(model, processor, images, prompts, parts, do_sample=False)
    records = []
    for example, trace in zip(examples, traces, strict=True):
        text, spans = token_spans(processor.tokenizer, trace.ids.tolist())
        mentions = [mention.with_tokens(spans) for mention in extractor(text, example.question)]
        values = features(trace, mentions, chosen) if mentions else {}
        kind = f"{GIVEN if given else ''}{example.kind}"
        meta = {**setting.meta, "kind": kind, "truth": sorted(t.name for t in example.scene.visible)}
        meta["entropy"] = round(float(trace.entropy[0]), 6) if len(trace) else 0.0  # of the first token, at prefill
        image = f"{example.split}/{example.seed}/{example.index}/{example.scene.attempt}"
        labels = label_scenes(example, mentions)
        records.append(LabelledResponse(image, example.question, text, mentions, values, labels, meta))
    return records


def _setting(model: Any, given: bool) -> CalibrationSetting:
    """Under which responses of the model, with what is attached to it, come about."""
    return CalibrationSetting.of(model, prompts="scenes", extractor="scenes", decoding="given" if given else "greedy")
