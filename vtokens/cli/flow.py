"""`vtokens profile --flow`: which decoder layers carry what from the picture to the answer."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vtokens.cli.loaded import plain_model
from vtokens.cli.options import check_file, whole
from vtokens.cli.output import console, say
from vtokens.cli.pictures import images
from vtokens.core.errors import unknown
from vtokens.core.prompts import encode_prompts, question_prompt
from vtokens.loading.hardware import check_device

ENDINGS = ("png", "svg", "pdf", "json")
_QUESTION = "What is the main thing in this picture?"
_BATCH = 16


def add_to(command: argparse.ArgumentParser) -> None:
    """Add the options."""
    flow = command.add_argument_group(
        "the flow of information",
        "With --flow nothing is timed: attention from the picture to the question, from the picture to the last "
        "position and from the question to it is knocked out around one layer after the other, and what that does to "
        "the answer's probability is drawn.",
    )
    flow.add_argument("--flow", metavar="FILE", help="write a picture (.png, .svg, .pdf) or the numbers (.json)")
    flow.add_argument("--images", metavar="FOLDER", help="ask about these pictures; without it scenes are drawn")
    flow.add_argument("--question", metavar="TEXT", help=f"what to ask about each (of --images: {_QUESTION!r})")
    flow.add_argument("--samples", type=whole(), default=32, metavar="N", help="prompts to look at (%(default)s)")
    flow.add_argument("--window", type=whole(), metavar="N", help="layers knocked out together, odd (9 of 32)")


def run(options: argparse.Namespace) -> None:
    """Knock out, print, draw."""
    from rich.progress import Progress

    import vtokens
    from vtokens.adapters import adapter_for
    from vtokens.calibrate.flow import PATHS, flow
    from vtokens.core.extras import needs

    path = Path(options.flow)
    ending = path.suffix.lower().lstrip(".")
    if ending not in ENDINGS:
        raise unknown("ending", ending or path.name, ENDINGS)
    if options.model is None:
        raise ValueError("--flow looks into a model: 'vtokens profile scenes-llava --flow flow.png', for example")
    check_file(options.flow, "--flow")
    if ending != "json":
        with needs("report", "a picture of the flow"):
            from vtokens.report.plot_flow import draw_flow
    device = check_device(options.device)
    dtype = "auto" if options.dtype is None else options.dtype
    model, processor = plain_model(options.model, dtype, device)
    vtokens.detach(model)
    asked = list(_asked(options))
    parts = [asked[start : start + _BATCH] for start in range(0, len(asked), _BATCH)]
    batches = (_batch(processor, part, device) for part in parts)
    screen = console(stderr=True)
    steps = len(parts) * (1 + len(PATHS) * len(adapter_for(model).facts.attending))
    with Progress(console=screen, transient=True, disable=not screen.is_terminal) as bar:
        task = bar.add_task("knocking out", total=steps)
        found = flow(model, batches, window=options.window, progress=lambda: bar.advance(task))
    _print(found, options)
    if ending == "json":
        found.save(path)
    else:
        changes = {f"{route.source} to {route.target}": route.changes for route in found.routes}
        layers = adapter_for(model).facts.attending
        draw_flow(layers, changes, f"{options.model}: {len(found.probabilities)} prompts", path)
    say(f"written to {path}")


def _batch(processor: Any, part: list[tuple[Any, str]], device: Any) -> dict[str, Any]:
    prompts = [question_prompt(processor, question) for _, question in part]
    return dict(encode_prompts(processor, prompts, [[picture] for picture, _ in part]).to(device))


def _asked(options: argparse.Namespace) -> Iterator[tuple[Any, str]]:
    if options.images is None:
        from vtokens import scenes

        kinds = [kind for kind in scenes.KINDS if kind != "caption"]  # which one word answers
        for one in scenes.examples("calibration", n=options.samples, kinds=kinds):
            yield one.image, options.question or one.question
        return
    for picture in images(options.images, options.samples):
        yield picture, options.question or _QUESTION


def _print(found: Any, options: argparse.Namespace) -> None:
    import numpy as np
    from rich.table import Table

    middle = float(np.mean(found.probabilities))
    table = Table(
        title=f"{options.model}: change of the answer's probability (mean {middle:.2f}) by what is knocked out"
    )
    table.add_column("layers")
    for route in found.routes:
        table.add_column(f"{route.source} to {route.target}", justify="right")
    for number, where in enumerate(found.windows):
        means = (float(np.mean(route.changes[number])) for route in found.routes)
        table.add_row(
            f"{where[0]} to {where[-1]}" if len(where) > 1 else str(where[0]), *(f"{one:+.1%}" for one in means)
        )
    console().print(table)
