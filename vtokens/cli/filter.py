"""`vtokens filter`: a caption data set without what its images do not support."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtokens import __version__
from vtokens.cli import fit
from vtokens.cli.check import add_filter_options, make_filter
from vtokens.cli.options import whole
from vtokens.cli.output import console, note, say
from vtokens.core.reading import read_text
from vtokens.filter.datasets.rows import digest
from vtokens.filter.mentions import extractors

if TYPE_CHECKING:
    from vtokens.filter.datasets.output_log import Tally
    from vtokens.filter.datasets.worker import Worker

_EXAMPLES = """examples:
  vtokens filter --input captions.jsonl --images photos --output checked.jsonl --threshold 0.8
  vtokens filter --input captions.jsonl --images photos --output clean.jsonl --action redact --risk 0.1 \\
      --model llava-hf/llava-1.5-7b-hf --filter llava-filter.json --device cuda --dtype bfloat16
  vtokens filter --input captions.jsonl --images /data/photos --output checked.jsonl --ray auto --workers 8

A row of the input is {"image": "a.jpg", "caption": "A dog."}, with "prompt" and "id" if it likes; "response" or "text"
may stand for "caption". Rows come out with a field "filter" that says what was found; those that cannot be filtered go
to <output>.rejected.jsonl with the reason. Interrupted, even killed, the same command goes on where it was.

exit code: 0, 2 after an error, 3 if no row says anything that could be judged
"""


def add_to(commands: Any) -> None:
    """Add the command."""
    command = commands.add_parser(
        "filter",
        help="filter a caption data set",
        description="Check every caption of a data set, and mark or drop what its image does not support.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    fit.add_to(
        command.add_subparsers(metavar="fit", help="makes a filter from labelled answers: vtokens filter fit --help")
    )
    command.hint = "; the rows to filter are named by --input"
    command.add_argument("--input", metavar="JSONL", help="the rows to filter")
    command.add_argument("--images", metavar="DIR", help="paths of images are relative to this folder")
    command.add_argument(
        "--allow-outside", action="store_true", help="open images that lie elsewhere: by .., an absolute path or a link"
    )
    command.add_argument("--output", metavar="JSONL", help="a new file, or one of the same command")
    command.add_argument(
        "--action", default="flag", metavar="A",
        help="flag marks, redact drops sentences, abstain puts null in place of the text (%(default)s)",
    )  # fmt: skip
    command.add_argument("--prompt", default="Describe the image.", help='for rows without one ("%(default)s")')
    command.add_argument("--text", metavar="FIELD", help="the field with the text (response, caption or text)")
    command.add_argument("--batch-size", type=whole(), default=16, metavar="B", help="(%(default)s)")
    command.add_argument("--retry", action="store_true", help="try again what was set aside before")
    command.add_argument(
        "--ray", nargs="?", const="local", metavar="ADDRESS",
        help='spread over a Ray cluster: "auto" or an address; without one, over this machine',
    )  # fmt: skip
    command.add_argument(
        "--workers", type=whole(), metavar="N", help="models at work under --ray (one a GPU or CPU core)"
    )
    add_filter_options(command)
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from vtokens.filter.datasets.dataset import alone, check_files, filter_dataset

    missing = [f"--{name}" for name in ("input", "images", "output") if getattr(options, name) is None]
    if missing:
        raise ValueError(f"the following arguments are required: {', '.join(missing)} (see vtokens filter --help)")
    named = [] if options.filter in (None, "none") else [options.filter]
    if "-" in (options.input, options.output):
        raise ValueError(
            "neither --input nor --output is the standard input or output: an interrupted run goes on "
            "from the files that they name"
        )
    total = check_files(options.input, options.images, options.output, options.action, *named)
    if options.workers is not None and not options.ray:
        raise ValueError("--workers is for --ray: without it one model works")
    guarantees: list[str] = []
    if options.ray:
        from vtokens.filter.datasets.ray import spread
        from vtokens.filter.datasets.worker import Opener

        gpus = float(options.device.startswith("cuda"))
        make = partial(_worker, options)
        opener = Opener(Path(options.images).absolute(), options.allow_outside)
        work: Any = partial(spread, make=make, opener=opener, workers=options.workers, address=options.ray, gpus=gpus)
    else:
        work = alone(partial(_worker, options, guarantees))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    screen = console(stderr=True)
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as bar:
        task = bar.add_task("filtering", total=total)
        tally = filter_dataset(
            options.input, options.output, work, _settings(options),
            prompt=options.prompt, text=options.text, batch_size=options.batch_size, retry=options.retry,
            progress=lambda rows: bar.advance(task, rows),
        )  # fmt: skip
    _summary(tally, Path(options.output), options.action)
    for guarantee in guarantees:
        say(guarantee)
    if tally.silent == tally.rows:
        sys.exit(3)


def _worker(options: argparse.Namespace, guarantees: list[str] | None = None) -> Worker:
    from vtokens.filter.datasets.worker import Worker

    hf = make_filter(options, options.batch_size)
    worker = Worker(hf, options.images, options.action, options.risk, options.threshold, options.allow_outside)
    if guarantees is not None and worker.guarantee:
        guarantees.append(f"if this model wrote the texts itself: {worker.guarantee}")
    return worker


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """What decides about the results, as JSON."""
    names = ("model", "strategy", "keep", "signals", "extractor", "action", "risk", "threshold", "dtype")
    settings = {name: getattr(options, name) for name in names}
    named = options.filter in (None, "none")
    settings["filter"] = options.filter if named else digest(read_text(options.filter))
    return settings | {"vtokens": __version__}


def _summary(tally: Tally, output: Path, action: str) -> None:
    """The summary, over all runs of the command; ValueError if no row at all could be filtered."""
    why = ", ".join(f"{reason} ({number})" for reason, number in tally.refused.most_common())
    aside = (
        f"{sum(tally.refused.values())} rows set aside in {output.with_name(f'{output.stem}.rejected.jsonl')}: {why}"
    )
    if not tally.rows:
        raise ValueError(f"no row could be filtered; {aside}")
    rate = f" ({tally.flagged / tally.mentions:.1%})" if tally.mentions else ""
    summary = f"{tally.rows} rows in {output}: {tally.flagged} of {tally.mentions} mentions flagged{rate}"
    summary += f", in {tally.flagged_rows} rows"
    emptied = f", {tally.emptied} of them to nothing" if tally.emptied else ""
    say(summary + ("" if action == "flag" else f"; {tally.changed_rows} texts changed{emptied}"))
    if tally.unjudged:
        say(f"in {tally.unjudged} rows something could not be judged: 'unjudged' in the output says what", error=True)
    if tally.refused:
        say(aside, error=True)
    if tally.silent:
        note(
            f"in {tally.silent} of {tally.rows} rows nothing was found that could be judged: they are as they were; "
            f"--extractor names what finds mentions ({', '.join(extractors())})"
        )
    if tally.uncalibrated:
        note("the numbers are scores that rank and no probabilities: no calibrated filter was used (--filter)")
    elif tally.flagged > tally.mentions / 2:
        note(
            "more than half of the mentions are flagged: the filter was fitted on what its model writes itself, and "
            "may flag what is true in other words. Rows with a question as `prompt` and `yes` as the text ask the model"
            " in its own; `vtokens filter fit` fits a filter on texts like these"
        )
