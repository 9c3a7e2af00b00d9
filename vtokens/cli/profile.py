"""`vtokens profile`: what strategies cost and save on one model, or on a published shape without its weights."""

from __future__ import annotations

import argparse
import shlex
import sys
from typing import TYPE_CHECKING, Any

from vtokens.cli import flow
from vtokens.cli.options import add_placement, keeps, listed, numbers, path, whole
from vtokens.cli.output import console, say
from vtokens.core.errors import shorten
from vtokens.core.terminal import json_text
from vtokens.loading.hardware import check_device

if TYPE_CHECKING:
    from vtokens.eval.profile_job import Job


def add_to(commands: Any) -> None:
    """Add the command."""
    command = commands.add_parser(
        "profile",
        help="measure FLOPs, time and memory of strategies on a model or a published shape",
        description="Measure FLOPs, encoding, selection, prefill and decoding time, peak memory and KV bytes of a "
        "model under each strategy. The same model unpruned and the ideal (the same model given the kept tokens from "
        "the start) run in turn with it. Pictures and words are noise: nothing here says anything about quality.",
        epilog="""examples:
  vtokens profile scenes-llava --strategy fastv,cls --keep 0.5,0.1
  vtokens profile --preset llava-1.5-7b --scale 4 --layers 8 --strategy todre --keep 0.1 --new-tokens 16
  vtokens profile --preset llava-next-7b,qwen2.5-vl-7b --strategy cls --keep 0.1 --batch 1,8 --device cuda --out r.json
  vtokens profile path/to/config.json --random-weights --strategy "fastv(layer=3)" --keep 0.25 --json
  vtokens profile scenes-llava --flow flow.png
""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument(
        "model", nargs="?", help="embedded model, folder or hub id; with --random-weights a config too"
    )
    command.add_argument(
        "--preset", type=listed, metavar="NAMES", help="published shapes, with random weights, comma-separated"
    )
    command.add_argument("--random-weights", action="store_true", help="build the model from its configuration alone")
    command.add_argument("--scale", type=whole(), default=1, metavar="S", help="divide every width and number of heads")
    command.add_argument(
        "--layers", type=whole(), metavar="N", help="decoder layers; the tower shrinks by the same factor"
    )
    command.add_argument("--strategy", default="none", metavar="SPECS", help='e.g. none,cls,"fastv(layer=3)" (none)')
    command.add_argument("--keep", type=keeps, default=(), metavar="KEEPS", help="shares or counts: 0.5,0.1 or 64")
    command.add_argument(
        "--batch", type=numbers(1, 10**7), metavar="SIZES", help="prompts of a call (1; 1,2,4,8,16,32 on CUDA)"
    )
    command.add_argument(
        "--prompt", type=whole(), default=40, metavar="N", help="text tokens of a prompt (%(default)s)"
    )
    command.add_argument(
        "--image", type=_size, metavar="WxH", help="picture in pixels, where the family takes any size"
    )
    command.add_argument("--new-tokens", type=whole(), default=128, metavar="N", help="length of answers (%(default)s)")
    command.add_argument(
        "--rounds", type=whole(1, 10_000), default=5, metavar="N", help="rounds that count (%(default)s)"
    )
    command.add_argument(
        "--threads", type=whole(1, 1024), metavar="N", help="torch threads on a CPU (torch's own choice)"
    )
    add_placement(command, dtype=None)
    command.add_argument("--attention", default="sdpa", metavar="NAME", help="attention implementation (%(default)s)")
    command.add_argument("--out", type=path, metavar="JSON", help="write rows here as they come; goes on where it was")
    command.add_argument("--json", action="store_true", help="print JSON instead of tables")
    flow.add_to(command)
    command.set_defaults(run=_run)


def _size(text: str) -> tuple[int, int]:
    try:
        width, height = (whole(1, 16384)(part) for part in text.split("x"))
    except (ValueError, argparse.ArgumentTypeError):
        raise argparse.ArgumentTypeError(
            f"{shorten(text)} is no size such as 672x672, of 1 to 16384 pixels a side"
        ) from None
    return width, height


def _run(options: argparse.Namespace) -> None:
    if options.flow is not None:
        return flow.run(options)
    import torch
    from rich.progress import Progress

    from vtokens.cli.profile_tables import tables
    from vtokens.eval.profile_job import run

    job = _job(options)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    total = len(job.names) * len(job.batches) * len(job.cells)
    screen = console(stderr=True)
    with Progress(console=screen, transient=True, disable=not screen.is_terminal) as progress:
        task = progress.add_task("measuring", total=total)
        result = run(job, options.out, lambda: progress.advance(task))
    if options.json:
        say(json_text(result, indent=1))
    else:
        shown = console()
        # Redirected, a table is as wide as it needs to be.
        (shown if shown.is_terminal else console(width=200)).print(*tables(result))


def _job(options: argparse.Namespace) -> Job:
    import torch

    from vtokens.eval.cells import cells, split
    from vtokens.eval.profile import ProfileSettings
    from vtokens.eval.profile_job import Job

    if (options.model is None) == (options.preset is None):
        raise ValueError("give either a model or --preset NAMES: 'vtokens profile scenes-llava', for example")
    device = check_device(options.device)
    cuda = device.type == "cuda"
    return Job(
        names=tuple(options.preset) if options.preset else (options.model,),
        source="preset" if options.preset else "config" if options.random_weights else "weights",
        device=device,
        dtype=None if options.dtype in (None, "auto") else getattr(torch, options.dtype),
        cells=tuple(cells(split(options.strategy), options.keep)),
        batches=options.batch or ((1, 2, 4, 8, 16, 32) if cuda else (1,)),
        settings=ProfileSettings(options.prompt, options.image, options.new_tokens, options.rounds),
        scale=options.scale,
        layers=options.layers,
        attention=options.attention,
        command=shlex.join(["vtokens", *sys.argv[1:]]),
    )
