"""Weights of eight bits by bitsandbytes, with and without a strategy: bytes, and how far answers move.

python -m examples.eight_bits
python -m examples.eight_bits "cls(keep=0.25)" --questions 220
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

import torch
from transformers import BitsAndBytesConfig
from transformers.utils import logging

import vtokens
from vtokens import scenes


@dataclass(frozen=True)
class Answered:
    """What a model answered, and the bytes that its weights take."""

    answers: list[str]
    bytes: int


def answered(spec: str, examples: list[scenes.Example], **options: Any) -> Answered:
    """The answers of the model, loaded with `options`."""
    model, processor = vtokens.load("scenes-llava", strategy=spec, **options)
    return Answered(scenes.answer(model, processor, examples), model.get_memory_footprint())


def in_eight_bits(spec: str, examples: list[scenes.Example]) -> Answered:
    """The answers of the model whose linear layers hold a byte a weight; what they are fed is in half precision."""
    return answered(spec, examples, quantization_config=BitsAndBytesConfig(load_in_8bit=True), dtype=torch.float16)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("spec", nargs="?", default="todre(keep=0.1)", help="strategies (%(default)s)")
    options.add_argument("--questions", type=int, default=110)
    chosen = options.parse_args()
    logging.disable_progress_bar()
    examples = scenes.examples("test", n=chosen.questions)
    for spec in ("none", chosen.spec):
        full, small = answered(spec, examples), in_eight_bits(spec, examples)
        moved = sum(one != other for one, other in zip(full.answers, small.answers, strict=True))
        print(f"{spec}: {full.bytes / 1e6:.1f} MB of weights, {small.bytes / 1e6:.1f} MB in eight bits")
        for name, found in (("as they are", full), ("in eight bits", small)):
            good = sum(scenes.score(answer, one) for answer, one in zip(found.answers, examples, strict=True))
            print(f"  {name}: {scenes.accuracy(good, len(examples))}")
        print(f"  {moved} of {len(examples)} answers are other words")


if __name__ == "__main__":
    main()
