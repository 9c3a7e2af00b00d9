"""Labelled responses of the embedded model for the filter: captions and yes/no answers about scenes, kept on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch
from rich.progress import track

import vtokens
from vtokens import scenes
from vtokens.filter import passes
from vtokens.filter.labels import label_scenes
from vtokens.filter.mentions import get_extractor
from vtokens.filter.offsets import token_spans
from vtokens.filter.records import Record, read, write
from vtokens.filter.setting import Setting
from vtokens.filter.signals import features, get_signals, parts_for

CHUNK = 250  # responses a file; a run that was stopped loses one at most


@dataclass(frozen=True)
class Asked:
    """What to ask: `captions` and yes/no `questions` in each of POPE's three settings, scenes drawn from `seed` on."""

    split: str
    captions: int
    questions: int
    seed: int

    def examples(self) -> list[scenes.Example]:
        """Captions first, then questions by setting; every one about a scene of its own."""
        numbers = {"caption": self.captions, **dict.fromkeys(scenes.POPE, self.questions)}
        found = []
        for turn, (kind, n) in enumerate(numbers.items()):
            # A seed of its own for each kind, or all kinds would show the same pictures.
            found += scenes.examples(self.split, n=n, seed=self.seed + turn, kinds=[kind]) if n else []
        return found


def collect(
    model: Any, processor: Any, spec: str, asked: Asked, signals: Sequence[str] | str, folder: Path, batch: int = 25
) -> list[Record]:
    """Responses under a strategy with their signals and exact labels, from `folder` as far as they are there."""
    place = folder / quote(f"{spec}@{asked.split}-{asked.seed}-{asked.captions}-{asked.questions}", safe="()+=.,@")
    place.mkdir(parents=True, exist_ok=True)
    examples, records = asked.examples(), list[Record]()
    for start in track(range(0, len(examples), CHUNK), description=place.name):
        path = place / f"{start:06d}.jsonl"
        part = examples[start : start + CHUNK]
        if not path.exists():
            with vtokens.attach(model, spec):
                found = [
                    record
                    for begin in range(0, len(part), batch)
                    for record in ask(model, processor, part[begin : begin + batch], signals)
                ]
            write(path, found)
        records += read(path)
    return records


@torch.no_grad()
def ask(model: Any, processor: Any, examples: Sequence[scenes.Example], signals: Sequence[str] | str) -> list[Record]:
    """Greedy answers of a batch, read while they were written."""
    extractor, chosen = get_extractor("scenes"), get_signals(signals)
    setting = Setting.of(model, prompts="scenes", extractor="scenes")
    depth = model.config.get_text_config().num_hidden_layers
    images, prompts = [[e.image] for e in examples], [e.question for e in examples]
    traces = passes.generate(model, processor, images, prompts, parts_for(chosen, depth), do_sample=False)
    records = []
    for example, trace in zip(examples, traces, strict=True):
        text, spans = token_spans(processor.tokenizer, trace.ids.tolist())
        mentions = [mention.with_tokens(spans) for mention in extractor(text, example.question)]
        values = features(trace, mentions, chosen) if mentions else {}
        meta = {**setting.meta, "kind": example.kind, "truth": sorted(t.name for t in example.scene.visible)}
        image = f"{example.split}/{example.seed}/{example.index}/{example.scene.attempt}"
        labels = label_scenes(example, mentions)
        records.append(Record(image, example.question, text, mentions, values, labels, meta))
    return records
