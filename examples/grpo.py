"""Reinforcement learning by TRL's GRPOTrainer with a strategy attached: what is sampled and what is trained is pruned.

GRPO feeds what it sampled a second time to get its likelihoods, padded on the right; a strategy sees the same prompt
then, and keeps the same tokens. Two settings matter. Checkpointing of activations, which TRL turns on, runs decoder
layers again without their tokens, and is refused. With `beta` above 0, TRL loads a reference model of its own, which
has no strategy: leave it at 0, or train an adapter, whose reference is the same model without it.

python -m examples.grpo
python -m examples.grpo "cls(keep=0.25)" --steps 50
"""

from __future__ import annotations

import argparse
import tempfile
from typing import Any

from datasets import Dataset
from transformers import PrinterCallback
from transformers.utils import logging
from trl import GRPOConfig, GRPOTrainer

import vtokens
from vtokens import scenes


def right(completions: list[Any], answer: list[str], **_: Any) -> list[float]:
    """The reward: 1 for the right answer, 0 for another."""
    return [float(one[0]["content"].strip() == want) for one, want in zip(completions, answer, strict=True)]


def questions(n: int) -> Dataset:
    """Questions as TRL takes them: a chat, its picture, and what the reward wants to know."""
    examples = scenes.examples("train", n=n, kinds=["count_all", "count_colour"])
    content = [[{"type": "image"}, {"type": "text", "text": one.question}] for one in examples]
    rows = zip(content, examples, strict=True)
    return Dataset.from_list([
        {"prompt": [{"role": "user", "content": asked}], "image": one.image, "answer": one.answer}
        for asked, one in rows
    ])  # fmt: skip


def train(spec: str, steps: int, samples: int = 8) -> tuple[GRPOTrainer, list[dict[str, float]]]:
    """The trainer, and what it logged of each step: the mean reward of `samples` answers to each of two questions."""
    model, processor = vtokens.load("scenes-llava", strategy=spec)
    with tempfile.TemporaryDirectory() as folder:
        settings = GRPOConfig(
            folder, max_steps=steps, per_device_train_batch_size=2 * samples, num_generations=samples,
            max_completion_length=8, learning_rate=1e-4, temperature=1.5, logging_steps=1, seed=0, report_to="none",
            save_strategy="no", disable_tqdm=True, use_cpu=True, bf16=False, gradient_checkpointing=False,
        )  # fmt: skip
        trainer = GRPOTrainer(model, right, settings, train_dataset=questions(2 * steps), processing_class=processor)
        trainer.remove_callback(PrinterCallback)  # which prints what is logged of each step
        trainer.train()
    return trainer, [row for row in trainer.state.log_history if "reward" in row]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("spec", nargs="?", default="todre(keep=0.1)", help="strategies (%(default)s)")
    options.add_argument("--steps", type=int, default=10)
    chosen = options.parse_args()
    logging.disable_progress_bar()
    trainer, steps = train(chosen.spec, chosen.steps)
    for number, step in enumerate(steps):
        print(f"step {number}: reward {step['reward']:.2f}, entropy {step['entropy']:.3f}, loss {step['loss']:+.4f}")
    print(vtokens.attachment(trainer.model))


if __name__ == "__main__":
    main()
