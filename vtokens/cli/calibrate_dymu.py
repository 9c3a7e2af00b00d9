"""`vtokens calibrate dymu`: the merging thresholds of a vision tower."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from vtokens.cli.loaded import plain_model
from vtokens.cli.options import above_zero, add_placement, check_file, whole
from vtokens.cli.output import console, quoted, say
from vtokens.cli.pictures import QUESTION, add_pictures, images
from vtokens.core.prompts import encode_prompts, question_prompt
from vtokens.loading.hardware import check_device


def add_to(strategies: Any) -> None:
    """Add the subcommand."""
    dymu = strategies.add_parser(
        "dymu",
        help="merging thresholds of a vision tower",
        description="Find from which similarity on each block of a vision tower merges tokens, so that a wanted share "
        "of them is left on average.",
        epilog="examples:\n"
        "  vtokens calibrate dymu llava-hf/llava-1.5-7b-hf --images photos --target 0.35 --out thresholds.json\n"
        '  vtokens run photo.jpg "What is this?" --model ... --strategy "dymu(thresholds=\'thresholds.json\')"\n',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_pictures(dymu, "the JSON file to write")
    dymu.add_argument(
        "--target", type=above_zero, action="append", metavar="SHARE",
        help="share of the patches to be left; may be given several times (default: 0.15, 0.34 and 0.68)",
    )  # fmt: skip
    dymu.add_argument("--samples", type=whole(), default=256, help="pictures to look at (default: %(default)s)")
    dymu.add_argument(
        "--batch", type=whole(), default=32, help="pictures that compete for merges (default: %(default)s)"
    )
    add_placement(dymu)
    dymu.set_defaults(run=_dymu)


def _dymu(options: argparse.Namespace) -> None:
    from rich.progress import Progress

    from vtokens.calibrate.thresholds import measure
    from vtokens.tables.thresholds import NAMED

    device = check_device(options.device)
    check_file(options.out, "--out")
    targets = options.target or list(NAMED.values())
    model, processor = plain_model(options.model, options.dtype, device)
    pictures = list(images(options.images, options.samples))
    text = question_prompt(processor, QUESTION)

    def batches() -> Iterator[dict[str, Any]]:
        for start in range(0, len(pictures), options.batch):
            part = pictures[start : start + options.batch]
            yield encode_prompts(processor, [text] * len(part), [[picture] for picture in part]).to(model.device)

    steps = 2 * len(targets) * -(-len(pictures) // options.batch)
    source = f"vtokens calibrate dymu, {len(pictures)} " + ("pictures" if options.images else "scenes")
    screen = console(stderr=True)
    with Progress(transient=True, console=screen, disable=not screen.is_terminal) as bar:
        task = bar.add_task("merging", total=steps)
        table = measure(model, batches, targets, source, lambda: bar.advance(task))
    table.save(options.out)
    for setting in table.settings:
        numbers = ", ".join(f"{value:.4f}" for value in setting.thresholds)
        say(f"target {setting.target:g}: {setting.left:.1%} of the patches left; thresholds {numbers}")
    spec = f"dymu(thresholds={options.out!r}" + (f", target={targets[0]:g})" if len(targets) > 1 else ")")
    say(f"written to {options.out}; use it as {quoted(spec)}")
