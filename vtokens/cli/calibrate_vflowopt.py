"""`vtokens calibrate vflowopt`: the settings of a pruner that change a model least."""

from __future__ import annotations

import argparse
from typing import Any

from vtokens.cli.loaded import plain_model
from vtokens.cli.options import add_placement, check_file, keep_value, whole
from vtokens.cli.output import console, quoted, say
from vtokens.cli.pictures import QUESTION, add_pictures, images
from vtokens.core.prompts import encode_prompts, question_prompt
from vtokens.loading.hardware import check_device

_SHARES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)


def add_to(strategies: Any) -> None:
    """Add the subcommand."""
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
    add_pictures(flow, "the JSON file to write: the strategy, and what was tried")
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
    text = question_prompt(processor, QUESTION)
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
    best, score, first = parse(strategy(found.settings)), found.score, objective.of(usual)
    if kept := first >= score:
        best, score = usual, first
    tried = [{**settings, "cosine": score} for settings, score in found.tried]
    write_json(options.out, {"strategy": format_spec(best), "cosine": score, "defaults": first, "tried": tried})
    say(f"{len(found.tried)} settings tried; cosine of the last states {found.score:.4f}, with defaults {first:.4f}")
    if kept:
        say("none of them is better than the defaults, so these are what is written: more may be (--calls)")
    say(f"written to {options.out}; use it as {quoted(format_spec(best))}")
