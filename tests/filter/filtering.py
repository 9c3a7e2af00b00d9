"""A small genuine caption data set on scenes, filtered here or in a process that can be killed."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path
from typing import Any

import torch

from vtokens import scenes
from vtokens.filter.datasets.dataset import alone, filter_dataset
from vtokens.filter.datasets.worker import Worker
from vtokens.filter.filter import HallucinationFilter

PROMPT = "Describe the image."
SETTINGS = {"action": "redact", "threshold": 0.9}
PRELOAD = [
    __name__,
    "transformers.models.clip.modeling_clip",
    "transformers.models.llama.modeling_llama",
    "transformers.models.llava.modeling_llava",
    "transformers.models.llava.processing_llava",
]


def data_set(folder: Path, rows: int = 24) -> Path:
    """A folder with `rows` pictures and captions.jsonl; every second caption names something that is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for i, example in enumerate(scenes.examples("decorrelated", n=rows, kinds=["caption"])):
        example.image.save(folder / f"{i}.png")
        there = {thing.name for thing in example.scene.visible}
        absent = next(name for name in scenes.CLASSES if name not in there)
        caption = example.answer + (f", {absent}" if i % 2 else "")
        lines.append(
            json.dumps({"id": f"row {i}", "image": f"{i}.png", "caption": caption, "source": {"split": "train"}})
        )
    (folder / "captions.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return folder / "captions.jsonl"


def made() -> HallucinationFilter:
    """The filter of the embedded model, without calibration."""
    return HallucinationFilter.from_pretrained("scenes-llava", extractor="scenes", calibrator=None)


def filtered(source: Path, output: Path, hf: Any = None, **options: Any) -> Any:
    """Filter a data set here."""
    chosen = {**SETTINGS, **{name: options.pop(name) for name in ("action", "threshold", "risk") if name in options}}
    work = options.pop("work", None) or alone(lambda: Worker(hf or made(), source.parent, **chosen))
    return filter_dataset(source, output, work, chosen, prompt=PROMPT, **options)


def started(source: Path, output: Path, **options: Any) -> multiprocessing.process.BaseProcess:
    """The same in a process of its own, one row after the other."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    process = context.Process(target=_child, args=(source, output, options))
    process.start()
    return process


def _child(source: Path, output: Path, options: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    filtered(source, output, batch_size=1, **options)


def lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a file, () if it is not there."""
    return [json.loads(text) for text in path.read_text().splitlines()] if path.exists() else []
