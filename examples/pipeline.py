"""transformers' own pipeline, on a model that a strategy is attached to: nothing of the pipeline is told of it.

python -m examples.pipeline
python -m examples.pipeline "cls(keep=0.25)"
"""

from __future__ import annotations

import argparse

from transformers import pipeline
from transformers.utils import logging

import vtokens
from vtokens import scenes


def asked(spec: str, examples: list[scenes.Example]) -> list[str]:
    """What the pipeline answers to questions about pictures, each a chat, in batches of four."""
    model, processor = vtokens.load("scenes-llava", strategy=spec)
    ask = pipeline("image-text-to-text", model=model, processor=processor)
    chats = [
        [{"role": "user", "content": [{"type": "image", "image": one.image}, {"type": "text", "text": one.question}]}]
        for one in examples
    ]
    answers = ask(text=chats, batch_size=4, return_full_text=False, generate_kwargs={"do_sample": False})
    handle = vtokens.attachment(model)
    if handle is not None:
        print(handle.report())
    return [answer[0]["generated_text"].strip() for answer in answers]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("spec", nargs="?", default="todre(keep=0.1)", help="strategies (%(default)s)")
    logging.disable_progress_bar()
    examples = scenes.examples("test", n=4, kinds=["where", "colour_of", "exist", "at"])
    for example, answer in zip(examples, asked(options.parse_args().spec, examples), strict=True):
        print(f"{example.question} {answer} (right: {example.answer})")


if __name__ == "__main__":
    main()
