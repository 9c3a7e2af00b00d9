"""`vtokens calibrate`: what a strategy has to know of a model before it can run on it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vtokens.cli.loaded import plain_model
from vtokens.cli.options import above_zero, add_placement, check_file, keep_value, whole
from vtokens.cli.output import console, note, say
from vtokens.core.prompts import encode_prompts, question_prompt
from vtokens.loading.hardware import check_device

_QUESTION = "What is to be seen here?"
_NAMED = 10  # pictures left out that are named
_SHARES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)


def add_to(commands: Any) -> None:
    """Add the command with one subcommand a strategy."""
    calibrate = commands.add_parser(
        "calibrate",
        help="find what a strategy has to know of a model",
        description="Find what a strategy has to know of a model, and write it to a file that its spec names.",
    )
    strategies = calibrate.add_subparsers(metavar="strategy", required=True)
    _add_var(strategies)
    _add_dymu(strategies)
    _add_vflowopt(strategies)


def _add_var(strategies: Any) -> None:
    var = strategies.add_parser(
        "var",
        help="sink dimensions of a language model",
        description="Find the hidden dimensions in which attention sinks of a model's decoder are huge.",
        epilog="examples:\n  vtokens calibrate var llava-hf/llava-v1.6-mistral-7b-hf --out sinks.json\n"
        '  vtokens run photo.jpg "What is this?" --model ... --strategy "var(sinks=\'sinks.json\')"\n',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    var.add_argument("model", help="an embedded model, a folder or a hub id")
    var.add_argument("--out", required=True, help="the JSON file to write")
    var.add_argument("--images", help="a folder of pictures; without it scenes are drawn")
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
    text = question_prompt(processor, _QUESTION)
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
    say(f"written to {options.out}; use it as \"var(sinks='{options.out}')\"")


def _add_dymu(strategies: Any) -> None:
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
    dymu.add_argument("model", help="an embedded model, a folder or a hub id")
    dymu.add_argument("--out", required=True, help="the JSON file to write")
    dymu.add_argument("--images", help="a folder of pictures; without it scenes are drawn")
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
    text = question_prompt(processor, _QUESTION)

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
    say(f'written to {options.out}; use it as "{spec}"')


def _add_vflowopt(strategies: Any) -> None:
    flow = strategies.add_parser(
        "vflowopt",
        help="settings of a pruner that change a model least",
        description="Search for the settings of vflowopt, at a given budget, under which the last state of a prompt, "
        "behind all layers, stays most like what it is without pruning (mean cosine). A third of the tries are drawn "
        "at random, the others go on from the best of them.",
        epilog="examples:\n"
        "  vtokens calibrate vflowopt llava-hf/llava-1.5-7b-hf --images photos --keep 0.1 --out best.json\n"
        '  vtokens run photo.jpg "What is this?" --model ... --strategy "vflowopt(...)", as it is told at the end\n',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flow.add_argument("model", help="an embedded model, a folder or a hub id")
    flow.add_argument("--out", required=True, help="the JSON file to write: the strategy, and what was tried")
    flow.add_argument("--images", help="a folder of pictures; without it scenes are drawn")
    flow.add_argument("--keep", type=keep_value, default=0.1, help="tokens a layer, on average (default: %(default)s)")
    flow.add_argument("--samples", type=whole(), default=16, help="prompts to compare (default: %(default)s)")
    flow.add_argument("--calls", type=whole(), default=40, help="settings to try (default: %(default)s)")
    flow.add_argument("--seed", type=whole(0), default=0, help="of what is drawn at random (default: %(default)s)")
    add_placement(flow)
    flow.set_defaults(run=_vflowopt)


def _vflowopt(options: argparse.Namespace) -> None:
    from rich.progress import Progress

    from vtokens.calibrate.faithful import Faithfulness, search
    from vtokens.core.writing import write_json
    from vtokens.strategies import format_spec, parse

    device = check_device(options.device)
    check_file(options.out, "--out")
    usual = parse({"name": "vflowopt", "keep": options.keep})
    model, processor = plain_model(options.model, options.dtype, device)
    text = question_prompt(processor, _QUESTION)
    pictures = images(options.images, options.samples)
    batches = [encode_prompts(processor, [text], [[picture]]).to(model.device) for picture in pictures]

    def strategy(settings: dict[str, Any]) -> dict[str, Any]:
        return {"name": "vflowopt", "keep": options.keep, **settings}

    space = {"side": (2, 3, 4, 6, 9, 12, 17, 24), "middle": _SHARES, "last": _SHARES}
    screen = console(stderr=True)
    with Progress(transient=True, console=screen, disable=not screen.is_terminal) as bar:
        task = bar.add_task("trying settings", total=options.calls)
        objective = Faithfulness(model, batches)
        found = search(
            lambda settings: objective.of(strategy(settings)), space, options.calls, options.seed,
            lambda settings: settings["middle"] >= settings["last"], lambda: bar.advance(task),
        )  # fmt: skip
    best, first = format_spec(parse(strategy(found.settings))), objective.of(usual)
    tried = [{**settings, "cosine": score} for settings, score in found.tried]
    write_json(options.out, {"strategy": best, "cosine": found.score, "defaults": first, "tried": tried})
    say(f"{len(found.tried)} settings tried; cosine of the last states {found.score:.4f}, with defaults {first:.4f}")
    say(f'written to {options.out}; use it as "{best}"')


def images(folder: str | None, samples: int) -> Iterator[Any]:
    """Up to `samples` RGB pictures of a folder, in order of their names; drawn scenes if there is no folder.

    Those that cannot be read are passed over, and named on stderr at the end.

    Raises:
        ValueError: the folder has no pictures, or none that can be read, or `samples` is no positive number.
    """
    from vtokens.core.images import open_image

    if samples < 1:
        raise ValueError(f"{samples} samples are not enough: at least 1 is needed")
    if folder is None:
        from vtokens import scenes

        yield from (example.image for example in scenes.examples("calibration", n=samples))
        return
    from PIL import Image

    known = Image.registered_extensions()
    paths = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in known)
    if not paths:
        raise ValueError(f"no pictures in {folder!r}: a folder with image files is needed")
    found, aside = 0, dict[Path, str]()
    for path in paths:
        if found == samples:
            break
        try:
            image = open_image(path)
        except OSError as error:
            aside[path] = str(error)
            continue
        found += 1
        yield image
    if not found:
        path, reason = next(iter(aside.items()))
        raise ValueError(f"none of the {len(aside)} pictures in {folder!r} can be read; {path}: {reason}")
    if aside:
        names = ", ".join(str(path.relative_to(folder)) for path in list(aside)[:_NAMED])
        more = f" and {len(aside) - _NAMED} more" if len(aside) > _NAMED else ""
        note(f"{len(aside)} of {found + len(aside)} pictures could not be read and were left out: {names}{more}")
