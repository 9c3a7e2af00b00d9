"""What merging in the vision tower saves there, before the first token, per decoded token and in the KV cache.

python benchmarks/merging.py                  # a 279M LLaVA on the CPU, one thread
python benchmarks/merging.py --quick          # a small shape, two rounds: does it run?
python benchmarks/merging.py --device cuda    # LLaVA-1.5-7B in bfloat16

Weights are random and pictures noise: thresholds are calibrated on such pictures first, so that the token counts are
those of the targets. See docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # the profiler that counts memory warns of older blocks
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

import vtokens  # noqa: E402
from benchmarks.cells import Ticks  # noqa: E402
from benchmarks.common import Clock, conditions, peak_bytes, ratio, rounds, summary, write  # noqa: E402
from benchmarks.shapes import SHAPES, build, prompt  # noqa: E402
from vtokens.adapters import adapter_for  # noqa: E402
from vtokens.calibrate.thresholds import measure  # noqa: E402
from vtokens.strategies.merge.dymu import Dymu  # noqa: E402
from vtokens.tables.thresholds import NAMED  # noqa: E402

PLAIN = "no merging"
PARTS = ("tower", "first token", "decoding step")


def main() -> None:
    """Calibrate, measure, print a table, write the results."""
    options = _options()
    device = torch.device(options.device)
    torch.set_num_threads(options.threads)
    clock = Clock(device, options.threads)
    model: Any = build(options.preset, device, torch.bfloat16 if device.type == "cuda" else torch.float32)
    about = conditions(
        device, clock, model, draws=[0, 1], shape=options.preset, rounds=options.rounds, tokens=options.tokens
    )
    batch = prompt(model, (options.text,))
    pixels = torch.randn(8, *batch["pixel_values"].shape[1:], device=device, dtype=model.dtype)
    pixels = torch.cat([batch["pixel_values"], pixels])  # the picture that is timed among those calibrated on
    least = 0.5 ** (adapter_for(model).facts.merge_blocks or 0)
    targets = {name: share for name, share in NAMED.items() if share > least}
    table = measure(model, lambda: [{"pixel_values": pixels}], list(targets.values()), "noise")
    specs = {
        f"{name}{'' if unmerge else ', not unmerged'}": Dymu(setting.thresholds, unmerge=unmerge)
        for name, setting in zip(targets, table.settings, strict=True)
        for unmerge in (True, False)
    }
    result = {"conditions": about, "rows": cells(model, batch, specs, clock, options)}
    Console(width=150).print(show(result))
    if options.output:
        write(options.output, result)


def cells(
    model: Any, batch: dict[str, torch.Tensor], specs: dict[str, Dymu], clock: Clock, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """A row for the plain model and each setting, all timed in the same rounds."""
    plain = partial(model.generate, **batch, max_new_tokens=options.tokens)

    def timed() -> dict[str, float]:
        with torch.no_grad():
            tower = clock.time(lambda: model.model.get_image_features(pixel_values=batch["pixel_values"]))
        ticks = Ticks(clock)
        begin = clock.now()
        plain(streamer=ticks)
        return dict(zip(PARTS, (tower, ticks.at[1] - begin, ticks.per_token), strict=True))

    def attached(spec: Dymu | None, run: Callable[[], Any]) -> Any:
        if spec is None:
            return run()
        with vtokens.attach(model, spec):
            return run()

    runs = {name: partial(attached, spec, timed) for name, spec in {PLAIN: None, **specs}.items()}
    seconds = rounds(runs, options.rounds)
    rows = []
    for name, spec in {PLAIN: None, **specs}.items():
        with vtokens.attach(model, spec) as handle:
            with torch.no_grad():
                model(**batch)
            report = handle.report()
        parts = {part: [found[part] for found in seconds[name]] for part in PARTS}
        full = {part: [found[part] for found in seconds[PLAIN]] for part in PARTS}
        rows.append(
            {
                "run": name,
                "thresholds": None if spec is None else spec.thresholds,
                "visual_tokens": report.samples[0].average_tokens,
                "kv_bytes": report.kv_bytes,
                "kv_bytes_full": report.kv_bytes_full,
                "prefill_flops": report.flops,
                "prefill_flops_full": report.flops_full,
                "seconds": {part: summary(values) for part, values in parts.items()},
                "over_plain": {part: ratio(values, full[part]) for part, values in parts.items()},
                "peak_bytes": attached(spec, partial(peak_bytes, plain, model.device)),
            }
        )
    return rows


def show(result: dict[str, Any]) -> Table:
    """The figures as text."""
    about = result["conditions"]
    out = Table(
        "run", "tokens", *(f"{part} (over plain)" for part in PARTS), "prefill FLOPs", "KV bytes", "peak memory",
        title=f"{about['shape']}, {about['parameters'] / 1e6:,.0f}M parameters, {about['dtype']}, {about['device']}, "
        f"{about['threads']} thread(s), median of {about['rounds']} rounds, {about['clock']}",
    )  # fmt: skip
    for row in result["rows"]:
        times = [
            f"{1e3 * row['seconds'][part]['median']:,.1f} ms ({row['over_plain'][part]['median']:.2f})"
            for part in PARTS
        ]
        out.add_row(
            row["run"], f"{row['visual_tokens']:.0f}", *times,
            f"{row['prefill_flops'] / row['prefill_flops_full']:.2f}", f"{row['kv_bytes'] / row['kv_bytes_full']:.2f}",
            f"{row['peak_bytes'] / 2**20:,.0f} MiB",
        )  # fmt: skip
    return out


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--preset", choices=[name for name in SHAPES if "llava" in name], help="default by device")
    parser.add_argument("--text", type=int, default=40, help="text tokens of the prompt (%(default)s)")
    parser.add_argument("--tokens", type=int, default=17, help="tokens to generate (%(default)s)")
    parser.add_argument("--rounds", type=int, default=9, help="(%(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="(%(default)s)")
    parser.add_argument("--output", type=Path, help="default: results/merging-cpu or -cuda")
    parser.add_argument("--quick", action="store_true", help="a small shape, two rounds, nothing written")
    options = parser.parse_args()
    device = torch.device(options.device).type
    options.preset = options.preset or ("llava-1.5-7b" if device == "cuda" else "llava-300m")
    if options.quick:
        options.preset, options.rounds, options.tokens = "llava-quick", 2, 5
    elif options.output is None:
        options.output = ROOT / "benchmarks" / "results" / f"merging-{device}"
    return options


if __name__ == "__main__":
    main()
