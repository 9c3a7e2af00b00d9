"""An answer shown while it is written: `generate` runs in a thread, and a streamer hands its words over.

python -m examples.streaming
python -m examples.streaming "cls(keep=0.25)"
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from threading import Thread
from typing import Any

from transformers import TextIteratorStreamer
from transformers.utils import logging

import vtokens
from vtokens import scenes


def pieces(model: Any, processor: Any, example: scenes.Example) -> Iterator[str]:
    """The words of an answer, as they come."""
    prompt = scenes.prompt(processor, example.question)
    inputs = processor(images=example.image, text=prompt, return_tensors="pt")
    streamer = TextIteratorStreamer(processor.tokenizer, skip_prompt=True, skip_special_tokens=True, timeout=60)
    writer = Thread(target=model.generate, kwargs={**inputs, "streamer": streamer, "do_sample": False})
    writer.start()
    yield from (piece for piece in streamer if piece)
    writer.join()


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("spec", nargs="?", default="todre(keep=0.1)", help="strategies (%(default)s)")
    logging.disable_progress_bar()
    model, processor = vtokens.load("scenes-llava", strategy=options.parse_args().spec)
    example = scenes.examples("test", n=1, kinds=["caption"], seed=1)[0]
    print(example.question, end=" ")
    for piece in pieces(model, processor, example):
        print(piece, end="", flush=True)
    print(f"\n(right: {example.answer})")
    handle = vtokens.attachment(model)
    if handle is not None:
        print(handle.report())  # of a thread that began since the strategy was attached


if __name__ == "__main__":
    main()
