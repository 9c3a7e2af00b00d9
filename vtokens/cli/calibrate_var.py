"""`vtokens calibrate var`: the sink dimensions of a language model."""

from __future__ import annotations

import argparse
from typing import Any

from vtokens.cli.options import above_zero, check_file, whole
from vtokens.cli.output import console, quoted, say
from vtokens.cli.pictures import QUESTION, add_pictures, images
from vtokens.core.prompts import encode_prompts, question_prompt


def add_to(strategies: Any) -> None:
    """Add the subcommand."""
    var = strategies.add_parser(
        "var",
        help="sink dimensions of a language model",
        description="Find the hidden dimensions in which attention sinks of a model's decoder are huge.",
        epilog="examples:\n  vtokens calibrate var llava-hf/llava-v1.6-mistral-7b-hf --out sinks.json\n"
        '  vtokens run photo.jpg "What is this?" --model ... --strategy "var(sinks=\'sinks.json\')"\n',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_pictures(var, "the JSON file to write")
    var.add_argument("--samples", type=whole(), default=32, help="prompts to look at (default: 32)")
    var.add_argument(
        "--tau", type=above_zero, help="how many times the root mean square is huge (default: 20, less if narrow)"
    )
    var.set_defaults(run=_var)


def _var(options: argparse.Namespace) -> None:
    from rich.progress import track

    import vtokens
    from vtokens.calibrate.sinks import discover

    check_file(options.out, "--out")
    model, processor = vtokens.load(options.model)
    pictures = images(options.images, options.samples)
    text = question_prompt(processor, QUESTION)
    batches = (dict(encode_prompts(processor, [text], [[picture]])) for picture in pictures)
    screen = console(stderr=True)
    hidden = not screen.is_terminal
    shown = track(batches, "looking for sinks", options.samples, transient=True, console=screen, disable=hidden)
    found = discover(model, shown, tau=options.tau)
    found.sinks.save(options.out)
    reach = ", ".join(f"{layer}: {phi:.1f}" for layer, phi in zip(found.layers, found.first, strict=True))
    say(f"largest activation of the first token over its root mean square, by layer: {reach}")
    if found.sinks.dims:
        say(
            f"sink dimensions {list(found.sinks.dims)} (above {found.sinks.tau:g}); {found.visual:.1%} of the visual "
            "tokens are sinks"
        )
    else:
        say(f"no dimension exceeds {found.sinks.tau:g}: this decoder has no sinks, and var will change nothing")
    say(f"written to {options.out}; use it as {quoted(f'var(sinks={options.out!r})')}")
