"""Needle questions about long clips, by frames, strategy and keep: `python benchmarks/clips_needle.py --frames 512`.

    python benchmarks/clips_needle.py --frames 16 64 --specs none random evs todre --keeps 0.5 0.1
    python benchmarks/clips_needle.py --frames 512 --specs none evs --keeps 0.1 --questions 100

Every question is asked of all cells before the next one, so that cells share their questions whenever a run is stopped.
Replies and memory are kept in `--replies` as they come; another call goes on from there, adds its own cells, and writes
all that there is. Delete that folder when a strategy's code has changed. Strategies that ask nothing of the tower are
given the features that it made for the question once. `peak_bytes` is of one question and one new token, tower and
processor too, with nothing shared.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import asdict
from functools import partial, wraps
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

import vtokens  # noqa: E402
from benchmarks.common import Clock, conditions, peak_bytes, write  # noqa: E402
from vtokens import scenes  # noqa: E402
from vtokens.adapters import adapter_for  # noqa: E402
from vtokens.core.jsonlines import JsonLines, read_lines  # noqa: E402
from vtokens.engine.context import here  # noqa: E402
from vtokens.scenes import clips  # noqa: E402
from vtokens.scenes.evaluation import accuracy, encoded  # noqa: E402

RESULT = Path(__file__).parent / "results" / "clips-needle"
_LINE = 1 << 16
Cell = tuple[int, str, float]


class Features:
    """What the tower made of the question that is asked, for all who only want its output."""

    def __init__(self, model: Any) -> None:
        self._kind, self._kept = type(adapter_for(model).multimodal), None

    def forget(self) -> None:
        """The next question is another one."""
        self._kept = None

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Within, `get_video_features` answers from memory where nobody looks into the tower."""
        genuine = self._kind.get_video_features

        @wraps(genuine)
        def answered(module: Any, *args: Any, **kwargs: Any) -> Any:
            plan = getattr(here().tower, "plan", None)  # of the feature call under way; none where nothing is attached
            if plan and (plan.scored or plan.key_blocks or plan.at_encode or plan.at_pixels or plan.sensitivities):
                return genuine(module, *args, **kwargs)
            if self._kept is None:
                self._kept = genuine(module, *args, **kwargs)
            return copy.copy(self._kept)

        with mock.patch.object(self._kind, "get_video_features", answered):
            yield


def attached(model: Any, spec: str, keep: float) -> Any:
    """A context in which the cell's strategy is attached."""
    return nullcontext() if spec == "none" else vtokens.attach(model, spec, keep=keep)


def measure(model: Any, processor: Any, cells: list[Cell], options: argparse.Namespace, log: JsonLines) -> None:
    """Ask what has not been asked yet, question by question, and note each cell's memory."""
    there = {(*row["cell"], row["index"]) for row in rows(options.replies)}
    features, device = Features(model), model.device
    for frames in options.frames:
        asked = [cell for cell in cells if cell[0] == frames]
        drawn = clips.examples("test", options.questions, options.seed, ["needle"], frames)
        for index, example in [*enumerate(drawn)][options.first :]:
            features.forget()
            wanted = [cell for cell in asked if (*cell, index) not in there]
            batch = encoded(processor, [example]) if wanted else {}
            for cell in wanted:
                row: dict[str, Any] = {"cell": cell, "index": index, "answer": example.answer}
                with attached(model, *cell[1:]) as handle:
                    if index == 0:
                        row["peak_bytes"] = peak_bytes(
                            partial(scenes.answer, model, processor, [example], 1, 1), device
                        )
                    with features.shared():
                        tokens = model.generate(**batch, do_sample=False)
                    if handle is not None and index == 0:
                        report = handle.report()
                        row |= {"kv_bytes": report.kv_bytes, "kv_bytes_full": report.kv_bytes_full}
                text = processor.batch_decode(tokens[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)[0]
                right = scenes.score(text.strip(), example)
                log.put([row | {"text": text.strip(), "right": right}], "all rows before")
        print(f"{frames} frames: {len(drawn)} questions of {len(asked)} cells", flush=True)


def rows(folder: Path) -> list[dict[str, Any]]:
    """What is there already."""
    path = folder / "needle.jsonl"
    return list(read_lines(path, _LINE, json.loads, "is no reply ({}): delete the file")) if path.exists() else []


def _place(frames: int, spec: str, keep: float) -> tuple[bool, str, float, int]:
    """Where a cell's row stands: the unpruned model first."""
    return spec != "none", spec, -keep, frames


def table(found: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """A row for each cell: accuracy of all, and of those whose clip has a needle, with Wilson intervals."""
    cells: dict[Cell, list[dict[str, Any]]] = defaultdict(list)
    for one in found:
        frames, spec, keep = one["cell"]
        cells[frames, spec, keep].append(one)
    for (frames, spec, keep), own in sorted(cells.items(), key=lambda item: _place(*item[0])):
        memory = {name: one[name] for one in own for name in ("peak_bytes", "kv_bytes", "kv_bytes_full") if name in one}
        row = {"strategy": spec, "keep": keep, "frames": frames, "questions": len(own), **memory}
        for name, some in (("needle", own), ("named", [one for one in own if one["answer"] != "nothing"])):
            if some:
                row[name] = asdict(accuracy(sum(one["right"] for one in some), len(some)))
        yield row


def main() -> None:
    """Measure and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="scenes-qwen", help="an embedded model or a folder that sees videos")
    parser.add_argument("--frames", nargs="+", type=int, default=[16, 64, 128, 512])
    parser.add_argument("--specs", nargs="+", default=["none", "random", "uniform", "todre", "evs", "vidcom2"])
    parser.add_argument("--keeps", nargs="+", type=float, default=[0.5, 0.25, 0.1, 0.05])
    parser.add_argument("--questions", type=int, default=100, help="about clips of each length")
    parser.add_argument("--first", type=int, default=0, help="number of the first question, to share them out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--replies", type=Path, default=ROOT / "runs" / "needle")
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, processor = vtokens.load(options.model, strategy="none", dtype=torch.float32)
    model.eval()
    options.replies.mkdir(parents=True, exist_ok=True)
    commands = options.replies / "commands.txt"
    with commands.open("a", encoding="utf-8") as file:
        file.write(" ".join(["python", *sys.argv]) + "\n")
    told = conditions(
        model.device, Clock(model.device, 1), model, folder=options.model, seed=options.seed,
        commands=list(dict.fromkeys(commands.read_text(encoding="utf-8").splitlines())),
    )  # fmt: skip
    cells = [
        (frames, spec, keep)
        for frames in options.frames
        for spec in options.specs
        for keep in ([1.0] if spec == "none" else options.keeps)
    ]
    with closing(JsonLines(options.replies / "needle.jsonl")) as log:
        measure(model, processor, cells, options, log)
    write(options.output, {"conditions": told, "accuracy": list(table(rows(options.replies)))})


if __name__ == "__main__":
    main()
