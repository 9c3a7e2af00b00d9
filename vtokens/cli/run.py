"""`vtokens run`: one question about one image."""

from __future__ import annotations

import argparse
from typing import Any

from vtokens.cli.output import say
from vtokens.images import open_image


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
    command.add_argument("--max-new-tokens", type=int, default=64, metavar="N", help="(%(default)s)")
    command.add_argument("--device", default="cpu", help="cpu, cuda, cuda:0, ... (%(default)s)")
    command.add_argument("--dtype", default="auto", help="auto, float32, bfloat16, float16 (%(default)s)")
    command.set_defaults(run=_run)


def keep_value(text: str) -> float | int:
    """A count if written as an integer, otherwise a share."""
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number: a share such as 0.25, or a count such as 64"
        ) from None


def chat_prompt(processor: Any, question: str) -> str:
    """The question behind one image, in the model's own chat format."""
    from vtokens.scenes import prompt

    if getattr(processor, "chat_template", None):
        return prompt(processor, question)
    return f"{processor.image_token}\n{question}"


def _run(options: argparse.Namespace) -> None:
    import vtokens
    from vtokens.overlay import overlay, seen_image

    image = open_image(options.image)
    if options.max_new_tokens < 1:
        raise ValueError(f"--max-new-tokens {options.max_new_tokens} is not allowed: an int of at least 1")
    model: Any
    model, processor = vtokens.load(options.model, strategy=options.strategy, keep=options.keep, dtype=options.dtype)
    model.to(options.device).eval()
    handle = vtokens.attachment(model) or vtokens.attach(model, None)
    inputs = processor(images=image, text=chat_prompt(processor, options.question), return_tensors="pt")
    inputs = inputs.to(model.device)
    tokens = model.generate(**inputs, max_new_tokens=options.max_new_tokens, do_sample=False)
    text = processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0]
    say(text.strip())
    report = handle.report()
    say(report, error=True)
    if options.overlay:
        overlay(seen_image(processor, image), report.samples[0].pictures[0]).save(options.overlay)
