"""`vtokens demo`: every strategy on the embedded model, one table and one picture."""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vtokens.cli.options import SEEDS, check_file, check_folder, whole
from vtokens.cli.output import console, say
from vtokens.core.prompts import encode_prompts, question_prompt
from vtokens.core.writing import write_picture

_SPECS = ("random", "uniform", "cls", "fastv", "todre")
_KEEPS = (0.5, 0.25, 0.1)
_AT_ONCE = 16  # questions, where nothing is timed


@dataclass(frozen=True)
class Size:
    """How much is asked and timed unless the user says otherwise: questions, rows of a timed batch, rounds."""

    questions: int
    batch: int
    rounds: int


_SMALL, _LARGE = Size(220, 16, 3), Size(44, 2, 1)
_MANY = 50_000_000  # parameters, from which on the smaller table takes minutes too


@dataclass(frozen=True)
class DemoRow:
    """One line of the table; times are medians of paired ratios to the unpruned model."""

    strategy: str
    keep: float
    tokens: float
    accuracy: Any
    gflops: float
    kv_bytes: float
    prefill: float
    total: float


def add_to(commands: Any) -> None:
    """Add the command."""
    command = commands.add_parser(
        "demo",
        help="compare the strategies on the embedded model",
        description="Answer questions about held-out scenes at full length and under each strategy, print what each "
        "costs and how often it is right, and draw which patches each kept.",
        epilog="examples:\n  vtokens demo\n  vtokens demo --questions 1100 --out runs/demo\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("--model", default="scenes-llava", help="an embedded model (%(default)s)")
    command.add_argument(
        "--questions", type=whole(1, 100_000), metavar="N",
        help=f"held-out questions ({_SMALL.questions}; {_LARGE.questions} from 50M parameters on)",
    )  # fmt: skip
    command.add_argument("--seed", type=whole(0, SEEDS), default=0, help="which held-out questions (%(default)s)")
    command.add_argument(
        "--batch-size", type=whole(), metavar="B", help=f"rows that are timed ({_SMALL.batch}, or {_LARGE.batch})"
    )
    command.add_argument("--out", default="demo", metavar="DIR", help="where the picture goes (%(default)s)")
    command.set_defaults(run=_demo, begin=_begin)


def _begin(options: argparse.Namespace) -> None:
    """The first word, before anything is imported that takes seconds; in a pipe there is none."""
    if sys.stderr is not None and sys.stderr.isatty():
        say(f"loading {options.model}; the table takes a minute or more", error=True)


def _demo(options: argparse.Namespace) -> None:
    import torch
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    import vtokens
    from vtokens import scenes

    picture = Path(options.out) / "kept.png"
    check_folder(options.out, "--out")
    check_file(picture, "--out")
    # A model this small gains nothing from more threads, and times on one thread can be compared.
    torch.set_num_threads(1)
    model, processor = vtokens.load(options.model, strategy="none")
    model.eval()
    usual = _LARGE if sum(p.numel() for p in model.parameters()) > _MANY else _SMALL
    size = options.batch_size or usual.batch
    questions = scenes.examples("test", n=options.questions or usual.questions, seed=options.seed)
    batch = _batch(processor, questions[:size])
    cells = [("none", 1.0), *((spec, keep) for spec in _SPECS for keep in _KEEPS)]
    screen, rows = console(stderr=True), []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as bar:
        task = bar.add_task("", total=len(cells))
        for spec, keep in cells:
            bar.update(task, description=f"asking {len(questions)} questions under {spec}, keep {keep:g}")
            rows.append(_row(model, processor, questions, batch, spec, keep, max(size, _AT_ONCE), usual.rounds))
            bar.advance(task)
    console(width=116).print(_table(rows, options.model, len(questions), size))
    write_picture(picture, kept_picture(model, processor, _busy(questions), _SPECS, _KEEPS))
    say(f"which patches each strategy kept: {picture}")


def _busy(questions: Sequence[Any]) -> Any:
    """The first question that has a short answer and a scene with enough in it to look at."""
    short = [q for q in questions if q.kind in ("where", "at", "colour_at", "colour_of", "shape_of")] or questions
    return max(short, key=lambda q: min(len(q.scene.visible), 5))


def _batch(processor: Any, questions: Sequence[Any]) -> Any:
    texts = [question_prompt(processor, q.question) for q in questions]
    return encode_prompts(processor, texts, [[q.image] for q in questions])


def _row(
    model: Any, processor: Any, questions: Sequence[Any], batch: Any, spec: str, keep: float, batch_size: int,
    rounds: int,
) -> DemoRow:  # fmt: skip
    import vtokens
    from vtokens import scenes

    with vtokens.attach(model, spec, None if spec == "none" else keep) as handle:
        accuracy = scenes.evaluate(model, processor, questions, batch_size)["overall"]
        _generate(model, batch, 1)
        report = handle.report()
    tokens = statistics.fmean(sample.average_tokens for sample in report.samples)
    prefill = _paired(model, batch, spec, keep, 1, rounds)
    total = _paired(model, batch, spec, keep, 24, rounds)
    samples = len(report.samples)
    return DemoRow(
        spec, keep, tokens, accuracy, report.flops / samples / 1e9, report.kv_bytes / samples, prefill, total
    )


def _paired(model: Any, batch: Any, spec: str, keep: float, new_tokens: int, rounds: int) -> float:
    """Median over rounds of (time with the strategy) / (time without), measured back to back."""
    import vtokens

    if spec == "none":
        return 1.0
    ratios = []
    for _ in range(rounds + 1):
        plain = _generate(model, batch, new_tokens)
        with vtokens.attach(model, spec, keep):
            ratios.append(_generate(model, batch, new_tokens) / plain)
    return statistics.median(ratios[1:])  # the first round warms up


def _generate(model: Any, batch: Any, new_tokens: int) -> float:
    start = time.perf_counter()
    # A fixed number of tokens, so that a shorter answer does not pass for speed.
    model.generate(**batch, do_sample=False, min_new_tokens=new_tokens, max_new_tokens=new_tokens)
    return time.perf_counter() - start


def _table(rows: Sequence[DemoRow], model: str, questions: int, batch_size: int) -> Any:
    from rich.table import Table

    title = (
        f"{model}: {questions} held-out questions; times relative to no pruning, batches of {batch_size}, one thread"
    )
    table = Table(title=title, title_justify="left")
    table.add_column("strategy")
    for name in (
        "keep",
        "tokens/layer",
        r"accuracy \[95% CI]",
        "prefill GFLOPs",
        "KV kB",
        "prefill time",
        "total time",
    ):
        table.add_column(name, justify="right")
    for number, row in enumerate(rows):
        a = row.accuracy
        last = number + 1 == len(rows) or rows[number + 1].strategy != row.strategy
        table.add_row(
            row.strategy,
            f"{row.keep:g}",
            f"{row.tokens:.1f}",
            f"{a.share:.3f} [{a.low:.3f}, {a.high:.3f}]",
            f"{row.gflops:.3f}",
            f"{row.kv_bytes / 1e3:.0f}",
            f"{row.prefill:.2f}",
            f"{row.total:.2f}",
            end_section=last,
        )
    return table


def kept_picture(model: Any, processor: Any, question: Any, specs: Sequence[str], keeps: Sequence[float]) -> Any:
    """One scene, a row per keep and a column per strategy: dropped patches dark (a PIL image)."""
    import io

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    from vtokens.core.overlay import seen_image

    figure = Figure(figsize=(2.1 * (len(specs) + 1), 2.35 * len(keeps) + 0.7), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(keeps), len(specs) + 1, squeeze=False)
    seen, batch = seen_image(processor, question.image), _batch(processor, [question])
    for line, keep in zip(axes, keeps, strict=True):
        line[0].imshow(seen.resize((480, 480), Image.Resampling.NEAREST))
        line[0].set_title("what the model sees" if keep == keeps[0] else "", fontsize=9)
        for axis, spec in zip(line[1:], specs, strict=True):
            shown, tokens, answer = kept(model, processor, seen, batch, spec, keep)
            axis.imshow(shown)
            axis.set_title(f"{spec}, keep {keep:g}\n{tokens:.0f} tokens/layer: {answer!r}", fontsize=8)
    for axis in axes.flat:
        axis.set_axis_off()
    figure.suptitle(f"{question.question!r}: the right answer is {question.answer!r}", fontsize=11)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110)
    return Image.open(buffer).convert("RGB")


def kept(model: Any, processor: Any, seen: Any, batch: Any, spec: str, keep: float) -> tuple[Any, float, str]:
    """What a strategy keeps of a scene (a PIL image), its visual tokens a layer, and what the model answers."""
    import vtokens
    from vtokens.core.overlay import overlay

    with vtokens.attach(model, spec, keep) as handle:
        tokens = model.generate(**batch, do_sample=False)
        sample = handle.report().samples[0]
    answer = processor.batch_decode(tokens[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)[0]
    return overlay(seen, sample.pictures[0]), sample.average_tokens, answer.strip()
