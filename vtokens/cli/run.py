"""`vtokens run`: questions about pictures and videos."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

from vtokens.cli.frames import check_timestamps, searched, with_quotas
from vtokens.cli.inputs import METHODS, STANDARD_INPUT, Visual, add_frames, check_inputs, opened, typed
from vtokens.cli.options import add_placement, check_picture, keep_value, whole
from vtokens.cli.output import note, say
from vtokens.core.terminal import json_text
from vtokens.loading.hardware import check_device

_PICTURES, _CLIPS = "scenes-llava", "scenes-qwen"
_EXAMPLES = """examples:
  vtokens run scene.png "is there a red circle?"
  vtokens run scene.png "is there a red circle?" --strategy todre --keep 0.1 --overlay kept.png
  vtokens run photo.jpg "What is this?" --model llava-hf/llava-1.5-7b-hf --strategy "fastv(layer=3)" --keep 64
  vtokens run before.png after.png "What has changed?" --model Qwen/Qwen2.5-VL-7B-Instruct
  vtokens run clip.mp4 "which way does the red circle move?" --frames 16 --strategy evs+todre --keep 0.5
  vtokens run clip.mp4 "What happens?" --frames 64 --strategy evs --keep 0.1 --model Qwen/Qwen2.5-VL-7B-Instruct
  vtokens run film.mp4 "When does it rain?" --recipe aks --frames 16 --timestamps --model Qwen/Qwen2.5-VL-7B-Instruct
  vtokens run film.mp4 "Does a dog bark?" --frames 64 --quota 0.25 --model Qwen/Qwen2.5-VL-7B-Instruct
  vtokens run photo.jpg "What does the sign say?" --recipe crop --model llava-hf/llava-1.5-7b-hf
  vtokens run https://example.org/photo.jpg "What is this?" --json
  vtokens run - "What is this?" < photo.jpg
  vtokens run scene.png "how many objects are there?" --chat

Inputs and the question stand together: options go before or behind them all.
"""


def add_to(commands: Any) -> None:
    """Add the command."""
    command = commands.add_parser(
        "run",
        help="ask a question about pictures and videos",
        description="Ask a model about pictures and videos. The answer goes to stdout, what was pruned to stderr.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument(
        "image", nargs="+", help="path or URL of a picture or video; - reads one from the standard input"
    )
    command.add_argument("question", help="what to ask; - reads it from the standard input")
    command.add_argument(
        "--model",
        help=f"embedded model, folder or hub id ({_PICTURES}, or {_CLIPS} where a video is asked about)",
    )
    command.add_argument("--strategy", help='e.g. todre, "fastv(keep=0.25)", "cls+fastv", none')
    command.add_argument("--keep", type=keep_value, help="a share such as 0.25, or a count such as 64")
    add_frames(command)
    command.add_argument(
        "--recipe",
        metavar="RECIPE",
        help="search each video for the frames that the first question needs, as many as --frames "
        f'({", ".join(METHODS)}), or ask about a picture in several passes (crop, "crop(method=gradient)", ...)',
    )
    command.add_argument(
        "--scorer", metavar="MODEL", help="CLIP-like model that says how well a frame fits (the model's own answers)"
    )
    command.add_argument(
        "--quota",
        type=keep_value,
        metavar="KEEP",
        help="leave each video this share of its tokens, or a count, more to frames that likely help to answer the "
        "first question (one short pass a frame); comes before --strategy, which has a --keep of its own",
    )
    command.add_argument(
        "--seek",
        metavar="TEXT",
        help="what --recipe and --quota ask of each frame, to be answered yes or no, or what --scorer compares it with "
        "(whether it helps to answer the question)",
    )
    command.add_argument(
        "--timestamps", action="store_true", help="show frames as pictures, each behind the time at which it is shown"
    )
    command.add_argument("--overlay", metavar="PNG", help="write a picture of the patches that were kept")
    command.add_argument(
        "--max-new-tokens",
        type=whole(),
        default=64,
        metavar="N",
        help="the most tokens of an answer (%(default)s)",
    )
    command.add_argument(
        "--json", action="store_true", help="print each answer, and what was pruned, as a line of JSON"
    )
    command.add_argument(
        "--chat", action="store_true", help="go on with questions from the standard input, a line each"
    )
    add_placement(command)
    command.set_defaults(run=_run)


def note_drawn(model: str, image: Any) -> None:
    """Say on stderr what an embedded model can see, if this picture is plainly something else."""
    from vtokens.scenes import embedded_models
    from vtokens.scenes.recognise import looks_drawn, taught

    if model in embedded_models() and not looks_drawn(image, model):
        note(
            f"{model} knows drawn scenes only ({taught(model)}, 96 x 96 pixels), and this picture is none: what it "
            "says of it means nothing. --model takes others, such as llava-hf/llava-1.5-7b-hf"
        )


def _run(options: argparse.Namespace) -> None:
    import vtokens
    from vtokens.cli.conversation import Conversation

    check_inputs(options)
    device, visuals = check_device(options.device), opened(options, options.image)
    if options.overlay:
        if visuals[0].clip is not None:
            raise ValueError("--overlay shows one picture, and a video is given")
        check_picture(options.overlay, "--overlay", *options.image)
    question = typed().strip() if options.question == STANDARD_INPUT else options.question
    if not question:
        raise ValueError("the question is empty: the standard input holds nothing to ask")
    if options.model is None:
        options.model = _PICTURES if all(one.clip is None for one in visuals) else _CLIPS
    model: Any
    model, processor = vtokens.load(options.model, strategy=options.strategy, keep=options.keep, dtype=options.dtype)
    model.to(device).eval()
    handle = vtokens.attachment(model) or vtokens.attach(model, None)
    if options.timestamps:
        check_timestamps(handle.strategies)
    for one in visuals:
        note_drawn(options.model, one.first())
    if options.recipe and options.recipe not in METHODS:
        _ask_again(options, model, processor, visuals[0], question, handle)
        return
    if options.recipe:
        visuals = searched(visuals, options, model, processor, question)
        if options.chat:
            note(
                "--recipe searched for the frames that the first question needs: those that follow are shown no others"
            )
    if options.quota is not None:
        handle = with_quotas(visuals, options, model, processor, question, handle)
        if options.chat:
            note("--quota is by the first question: those that follow are asked with the same tokens of each frame")
    looked = partial(_check_drawn, handle) if options.overlay else None
    conversation = Conversation(model, processor, visuals, options.max_new_tokens, options.timestamps, looked)
    for asked in _questions(question, options.chat):
        text = conversation.ask(asked)
        report = handle.report()
        if options.json:
            say(json_text(_facts(options, visuals, asked, text, conversation.prompt_tokens, report), allow_nan=False))
        else:
            say(text)
            for one in visuals if len(conversation.turns) == 2 else ():
                if one.clip is not None:
                    say(one.told(), error=True)
            say(report, error=True)
        sys.stdout.flush()
    if options.overlay:
        from vtokens.core.overlay import overlay, seen_image, whole_picture

        picture = seen_image(processor, visuals[0].first())
        overlay(picture, whole_picture(report.samples[0].pictures)).save(options.overlay)


def _ask_again(
    options: argparse.Namespace, model: Any, processor: Any, shown: Visual, question: str, handle: Any
) -> None:
    """Answer by a recipe that asks about a picture in several passes."""
    from vtokens.recipes import parse_recipe

    if shown.image is None:
        raise ValueError(f"--recipe {options.recipe} asks about a picture again, and {shown.name} is a video")
    recipe = parse_recipe(options.recipe, METHODS)
    looked = recipe(model, processor, shown.image, question, max_new_tokens=options.max_new_tokens)
    report, size = handle.report(), looked.said.start
    if options.json:
        say(json_text(_facts(options, [shown], question, looked.text, size, report) | looked.facts(), allow_nan=False))
        return
    say(looked.text)
    say(looked.told(), error=True)
    say(report, error=True)


def _check_drawn(handle: Any) -> None:
    """Raise `ValueError` if what the model saw cannot be drawn over the picture, before it writes a long answer."""
    from vtokens.core.overlay import whole_picture

    [sample] = handle.report().samples
    whole_picture(sample.pictures).picture.check_drawn()


def _questions(first: str, chat: bool) -> Iterator[str]:
    """The question, and with --chat what is typed or piped behind it."""
    yield first
    while chat:
        if sys.stdin.isatty():
            sys.stderr.write("> ")
            sys.stderr.flush()
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()


def _facts(
    options: argparse.Namespace, visuals: list[Visual], asked: str, text: str, size: int, report: Any
) -> dict[str, Any]:
    """What --json prints."""
    [sample] = report.samples
    return {
        "answer": text,
        "question": asked,
        "inputs": [one.facts() for one in visuals],
        "model": options.model,
        "strategy": report.strategy,
        **({"recipe": options.recipe} if options.recipe else {}),
        **({"quota": options.quota} if options.quota is not None else {}),
        "prompt_tokens": size,
        "visual_tokens": sum(kept.picture.tokens for kept in sample.pictures),
        "visual_tokens_per_layer": sample.average_tokens,
        "flops": report.flops,
        "flops_full": report.flops_full,
        "kv_bytes": report.kv_bytes,
        "kv_bytes_full": report.kv_bytes_full,
        "select_seconds": report.select_seconds,
    }
