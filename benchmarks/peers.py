"""Plain transformers, this library and kvpress on the same model and the same prompts, in one run: `make peers`.

python benchmarks/peers.py                      # accuracy on scenes, then times: benchmarks/results/peers-cpu
python benchmarks/peers.py --questions 22 --shape llava-quick --rounds 1 --output /tmp/peers     # does it run?

Accuracy is of scenes-llava on held-out questions; times and bytes are of a LLaVA of 279M with random weights. kvpress
takes transformers below 5.3 and runs in a process of its own with an overlay of packages (--overlay), which is
made the first time. All leave the same number of cache entries: those of the text, and of a share of the picture's.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

import torch  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

import vtokens  # noqa: E402
from benchmarks.asking import ask  # noqa: E402
from benchmarks.cells import Ticks  # noqa: E402
from benchmarks.common import Clock, conditions, peak_bytes, ratio, rounds, summary, write  # noqa: E402
from benchmarks.shapes import SHAPES, build, prompt  # noqa: E402
from vtokens import scenes  # noqa: E402
from vtokens.core.budget import budget  # noqa: E402
from vtokens.core.compat import returned_cache  # noqa: E402
from vtokens.core.prompts import encode_prompts, question_prompt  # noqa: E402
from vtokens.eval.metrics.intervals import wilson  # noqa: E402

PINS = ("kvpress==0.5.5", "transformers==5.2.0", "huggingface-hub==1.33.0", "tokenizers==0.22.2", "pandas==2.3.3",
        "cachetools==5.5.2", "fire==0.6.0", "termcolor==3.3.0", "typer-slim==0.24.0", "tzdata==2026.6")  # fmt: skip
"""What the overlay holds; everything else is this environment's."""
STRATEGIES = ("random", "cls", "fastv", "census")
KEEPS = (0.25, 0.1)
MODEL = "scenes-llava"
RESULT = ROOT / "benchmarks" / "results" / "peers-cpu"


def accuracy(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """A row a method and keep: right answers of scenes-llava, kvpress' from a process of its own."""
    model, processor = vtokens.load(MODEL, strategy="none")
    vtokens.detach(model)
    examples = scenes.examples("test", n=options.questions)
    encoded = [_encoded(processor, one) for one in examples]
    image = model.config.image_token_id
    visual = int((encoded[0]["input_ids"] == image).sum())
    where = int((encoded[0]["input_ids"][0] == image).nonzero()[-1]) + 1
    lengths: dict[int, list[int]] = defaultdict(list)
    for number, one in enumerate(encoded):
        lengths[one["input_ids"].shape[1]].append(number)
    parts = [numbers[at : at + 32] for numbers in lengths.values() for at in range(0, len(numbers), 32)]
    tensors = {
        f"{n}.{key}": torch.cat([encoded[i][key] for i in part])
        for n, part in enumerate(parts)
        for key in ("input_ids", "pixel_values")
    }
    save_file(tensors, folder / "prompts.safetensors")
    kept = {budget(visual, keep): keep for keep in options.keeps}
    job = {
        "model": kept_at(model, folder / MODEL), "where": where, "visual": visual, "kept": list(kept),
        "batches": [{"name": str(n), "numbers": part} for n, part in enumerate(parts)],
        "longest": model.generation_config.max_new_tokens, "end": model.generation_config.eos_token_id,
    }  # fmt: skip
    with ThreadPoolExecutor(1) as beside:  # kvpress answers in its own process meanwhile: nothing is timed here
        theirs = beside.submit(peer, "answers", job, folder, options.overlay)
        cells = [("none", 1.0), *((name, keep) for name in STRATEGIES for keep in options.keeps)]
        rows = []
        for name, keep in cells:
            found = ask(model, processor, name, examples, keep=None if name == "none" else keep)
            rows.append(_row("transformers" if name == "none" else "vtokens", name, keep, found.texts, examples))
    for row in theirs.result():
        texts = [text.strip() for text in processor.batch_decode(row["tokens"], skip_special_tokens=True)]
        plain = row["method"] == "none"
        library = "transformers (of kvpress)" if plain else "kvpress"
        rows.append(_row(library, row["method"], 1.0 if plain else kept[row["kept"]], texts, examples))
    return rows


def times(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """A row a method, at the smallest keep: seconds to the first token and of a step, cache and peak bytes."""
    device = torch.device("cpu")
    model, clock = build(options.shape, device, torch.float32), Clock(device, 1)
    batch = prompt(model, (40,))
    image = model.config.image_token_id
    visual = int((batch["input_ids"] == image).sum())
    where = int((batch["input_ids"][0] == image).nonzero()[-1]) + 1
    settings = {"do_sample": False, "max_new_tokens": options.steps + 1}

    def timed(spec: str | None) -> tuple[float, float]:
        ticks, begun = Ticks(clock), clock.now()
        with vtokens.attach(model, spec) if spec else torch.no_grad():
            model.generate(**batch, **settings, streamer=ticks)
        return ticks.at[1] - begun, statistics.mean(b - a for a, b in zip(ticks.at[1:-1], ticks.at[2:], strict=True))

    keep = min(options.keeps)
    cells = [("none", 1.0), *((name, keep) for name in STRATEGIES)]
    specs = {cell: None if cell[0] == "none" else f"{cell[0]}(keep={cell[1]})" for cell in cells}
    taken = rounds({str(cell): lambda s=spec: timed(s) for cell, spec in specs.items()}, options.rounds)
    unpruned, rows = [first for first, _ in taken[str(cells[0])]], []
    for cell, spec in specs.items():
        first, step = map(list, zip(*taken[str(cell)], strict=True))
        with vtokens.attach(model, spec) if spec else torch.no_grad():
            cache = returned_cache(model(**batch, use_cache=True))
            peak = peak_bytes(lambda: model.generate(**batch, do_sample=False, max_new_tokens=1), device)
        held = sum(one.nbytes for layer in cache.layers for one in (layer.keys, layer.values))
        row = {"library": "vtokens" if spec else "transformers", "method": cell[0], "keep": cell[1]}
        row |= {"seconds": summary(first), "step_seconds": summary(step), "over_plain": ratio(first, unpruned)}
        rows.append(row | {"kv_bytes": held, "peak_bytes": peak})
    save_file({key: batch[key].contiguous() for key in ("input_ids", "pixel_values")}, folder / "timed.safetensors")
    job = {
        "model": kept_at(model, folder / options.shape), "where": where, "visual": visual,
        "kept": [budget(visual, keep)], "steps": options.steps, "rounds": options.rounds,
    }  # fmt: skip
    for row in peer("times", job, folder, options.overlay):
        plain = row["method"] == "none"
        told = {"library": "transformers (of kvpress)" if plain else "kvpress", "method": row.pop("method")}
        rows.append(told | {"keep": 1.0 if plain else keep} | {key: row[key] for key in row if key != "kept"})
    return rows


def peer(part: str, job: dict[str, Any], folder: Path, overlay: Path) -> list[dict[str, Any]]:
    """What benchmarks/peers_kvpress.py gives, in a process whose packages are those of the overlay."""
    (folder / "job.json").write_text(json.dumps({part: job}), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(overlay), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, ROOT / "benchmarks" / "peers_kvpress.py", folder], check=True, env=environment)
    found: list[dict[str, Any]] = json.loads((folder / f"{part}.json").read_text(encoding="utf-8"))
    return found


def kept_at(model: Any, place: Path) -> str:
    """The folder with a model's configuration and weights, by the names that it has in memory."""
    model.config.save_pretrained(place)
    save_file({name: part.contiguous() for name, part in model.state_dict().items()}, place / "weights.safetensors")
    return str(place)


def _encoded(processor: Any, example: scenes.Example) -> dict[str, torch.Tensor]:
    return dict(encode_prompts(processor, [question_prompt(processor, example.question)], [[example.image]]))


def _row(
    library: str, method: str, keep: float, texts: Sequence[str], examples: Sequence[scenes.Example]
) -> dict[str, Any]:
    right = [bool(scenes.score(text, example)) for text, example in zip(texts, examples, strict=True)]
    print(f"{library} {method} {keep}: {sum(right)} of {len(right)}", flush=True)
    return {"library": library, "method": method, "keep": keep, "accuracy": asdict(wilson(sum(right), len(right)))}


def main() -> None:
    """Ask, time, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=264, help="of scenes, all kinds in turn (%(default)s)")
    parser.add_argument("--keeps", nargs="+", type=float, default=list(KEEPS), metavar="SHARE")
    parser.add_argument("--shape", choices=[name for name in SHAPES if "llava" in name], default="llava-300m")
    parser.add_argument("--rounds", type=int, default=2, help="that count (%(default)s)")
    parser.add_argument("--steps", type=int, default=8, help="tokens after the first that are timed (%(default)s)")
    parser.add_argument("--overlay", type=Path, default=ROOT / ".venv" / "kvpress", help="(%(default)s)")
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args()
    from matrix import overlay

    overlay(options.overlay, list(PINS))
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place, torch.no_grad():
        folder, device = Path(place), torch.device("cpu")
        pins = dict(one.split("==") for one in PINS[:2])
        with torch.device("meta"):
            meta = build(options.shape, torch.device("meta"), torch.float32)
        about = conditions(
            device, Clock(device, 1), meta, draws=[0, 1], answers_of=MODEL, shape=options.shape,
            questions=options.questions, rounds=options.rounds, steps=options.steps, kvpress=pins,
        )  # fmt: skip
        result = {"conditions": about, "accuracy": accuracy(options, folder), "times": times(options, folder)}
    write(options.output, result)
    print(f"written to {options.output}")


if __name__ == "__main__":
    main()
