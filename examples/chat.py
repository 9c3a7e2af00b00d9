"""A chat of several turns on one cache: the picture is read, and pruned, once.

What `keep` means there: tokens are chosen when the picture is read, so later questions are answered from those. A
strategy that goes by the question (`fastv`) chose them for the first one; one that looks at the picture alone (`cls`)
did not. The second question is asked both ways here: on the cache, and of the picture anew. (scenes-llava was taught
one question a picture, so its second answers are poor, with a strategy or without.)

python -m examples.chat
python -m examples.chat "cls(keep=0.25)" "fastv(keep=0.05, layer=1)"
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from transformers.utils import logging

import vtokens
from vtokens import scenes

SPECS = ["none", "todre(keep=0.1)", "cls(keep=0.1)", "fastv(keep=0.05, layer=1)"]


@dataclass(frozen=True)
class Turn:
    """A turn.

    Attributes:
        answer: as text.
        fed: positions that were fed for it.
        stored: positions that the last layer's cache holds after it.
        tokens: int64 (1, N), the conversation up to its end.
    """

    answer: str
    fed: int
    stored: int
    tokens: torch.Tensor


def chat(model: Any, processor: Any, image: Image.Image, questions: list[str]) -> list[Turn]:
    """Questions about one picture, each fed behind what the cache has."""
    turns: list[Turn] = []
    sequence, cache = None, None
    for number, question in enumerate(questions):
        prompt = scenes.prompt(processor, question, images=int(number == 0))
        if sequence is None:
            inputs = dict(processor(images=image, text=prompt, return_tensors="pt"))
        else:
            more = processor.tokenizer(prompt, return_tensors="pt", add_special_tokens=False)["input_ids"]
            together = torch.cat([sequence, more], dim=1)
            inputs = {"input_ids": together, "attention_mask": torch.ones_like(together), "past_key_values": cache}
        begun = cache.get_seq_length() if cache is not None else 0
        out = model.generate(**inputs, do_sample=False, return_dict_in_generate=True)
        start = inputs["input_ids"].shape[1]
        sequence, cache = out.sequences, out.past_key_values
        answer = processor.decode(sequence[0, start:], skip_special_tokens=True).strip()
        turns.append(Turn(answer, start - begun, cache.layers[-1].keys.shape[2], sequence))
    return turns


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("specs", nargs="*", default=SPECS, help="strategies")
    logging.disable_progress_bar()
    model, processor = vtokens.load("scenes-llava")
    example = scenes.examples("test", n=1, kinds=["where"], seed=6)[0]
    second = "How many objects are there?"
    print(f"1. {example.question} (right: {example.answer})\n2. {second} (right: {len(example.scene.visible)})")
    for spec in options.parse_args().specs:
        with vtokens.attach(model, spec):
            turns = chat(model, processor, example.image, [example.question, second])
            [anew] = chat(model, processor, example.image, [second])
        print(f"{spec}: {' | '.join(turn.answer for turn in turns)}; the second of the picture anew: {anew.answer}")
        print(f"  fed {[turn.fed for turn in turns]} positions, stored {[turn.stored for turn in turns]}")


if __name__ == "__main__":
    main()
