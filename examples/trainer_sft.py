"""Supervised fine-tuning by transformers' Trainer with a strategy attached: the model learns to do with fewer tokens.

Answers are fed with their prompts, and labels say where each begins: what a strategy keeps is chosen by the prompt
alone, as when the model writes the answer itself.

python -m examples.trainer_sft
python -m examples.trainer_sft "random(keep=0.1)" --steps 100 --out runs/sft
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

from transformers import PrinterCallback, Trainer, TrainingArguments
from transformers.utils import logging

import vtokens
from vtokens import scenes

IGNORED = -100
KINDS = ["count_all", "count_colour"]
"""Questions that need every object, and lose most by pruning."""


def collator(processor: Any) -> Callable[[Sequence[scenes.Example]], dict[str, Any]]:
    """What makes a batch of questions with their answers, padded on the right; labels are the answers'."""
    end = processor.tokenizer.eos_token

    def collate(examples: Sequence[scenes.Example]) -> dict[str, Any]:
        prompts = [scenes.prompt(processor, one.question) for one in examples]
        images = [[one.image] for one in examples]
        texts = [f"{prompt} {one.answer}{end}" for prompt, one in zip(prompts, examples, strict=True)]
        how: dict[str, Any] = {"images": images, "padding": True, "padding_side": "right", "return_tensors": "pt"}
        batch = dict(processor(text=texts, **how))
        asked = processor(text=prompts, **how)["attention_mask"].sum(1)
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, IGNORED)
        for row, length in enumerate(asked.tolist()):
            labels[row, :length] = IGNORED
        return batch | {"labels": labels}

    return collate


def train(spec: str, steps: int, out: str) -> tuple[Any, Any, tuple[float, float]]:
    """The model, its processor, and the loss on questions that it was not trained on, before and after."""
    model, processor = vtokens.load("scenes-llava", strategy=spec)
    settings = TrainingArguments(
        out, max_steps=steps, per_device_train_batch_size=16, per_device_eval_batch_size=16, learning_rate=2e-4, seed=0,
        report_to="none", save_strategy="no", disable_tqdm=True, remove_unused_columns=False, use_cpu=True,
    )  # fmt: skip
    data: Any = scenes.examples("train", n=16 * steps, kinds=KINDS)
    held_out: Any = scenes.examples("test", n=16, kinds=KINDS, seed=1)
    trainer = Trainer(model, settings, collator(processor), train_dataset=data, eval_dataset=held_out)
    trainer.remove_callback(PrinterCallback)  # which prints what is logged of each step
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    return model.eval(), processor, (before, trainer.evaluate()["eval_loss"])


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("spec", nargs="?", default="todre(keep=0.1)", help="strategies (%(default)s)")
    options.add_argument("--steps", type=int, default=20)
    options.add_argument("--out", help="where the trained model goes; nowhere if not given")
    chosen = options.parse_args()
    logging.disable_progress_bar()
    held_out = scenes.examples("test", n=60, kinds=KINDS)
    model, processor = vtokens.load("scenes-llava", strategy=chosen.spec)
    print(f"right before: {scenes.evaluate(model, processor, held_out)['overall']}")
    with tempfile.TemporaryDirectory() as folder:
        model, processor, (first, last) = train(chosen.spec, chosen.steps, chosen.out or folder)
    print(f"loss on held-out questions: {first:.3f}, and {last:.3f} after {chosen.steps} steps")
    print(f"right after:  {scenes.evaluate(model, processor, held_out)['overall']}")
    if chosen.out:
        model.save_pretrained(chosen.out)
        processor.save_pretrained(chosen.out)
        vtokens.save_pretrained(chosen.spec, chosen.out)  # vtokens.load(folder) attaches it again


if __name__ == "__main__":
    main()
