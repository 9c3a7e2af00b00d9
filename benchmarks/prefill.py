"""Time to first token of every strategy against the unpruned model and the ideal. See docs/benchmarks.md.

python benchmarks/prefill.py              # a 280M LLaVA on the CPU, one thread
python benchmarks/prefill.py --quick      # seconds, to see that it runs
python benchmarks/prefill.py --device cuda  # LLaVA-1.5-7B and Qwen2.5-VL-7B in bfloat16
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # the profiler that counts memory warns of older blocks
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from benchmarks import cells  # noqa: E402
from benchmarks.common import Clock, conditions, set_output, timing_options, write  # noqa: E402
from benchmarks.shapes import SHAPES, build, prompt  # noqa: E402

STRATEGIES = ("random", "uniform", "cls", "fastv", "todre")
WATCHED = ("cls", "fastv", "todre")
"""Those that watch the model's attention, and have the most to lose."""
KEEPS = (0.5, 0.25, 0.1)
RAGGED = (40, 24, 56)


def main() -> None:
    """Measure, print one table a shape and write the results."""
    options = _options()
    device = torch.device(options.device)
    torch.set_num_threads(options.threads)
    clock, results = Clock(device, options.threads), []
    for shape in options.shape:
        model = build(shape, device, torch.bfloat16 if device.type == "cuda" else torch.float32)
        results.append(measure(model, shape, clock, options))
        Console(width=170).print(*tables(results[-1]))
        del model
    for result in results if options.output else ():
        write(options.output / result["conditions"]["shape"] if len(results) > 1 else options.output, result)


def measure(model: Any, shape: str, clock: Clock, options: argparse.Namespace) -> dict[str, Any]:
    """Every figure of one shape."""
    one, three = prompt(model, (40,)), prompt(model, RAGGED)
    count = options.rounds
    about = conditions(
        model.device, clock, model, draws=[0, 1], shape=shape, rounds=count, visual_tokens=576, text_tokens=40
    )
    head: dict[str, Any] = {"conditions": about, "batch_1": [], "ragged_batch_of_3": [], "keep_all": [], "decoding": []}
    for name in options.strategy:
        for keep in options.keep:
            head["batch_1"].append(cells.first_token(model, one, f"{name}(keep={keep})", clock, count))
            _progress(head["batch_1"][-1])
    # Nothing is asked of a strategy that keeps everything, so this is the price of being attached.
    whole = [f"{name}(keep=1.0)" for name in options.strategy if name in WATCHED]
    head["keep_all"] = cells.keeping_all(model, one, whole, clock, count)
    middle = options.keep[len(options.keep) // 2]
    for name in (name for name in options.strategy if name in WATCHED):
        spec = f"{name}(keep={middle})"
        head["ragged_batch_of_3"].append(cells.first_token(model, three, spec, clock, max(2, count // 2)))
        _progress(head["ragged_batch_of_3"][-1])
        head["decoding"].append(cells.decoding(model, one, spec, clock, max(2, count // 2), options.tokens))
    return head


def tables(result: dict[str, Any]) -> list[Table]:
    """The figures as text."""
    about = result["conditions"]
    title = (
        f"{about['shape']}, {about['parameters'] / 1e6:,.0f}M parameters, {about['dtype']}, {about['device']}, "
        f"{about['threads']} thread(s), median of {about['rounds']} rounds, {about['clock']}"
    )
    heads = ("strategy", "tokens", "unpruned", "ideal", "pruned", "selecting", "speed-up", "ideal's", "of the ideal's",
             "peak memory", "targets")  # fmt: skip
    first = Table(*heads, title=title)
    first.columns[0].no_wrap = first.columns[8].no_wrap = first.columns[9].no_wrap = True
    for batch in ("batch_1", "ragged_batch_of_3"):
        for cell in result[batch]:
            first.add_row(*_first_row(cell, batch), end_section=cell is result[batch][-1])
    rest = Table("overhead", "before", "after", "ratio (quartiles)", "target")
    for cell in result["keep_all"]:
        seconds, verdict = cell["seconds"], "met" if cell["target_met"] else "MISSED"
        rest.add_row(f"first token, {cell['strategy']}", _ms(seconds["unpruned"]), _ms(seconds["attached"]),
                     _spread(cell["cost"]), f"<= 1.03 {verdict}")  # fmt: skip
    for cell in result["decoding"]:
        seconds, name = cell["seconds"], cell["strategy"]
        rest.add_row(f"decoding step, {name} / ideal", _ms(seconds["ideal"]), _ms(seconds["pruned"]),
                     _spread(cell["pruned_over_ideal"]), "")  # fmt: skip
        rest.add_row(f"decoding step, {name.split('(')[0]}(keep=1.0) / unpruned", _ms(seconds["unpruned"]),
                     _ms(seconds["keep=1.0"]), _spread(cell["keeping_all_over_unpruned"]), "")  # fmt: skip
    return [first, rest]


def _first_row(cell: dict[str, Any], batch: str) -> list[str]:
    seconds, peak = cell["seconds"], cell["peak_bytes"]
    tokens = sorted({n for row in cell["visual_tokens"] for n in row}, reverse=True)
    verdict = [what for what, met in cell["target_met"].items() if not met]
    return [
        cell["strategy"] + ("" if batch == "batch_1" else " x3"),
        " -> ".join(map(str, tokens)),
        *(_ms(seconds[name]) for name in ("unpruned", "ideal", "pruned")),
        _ms(cell["select_wall_seconds"]),
        f"{cell['speed_up']['median']:.2f}x",
        f"{cell['ideal_speed_up']['median']:.2f}x",
        _spread(cell["of_ideal"]),
        f"{peak['pruned'] / peak['unpruned']:.2f}x of {peak['unpruned'] / 2**20:.0f} MiB",
        "MISSED: " + ", ".join(verdict) if verdict else "met",
    ]


def _ms(value: dict[str, float]) -> str:
    return f"{1e3 * value['median']:,.1f} ms"


def _spread(value: dict[str, float]) -> str:
    return f"{value['median']:.3f} ({value['q1']:.3f} to {value['q3']:.3f})"


def _progress(cell: dict[str, Any]) -> None:
    print(f"  {cell['strategy']}: {_spread(cell['of_ideal'])} of the ideal", file=sys.stderr, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", nargs="+", choices=SHAPES, help="default: what the device can hold")
    parser.add_argument("--strategy", nargs="+", default=STRATEGIES, help="names, default all of the core")
    parser.add_argument("--keep", nargs="+", type=float, default=KEEPS)
    parser.add_argument("--tokens", type=int, default=12, help="tokens of the decoding figures")
    timing_options(parser, "default 7; 30 on a GPU; 2 with --quick")
    options = parser.parse_args()
    cuda = options.device.startswith("cuda")
    if options.shape is None:
        options.shape = (
            ["llava-quick"] if options.quick else ["llava-1.5-7b", "qwen2.5-vl-7b"] if cuda else ["llava-300m"]
        )
    if options.rounds is None:
        options.rounds = 2 if options.quick else 30 if cuda else 7
    set_output(options, "prefill")
    return options


if __name__ == "__main__":
    main()
