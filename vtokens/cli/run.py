"""`vtokens run`: one question about one image."""

from __future__ import annotations

import argparse
from typing import Any

from vtokens.cli.options import add_placement, check_picture, keep_value, whole
from vtokens.cli.output import note, say
from vtokens.core.prompts import encode_prompts, question_prompt
from vtokens.loading.context import check_characters, check_room, context_of
from vtokens.loading.hardware import check_device


def add_to(commands: Any) -> None:
    """Add the command."""
    command = commands.add_parser(
        "run",
        help="ask a question about an image",
        description="Ask a model about an image. The answer goes to stdout, what was pruned to stderr.",
        epilog="""examples:
  vtokens run scene.png "is there a red circle?"
  vtokens run scene.png "is there a red circle?" --strategy todre --keep 0.1 --overlay kept.png
  vtokens run photo.jpg "What is this?" --model llava-hf/llava-1.5-7b-hf --strategy "fastv(layer=3)" --keep 64
""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("image", help="path of an image")
    command.add_argument("question", help="what to ask")
    command.add_argument("--model", default="scenes-llava", help="embedded model, folder or hub id (%(default)s)")
    command.add_argument("--strategy", help='e.g. todre, "fastv(keep=0.25)", "cls+fastv", none')
    command.add_argument("--keep", type=keep_value, help="a share such as 0.25, or a count such as 64")
    command.add_argument("--overlay", metavar="PNG", help="write a picture of the patches that were kept")
    command.add_argument("--max-new-tokens", type=whole(), default=64, metavar="N", help="(%(default)s)")
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
    from vtokens.core.images import open_image
    from vtokens.core.overlay import overlay, seen_image, whole_picture

    device, image = check_device(options.device), open_image(options.image)
    if options.overlay:
        check_picture(options.overlay, "--overlay")
    model: Any
    model, processor = vtokens.load(options.model, strategy=options.strategy, keep=options.keep, dtype=options.dtype)
    context = context_of(model)
    check_characters(options.question, context, "the question")
    model.to(device).eval()
    handle = vtokens.attachment(model) or vtokens.attach(model, None)
    note_drawn(options.model, image)
    inputs = encode_prompts(processor, [question_prompt(processor, options.question)], [[image]]).to(model.device)
    check_room(inputs["input_ids"].shape[1], options.max_new_tokens, context)
    tokens = model.generate(**inputs, max_new_tokens=options.max_new_tokens, do_sample=False)
    text = processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0]
    say(text.strip())
    report = handle.report()
    say(report, error=True)
    if options.overlay:
        overlay(seen_image(processor, image), whole_picture(report.samples[0].pictures)).save(options.overlay)
