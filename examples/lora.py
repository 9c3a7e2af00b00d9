"""A LoRA adapter of PEFT, trained, saved, loaded again and merged, with a strategy attached all the while.

python -m examples.lora
python -m examples.lora "cls(keep=0.1)" --steps 60
"""

from __future__ import annotations

import argparse
import tempfile
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers.utils import logging

import vtokens
from vtokens import scenes


def batch(processor: Any, examples: list[scenes.Example]) -> dict[str, Any]:
    """Questions with their answers; labels are the answers', so that the strategy sees what each prompt is."""
    end = processor.tokenizer.eos_token
    prompts = [scenes.prompt(processor, one.question) for one in examples]
    answers = [f" {one.answer}{end}" for one in examples]
    texts = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
    images = [[one.image] for one in examples]
    made = dict(processor(images=images, text=texts, padding=True, padding_side="left", return_tensors="pt"))
    labels = torch.full_like(made["input_ids"], -100)
    for row, answer in enumerate(answers):
        length = len(processor.tokenizer(answer, add_special_tokens=False)["input_ids"])
        labels[row, -length:] = made["input_ids"][row, -length:]
    return made | {"labels": labels}


def train(model: Any, processor: Any, steps: int) -> list[float]:
    """The loss of each step; only the adapter learns."""
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser, losses = torch.optim.AdamW(learned, lr=2e-3), []
    examples = scenes.examples("train", n=16 * steps, kinds=["count_all", "count_colour"])
    model.train()
    for step in range(steps):
        loss = model(**batch(processor, examples[16 * step : 16 * step + 16])).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
    model.eval()
    return losses


def adapted(spec: str, steps: int, folder: str) -> tuple[Any, Any, list[float]]:
    """The model with its adapter, which `folder` holds from then on, its processor, and the losses."""
    model, processor = vtokens.load("scenes-llava", strategy=spec)
    torch.manual_seed(0)
    wrapped = get_peft_model(model, LoraConfig(r=8, target_modules=r".*language_model.*\.(q|v)_proj"))
    losses = train(wrapped, processor, steps)
    wrapped.save_pretrained(folder)
    vtokens.save_pretrained(spec, folder)
    return wrapped, processor, losses


def again(spec: str, folder: str) -> Any:
    """The same from its folder, merged: a plain model with the strategy attached."""
    model, _ = vtokens.load("scenes-llava", strategy=spec)
    return PeftModel.from_pretrained(model, folder).merge_and_unload()


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("spec", nargs="?", default="todre(keep=0.1)", help="strategies (%(default)s)")
    options.add_argument("--steps", type=int, default=20)
    chosen = options.parse_args()
    logging.disable_progress_bar()
    held_out = scenes.examples("test", n=60, kinds=["count_all", "count_colour"])
    model, processor = vtokens.load("scenes-llava", strategy=chosen.spec)
    print(f"right before: {scenes.evaluate(model, processor, held_out)['overall']}")
    with tempfile.TemporaryDirectory() as folder:
        wrapped, processor, losses = adapted(chosen.spec, chosen.steps, folder)
        merged = again(chosen.spec, folder)
    wrapped.print_trainable_parameters()
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f} in {len(losses)} steps")
    print(f"right after:  {scenes.evaluate(merged, processor, held_out)['overall']}")
    print(f"{type(merged).__name__}, {vtokens.attachment(merged)}")


if __name__ == "__main__":
    main()
