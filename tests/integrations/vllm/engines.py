"""Genuine vLLM engines on tiny models, and what transformers says of the same prompts with `attach`."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

import vtokens
from tests.families import build

FOLDER = Path(vtokens.__file__).parent / "scenes" / "weights"
GRID = "<|vision_start|><|image_pad|><|vision_end|>"
PICTURE = {"scenes-llava": "<image>", "scenes-qwen": GRID, "tiny-qwen3": GRID}
SETTINGS: dict[str, Any] = {
    "dtype": "float32", "enforce_eager": True, "max_model_len": 1024, "limit_mm_per_prompt": {"image": 2},
    "gpu_memory_utilization": 0.2, "max_num_seqs": 8,
    # Pictures are read in pieces.
    "max_num_batched_tokens": 64,
    # Shorter than the shortest prompt, so that prefixes are cached.
    "block_size": 32,
    # On the device vLLM normalises by numbers of its own where a checkpoint's file has none, as here.
    "mm_device_do_normalize": False,
}  # fmt: skip


@functools.cache
def folder(name: str) -> Path:
    """Where a model lies: an embedded one, or a tiny Qwen3-VL of the families' tests with heads as vLLM has them."""
    if name != "tiny-qwen3":
        return FOLDER / name
    rope = {"mrope_interleaved": True, "mrope_section": [4, 6, 6], "rope_theta": 10000.0, "rope_type": "default"}
    tiny, processor = build("qwen3_vl", text_config={"head_dim": 32, "rope_parameters": rope})
    home = Path(tempfile.mkdtemp())
    tiny.save_pretrained(home)
    processor.save_pretrained(home)
    # What our processor has of pictures alone, vLLM asks for of videos too.
    path = home / "processor_config.json"
    config = json.loads(path.read_text())
    config["image_processor"]["image_processor_type"] = "Qwen2VLImageProcessor"
    shared = {
        key: config["image_processor"][key] for key in ("patch_size", "merge_size", "temporal_patch_size", "size")
    }
    config["video_processor"] = {"video_processor_type": "Qwen3VLVideoProcessor", **shared}
    path.write_text(json.dumps(config))
    return home


class Asked(NamedTuple):
    """One prompt: its text, its pictures, and what is asked for them; None is what the server was started with."""

    text: str
    pictures: Sequence[Image.Image] = ()
    strategy: Any = None


def question(name: str, pictures: int = 1) -> str:
    """A prompt with so many pictures in it."""
    return f"<bos>USER: {PICTURE[name]} " * pictures + "what is in the picture ? ASSISTANT:"


def picture(width: int, height: int, seed: int) -> Image.Image:
    """A picture of soft waves and noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(width, height)
    waves = [np.sin(2 * np.pi * (rng.uniform(0.5, 3) * x + rng.uniform(0.5, 3) * y + rng.uniform())) for _ in range(3)]
    pixels = 128 + 90 * np.stack(waves, 2) + rng.normal(0, 12, (height, width, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@contextmanager
def engine(name: str, default: Any, **options: Any) -> Iterator[Any]:
    """vLLM with an embedded model, started with something under "vtokens"; its core runs in a process of its own."""
    from vllm import LLM

    llm = LLM(str(folder(name)), mm_processor_kwargs={"vtokens": default}, **{**SETTINGS, **options})
    try:
        yield llm
    finally:
        llm.llm_engine.engine_core.shutdown()


class Answer(NamedTuple):
    """The tokens of an answer, how likely each was (the logarithm), and how long the prompt was as it was fed."""

    tokens: list[int]
    likely: list[float]
    fed: int
    cached: int = 0


def answers(llm: Any, asked: Sequence[Asked], tokens: int = 8) -> list[Answer]:
    """What vLLM answers, all prompts at once."""
    from vllm import SamplingParams

    prompts = []
    for one in asked:
        prompt: dict[str, Any] = {"prompt": one.text}
        if one.pictures:
            prompt["multi_modal_data"] = {"image": list(one.pictures)}
        if one.strategy is not None:
            prompt["mm_processor_kwargs"] = {"vtokens": one.strategy}
        prompts.append(prompt)
    settings = SamplingParams(temperature=0, max_tokens=tokens, min_tokens=tokens, logprobs=0)
    found = []
    for output in llm.generate(prompts, settings, use_tqdm=False):
        own = output.outputs[0]
        likely = [step[token].logprob for step, token in zip(own.logprobs, own.token_ids, strict=True)]
        found.append(Answer([*own.token_ids], likely, len(output.prompt_token_ids), output.num_cached_tokens or 0))
    return found


@functools.cache
def model(name: str) -> tuple[Any, Any]:
    """The same model in transformers, and its processor."""
    loaded = AutoModelForImageTextToText.from_pretrained(folder(name), dtype=torch.float32)
    return loaded.eval(), AutoProcessor.from_pretrained(folder(name))


@torch.no_grad()
def reference(name: str, asked: Asked, spec: str, tokens: int = 8) -> Answer:
    """What transformers answers to one prompt under a strategy that is attached."""
    target, processor = model(name)
    batch = processor(text=[asked.text], images=list(asked.pictures) or None, return_tensors="pt")
    with vtokens.attach(target, spec) as handle:
        output = target.generate(
            **batch, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, return_dict_in_generate=True,
            output_logits=True,
        )  # fmt: skip
        fed = len(handle.report().samples[0].positions[0]) if asked.pictures else batch["input_ids"].shape[1]
    ids = output.sequences[0, batch["input_ids"].shape[1] :].tolist()
    likely = [step.log_softmax(-1)[0, one].item() for step, one in zip(output.logits, ids, strict=True)]
    return Answer(ids, likely, fed)
