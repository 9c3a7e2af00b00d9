"""Genuine vLLM engines on tiny models, and what transformers says of the same prompts with `attach`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

import vtokens


class Asked(NamedTuple):
    """One prompt: its text, its pictures, and what is asked for them; None is what the server was started with."""

    text: str
    pictures: Sequence[Image.Image]
    strategy: Any = None


def picture(width: int, height: int, seed: int) -> Image.Image:
    """A picture of soft waves and noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(width, height)
    waves = [np.sin(2 * np.pi * (rng.uniform(0.5, 3) * x + rng.uniform(0.5, 3) * y + rng.uniform())) for _ in range(3)]
    pixels = 128 + 90 * np.stack(waves, 2) + rng.normal(0, 12, (height, width, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@contextmanager
def engine(folder: Path, default: Any, **options: Any) -> Iterator[Any]:
    """vLLM with a model, in float32, started with something under "vtokens"; its core runs in a process of its own."""
    from vllm import LLM

    kwargs = {} if default is None else {"mm_processor_kwargs": {"vtokens": default}}
    llm = LLM(
        str(folder), dtype="float32", enforce_eager=True, max_model_len=1024, limit_mm_per_prompt={"image": 2},
        gpu_memory_utilization=0.2, disable_log_stats=False, **kwargs, **options,
    )  # fmt: skip
    try:
        yield llm
    finally:
        llm.llm_engine.engine_core.shutdown()


class Answer(NamedTuple):
    """The ids of a prompt as it was fed, those of the answer, and the logarithm of how likely each of these was."""

    prompt: list[int]
    tokens: list[int]
    likely: list[float]
    cached: int = 0


def answers(llm: Any, asked: Sequence[Asked], tokens: int = 8) -> list[Answer]:
    """What vLLM answers, all prompts at once."""
    from vllm import SamplingParams

    prompts = []
    for one in asked:
        prompt: dict[str, Any] = {"prompt": one.text, "multi_modal_data": {"image": list(one.pictures)}}
        if one.strategy is not None:
            prompt["mm_processor_kwargs"] = {"vtokens": one.strategy}
        prompts.append(prompt)
    settings = SamplingParams(temperature=0, max_tokens=tokens, min_tokens=tokens, logprobs=0)
    found = []
    for output in llm.generate(prompts, settings, use_tqdm=False):
        own = output.outputs[0]
        likely = [step[token].logprob for step, token in zip(own.logprobs, own.token_ids, strict=True)]
        found.append(Answer(list(output.prompt_token_ids), list(own.token_ids), likely, output.num_cached_tokens or 0))
    return found


@torch.no_grad()
def reference(model: Any, processor: Any, asked: Asked, spec: str, tokens: int = 8) -> Answer:
    """What transformers answers to one prompt under a strategy that is attached."""
    batch = processor(text=[asked.text], images=list(asked.pictures) or None, return_tensors="pt")
    with vtokens.attach(model, spec):
        output = model.generate(
            **batch, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, return_dict_in_generate=True,
            output_logits=True,
        )  # fmt: skip
    length = batch["input_ids"].shape[1]
    ids = output.sequences[0, length:].tolist()
    likely = [step.log_softmax(-1)[0, one].item() for step, one in zip(output.logits, ids, strict=True)]
    return Answer(batch["input_ids"][0].tolist(), ids, likely)
