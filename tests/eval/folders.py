"""Results folders as a sweep leaves them, in no time: answers and times are drawn, not asked; all else is genuine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vtokens import scenes
from vtokens.core.writing import line, write_json
from vtokens.eval import manifest, new_manifest, pictures, tables
from vtokens.eval.cells import Cell, cells
from vtokens.eval.journal import Answer
from vtokens.eval.score import Graded

SIDE = 12
"""Rows and columns of patches."""
METRICS = {
    "scenes_vqa": {"exact": True},
    "scenes_pope_random": {"accuracy": True, "yes_ratio": True},
    "scenes_caption": {"chair_s": False, "length": True, "exact": True},
}


def write(
    folder: Path,
    model: Any,
    strategies: Sequence[str] = ("none", "random", "cls", "fastv"),
    keeps: Sequence[float | int] = (0.5, 0.1),
    seeds: int = 2,
    tasks: Sequence[str] = ("scenes_vqa", "scenes_pope_random"),
    questions: int = 20,
    shown: int = 6,
    same: bool = False,
) -> Path:
    """Write a folder and return it.

    Args:
        model: whose name and weights the manifest tells.
        shown: how many questions of each task and seed have a picture.
        same: whether every seed asks the same questions.
    """
    wanted = cells(strategies, keeps, seeds)
    asked = {
        (task, seed): scenes.examples("test", n=questions, seed=0 if same else seed, kinds=_kinds(task))
        for task in tasks
        for seed in range(seeds)
    }
    facts = {
        task: {
            "samples": questions,
            "hash": {str(seed): f"{task}{0 if same else seed}" for seed in range(seeds)},
            "metrics": METRICS[task],
        }
        for task in tasks
    }
    settings = {"batch_size": 4, "max_new_tokens": 16, "limit": questions}
    content = new_manifest.build(model, "scenes-llava", facts, wanted, settings, "vtokens eval --out runs/drawn")
    folder.mkdir(parents=True)
    graded = [_grade(cell, task, asked[task, cell.seed]) for cell in wanted for task in tasks]
    (folder / "samples.jsonl").write_text("".join(line(row) for g in graded for row in g.rows()))
    results = tables.results(graded, content)
    (folder / "results.jsonl").write_text("".join(map(line, results)))
    write_json(folder / "summary.json", tables.summary(graded, results, content["tasks"]))
    write_json(folder / manifest.FILE, content)
    for (task, seed), examples in asked.items():
        for doc, example in enumerate(examples[:shown] if not (same and seed) else ()):
            place = pictures.path(folder, task, seed, doc)
            place.parent.mkdir(parents=True, exist_ok=True)
            example.image.save(place)
    return folder


def _kinds(task: str) -> list[str]:
    return {"scenes_vqa": ["where", "exist"], "scenes_caption": ["caption"]}.get(task, ["pope_random"])


def _grade(cell: Cell, task: str, examples: Sequence[scenes.Example]) -> Graded:
    rng = np.random.default_rng([len(cell.cell), cell.seed, *map(ord, cell.name + task), int(100 * (cell.keep or 1))])
    count = SIDE**2 if cell.keep is None else cell.keep if isinstance(cell.keep, int) else round(SIDE**2 * cell.keep)
    share = count / SIDE**2
    right = rng.random(len(examples)) < 0.4 + 0.55 * share
    answers = [
        _answer(task, doc, example.answer if right[doc] else "nothing at all", count, rng)
        for doc, example in enumerate(examples)
    ]
    wrong = [float(not hit) for hit in right]
    raw = {
        metric: wrong if metric == "chair_s" else [float(len(a.text.split())) for a in answers]
        if metric == "length" else [float(hit) for hit in right]
        for metric in METRICS[task]
    }  # fmt: skip
    values = {metric: float(np.mean(values)) for metric, values in raw.items()}
    judge = next((metric for metric in ("exact", "accuracy") if metric in raw), None)
    return Graded(
        cell, task, list(range(len(examples))), answers, [e.question for e in examples], [e.answer for e in examples],
        raw, values, dict.fromkeys(raw, lambda given: float(np.mean(given))), judge,
    )  # fmt: skip


def _answer(task: str, doc: int, text: str, count: int, rng: np.random.Generator) -> Answer:
    share, full = count / SIDE**2, 1_200_000
    encode, select, prefill, decode = rng.uniform(0.9, 1.1, 4) * (4e-3, 1e-4, 1e-3 + 9e-3 * share, 2e-3)
    return Answer(
        task=task, doc=doc, text=text, output_tokens=3, prompt_tokens=170, visual_tokens=SIDE**2,
        kept_tokens=float(count), flops=int(4e8 * (0.05 + 0.95 * share)), flops_full=int(4e8),
        kv_bytes=int(full * (0.1 + 0.9 * share)), kv_bytes_full=full, encode=encode, select=select,
        prefill=prefill, decode=decode, batch=4,
        kept=sorted(rng.choice(SIDE**2, count, replace=False).tolist()), grid=[SIDE, SIDE],
    )  # fmt: skip
