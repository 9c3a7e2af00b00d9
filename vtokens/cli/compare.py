"""`vtokens compare`: strategies side by side on one question, as one page."""

from __future__ import annotations

import argparse
from typing import Any

from vtokens.cli.inputs import STANDARD_INPUT, opened, typed
from vtokens.cli.options import add_placement, check_file, keeps, whole
from vtokens.cli.output import say
from vtokens.loading.hardware import check_device

_EXAMPLES = """examples:
  vtokens compare scene.png "how many objects are there?"
  vtokens compare photo.jpg "What does the sign say?" --strategies "cls,fastv(layer=3)" --keep 0.25,0.1 \\
      --model llava-hf/llava-1.5-7b-hf
  vtokens compare before.png after.png "What has changed?" --keep 64 --out changed.html
"""


def add_to(commands: Any) -> None:
    """Add the command."""
    command = commands.add_parser(
        "compare",
        help="show what strategies keep of a picture and what they answer, side by side",
        description="Ask one question about pictures as the model is and under each strategy, and write one page with "
        "the patches that were kept, the answers, tokens and times. The page needs nothing beside it.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("image", nargs="+", help="path or URL of a picture; - reads one from the standard input")
    command.add_argument("question", help="what to ask; - reads it from the standard input")
    command.add_argument("--model", default="scenes-llava", help="embedded model, folder or hub id (%(default)s)")
    command.add_argument(
        "--strategies", metavar="A,B", help='e.g. "cls,fastv(layer=3)" (what the model takes of random, uniform, cls, '
        "fastv and todre)",
    )  # fmt: skip
    command.add_argument(
        "--keep",
        type=keeps,
        default=(0.25,),
        metavar="K,L",
        help="shares or counts of those that leave theirs open (0.25)",
    )
    command.add_argument("--out", default="compare.html", metavar="HTML", help="where the page goes (%(default)s)")
    command.add_argument(
        "--max-new-tokens", type=whole(), default=64, metavar="N", help="the most tokens of an answer (%(default)s)"
    )
    command.add_argument("--private-urls", action="store_true", help="allow URLs of the own machine and network")
    add_placement(command)
    command.set_defaults(run=_compare, frames=None, fps=None, start=None, end=None)


def _compare(options: argparse.Namespace) -> None:
    import vtokens
    from vtokens.cli.run import note_drawn
    from vtokens.eval.cells import cells, split
    from vtokens.report.compare import STRATEGIES, compare
    from vtokens.strategies.spec import open_keeps

    if [*options.image, options.question].count(STANDARD_INPUT) > 1:
        raise ValueError("the standard input can be read once: as one input, or as the question")
    # What names no strategy, and what is asked for twice, is told before anything is read or loaded.
    names = split(options.strategies) if options.strategies else STRATEGIES
    cells(names, options.keep if any(map(open_keeps, names)) else ())
    device, visuals = check_device(options.device), opened(options, options.image)
    if moving := [one.name for one in visuals if one.clip is not None]:
        raise ValueError(f"{moving[0]} is a video, and what is kept is shown of pictures: `vtokens run` takes videos")
    check_file(options.out, "--out", *options.image)
    question = typed().strip() if options.question == STANDARD_INPUT else options.question
    if not question:
        raise ValueError("the question is empty: the standard input holds nothing to ask")
    model: Any
    model, processor = vtokens.load(options.model, strategy="none", dtype=options.dtype)
    vtokens.detach(model)
    model.to(device)
    for one in visuals:
        note_drawn(options.model, one.first())
    pictures = [one.image for one in visuals]
    found = compare(
        model, processor, pictures, question, options.strategies, options.keep, max_new_tokens=options.max_new_tokens
    )
    found.save(options.out)
    say(found)
    say(f"side by side: {options.out}")
