"""`vtokens eval`: strategies compared on lmms-eval tasks."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from statistics import geometric_mean
from typing import Any

from vtokens.cli.options import add_placement, keeps, listed, whole
from vtokens.cli.output import cell, console, say
from vtokens.core.errors import shorten

_EXAMPLES = """examples:
  vtokens eval --tasks scenes_vqa,scenes_pope --strategies none,random,fastv,cls --keep 0.5,0.25,0.1 --out runs/first
  vtokens eval --model llava-hf/llava-1.5-7b-hf --tasks pope --strategies "none,fastv(layer=3)" --keep 64 --limit 500 \\
      --dtype bfloat16 --batch-size 16 --out runs/pope
  vtokens eval --tasks scenes_vqa --strategies none,cls --keep 0.25 --recipe none,crop --out runs/looked
  torchrun --nproc-per-node 2 -m vtokens eval --tasks scenes_vqa --strategies none,cls --keep 0.25 --out runs/two

Interrupted, even killed, it goes on where it was when the same command is run again. A strategy with its keep written
out, such as "todre(keep=0.1)+cls(keep=0.5)", is one cell whatever --keep says. `vtokens report DIR` draws the results.
"""


def add_to(commands: Any) -> None:
    """Add the command."""
    command = commands.add_parser(
        "eval",
        help="compare strategies on lmms-eval tasks",
        description="Ask a model all questions of some tasks under every strategy, keep and seed, and measure what "
        "each costs.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("--model", default="scenes-llava", help="embedded model, folder or hub id (%(default)s)")
    command.add_argument("--tasks", required=True, type=listed, metavar="A,B", help="tasks of vtokens or lmms-eval")
    command.add_argument("--strategies", required=True, metavar="A,B", help='e.g. "none,random,fastv(layer=3)"')
    command.add_argument(
        "--keep",
        default=(),
        type=keeps,
        metavar="K,L",
        help="shares such as 0.25, or counts such as 64 (each strategy's own)",
    )
    command.add_argument("--seeds", type=whole(), default=1, metavar="N", help="seeds 0 to N-1 (%(default)s)")
    command.add_argument(
        "--recipe",
        default="none",
        metavar="A,B",
        help="ways to ask under every strategy: none, crop, ... (docs/recipes.md; %(default)s)",
    )
    command.add_argument("--out", required=True, metavar="DIR", help="a new folder, or one of the same sweep")
    command.add_argument("--limit", type=whole(), metavar="N", help="the most documents of each task")
    command.add_argument("--batch-size", type=whole(), default=8, metavar="B", help="(%(default)s)")
    command.add_argument(
        "--max-new-tokens", type=whole(), default=64, metavar="N", help="where a task sets none (%(default)s)"
    )
    add_placement(command, device=None)
    command.add_argument("--attn-implementation", metavar="NAME", help="eager, sdpa, flash_attention_2, ...")
    command.add_argument("--include-path", action="append", default=[], metavar="DIR", help="further lmms-eval tasks")
    command.set_defaults(run=_eval)


def _eval(options: argparse.Namespace) -> None:
    if os.path.exists(options.out) and not os.path.isdir(options.out):
        raise ValueError(f"--out {shorten(options.out)} is a file: give a new folder, or one of the same sweep")

    from vtokens.eval import sweep
    from vtokens.eval.cells import split

    outcome = sweep.run(
        options.model,
        options.tasks,
        split(options.strategies),
        options.keep,
        options.seeds,
        options.out,
        limit=options.limit,
        batch_size=options.batch_size,
        max_new_tokens=options.max_new_tokens,
        device=options.device,
        dtype=options.dtype,
        attn_implementation=options.attn_implementation,
        include=options.include_path,
        recipes=split(options.recipe),
        command=shlex.join(["vtokens", *_arguments()]),
    )
    if outcome is None:  # a process other than the first
        return
    _print(outcome)
    if outcome.unknown:
        some = ", ".join(outcome.unknown[:5]) + (", ..." if len(outcome.unknown) > 5 else "")
        say(f"{len(outcome.unknown)} of {len(outcome.results)} results are no number: {some}", error=True)
    say(f"results: {outcome.folder}")


def _arguments() -> list[str]:
    return sys.argv[1:] if sys.argv[1:2] == ["eval"] else ["eval", *sys.argv[1:]]


def _print(outcome: Any) -> None:
    """One line per strategy, keep and task: its first metric, and what it cost."""
    from rich.table import Table

    costs: dict[tuple[Any, ...], list[Any]] = {}
    for row in outcome.results:
        costs.setdefault((row["name"], repr(row["keep"]), row["task"]), []).append(row)
    table = Table()
    table.add_column("strategy")
    for name in ("keep", "task", "metric", r"value \[95% CI]", "tokens", "first token"):
        table.add_column(name, justify="left" if name in ("task", "metric") else "right")
    seen = set()
    for row in outcome.summary:
        key = (row["name"], repr(row["keep"]), row["task"])  # 1 is a count, and 1.0 a share
        if key in seen:
            continue
        seen.add(key)
        rows = costs[key]
        ups = [r["speedup"] for r in rows if r["speedup"] is not None]
        table.add_row(
            cell(row["name"]),
            "" if row["keep"] is None else f"{row['keep']}",
            cell(row["task"]),
            cell(row["metric"]),
            _figure(row),
            f"{sum(r['kept_tokens'] for r in rows) / len(rows):.1f}",
            f"{geometric_mean(ups):.2f}x" if ups else "",
        )
    console(width=116).print(table)


def _figure(row: Any) -> str:
    if row["value"] is None:
        return "no number"
    if row["low"] is None:
        return f"{row['value']:.3f}"
    return f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
