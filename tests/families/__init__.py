"""Tiny genuine models and processors of the supported families, and batches for them.

model, processor = build("qwen2_5_vl")
batch = inputs(processor, ["Is there a <image> cat?", "hi"], [[image(84, 112, seed=0)], []])
model.generate(**batch)
"""

from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from transformers import (
    AutoModelForImageTextToText,
    BatchFeature,
    Gemma3Processor,
    GenerationConfig,
    Idefics3Processor,
    MllamaProcessor,
    Ovis2Processor,
)

import vtokens
from vtokens.adapters import llama4
from vtokens.core.errors import unknown
from vtokens.core.versions import installed

from . import of_timm
from .adapted import CONFIGS
from .by_hand import Prefixed
from .configs import BASE, CROSS, PROOF, RECURRENT, configuration
from .processors import processor, tokenizer

__all__ = [
    "ALL", "BLIND", "BROKEN", "EVERY", "FAMILIES", "MARK", "OUTSIDE", "STATEFUL", "answer_kind", "build", "image",
    "inputs",
]  # fmt: skip

FAMILIES: tuple[str, ...] = tuple(BASE)
EVERY: tuple[str, ...] = (*FAMILIES, *PROOF)
BROKEN: tuple[str, ...] = ("llama4",) if installed("transformers") in llama4.BROKEN else ()
"""Families that the transformers here cannot run itself; attaching refuses them."""
ALL: tuple[str, ...] = (*EVERY, *(name for name in CONFIGS if name in vtokens.models() and name not in BROKEN))
"""With those that need an adapter only: what holds for a family is drawn for all, and mechanisms for `EVERY`."""
STATEFUL: tuple[str, ...] = tuple(RECURRENT)
"""Families with decoder layers that keep a state in place of keys: what is dropped is not what is masked."""
BLIND: tuple[str, ...] = tuple(family for family in of_timm.CONFIGS if of_timm.HERE)
"""Families into whose towers nobody can look: strategies that ask for their scores are refused."""
OUTSIDE: tuple[str, ...] = tuple(CROSS)
"""Families whose visual tokens stand outside the sequence: pruners alone act on them, by a path of their own."""
TOWER_QK_GAIN = 1.6
QK_NORM_GAIN = 1.4
MARK = "<image>"  # where an image goes in a prompt, whatever the family calls its own placeholder


def _known(family: str) -> str:
    """`family` itself; ValueError naming the nearest one if there is no such family."""
    known = (*ALL, *BROKEN, *STATEFUL, *OUTSIDE)
    if family not in known:
        raise unknown("family", family, known)
    return family


def build(family: str, seed: int = 0, *, attn_implementation: str = "sdpa", **config_overrides: Any) -> tuple[Any, Any]:
    """A tiny genuine model of `family` (float32, evaluation mode, CPU) with random weights, and its processor.

    The same `seed` gives the same weights; the global random state is left alone. `config_overrides` go to
    `configs.configuration` (`text_config=` and `vision_config=` are merged), and the processor follows them.
    Raises ValueError for an unknown family.
    """
    tok = tokenizer(_known(family))
    config = configuration(family, tok, **config_overrides)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForImageTextToText.from_config(
            config, attn_implementation=attn_implementation, dtype=torch.float32
        )
        for name, weight in model.named_parameters():
            # Biases start at 0 and norm scales at 1: move them, or code that forgets one of them would pass every test.
            if weight.ndim == 1:
                weight.data.add_(0.1 * torch.randn_like(weight))
                # Normed queries and keys prefer little, whatever their projections are.
                if "q_norm" in name or "k_norm" in name:
                    # Gemma 3's norms count from 1, and so do Qwen3.5's.
                    if family == "gemma3" or family in RECURRENT:
                        weight.data.add_(0.6)
                    else:  # Gemma 4 scales their products by 1
                        weight.data.mul_(0.7 if family == "gemma4" else QK_NORM_GAIN)
                if name.endswith("A_log"):  # or states would have forgotten all but the last few tokens
                    weight.data.sub_(4.0)
                if name.endswith(("gate", "gate_attn", "gate_ffn")):  # Mllama's start at 0
                    weight.data.add_(1.0)
            elif ".timm_model." in name and weight.ndim > 2:  # convolutions, which start so small that all is lost
                weight.data.normal_(std=2 * weight[0].numel() ** -0.5)
            elif ".vit_merger." in name:  # which starts with numbers so large that attention in it is all or nothing
                weight.data.normal_(std=0.2)
            elif (
                "mm_input_projection" in name
                or "position_embedding_table" in name
                or name.endswith("positional_embedding")
            ):
                weight.data.normal_(std=0.3)  # which start at one number
            # No setting of CLIP's or SigLIP's own initialisation gives towers attention that prefers anything.
            elif any(part in name for part in ("_tower.", "vision_model")) and ("q_proj" in name or "k_proj" in name):
                weight.data.mul_(TOWER_QK_GAIN)
    ids = {f"{name}_token_id": getattr(tok, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    model.generation_config = GenerationConfig(**ids)
    return model.eval(), processor(family, config, tok)


@lru_cache(maxsize=len(ALL) + len(STATEFUL) + len(OUTSIDE))
def _processor(family: str) -> Any:
    """The default processor of `family`, kept between calls."""
    tok = tokenizer(_known(family))
    return processor(family, configuration(family, tok), tok)


def image(width: int, height: int, seed: int) -> Image.Image:
    """An RGB image of `width` x `height` pixels: three soft waves per channel, a bright box, and some noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    pixels = np.full((height, width, 3), 128.0)
    for channel in range(3):
        for _ in range(3):
            fx, fy, phase = rng.uniform(-4, 4), rng.uniform(-4, 4), rng.uniform(0, 2 * np.pi)
            pixels[..., channel] += 60 * np.sin(2 * np.pi * (fx * x + fy * y) + phase)
    top, left = rng.integers(0, height // 2 + 1), rng.integers(0, width // 2 + 1)
    pixels[top : top + height // 3 + 1, left : left + width // 3 + 1] = rng.uniform(0, 255, 3)
    pixels += rng.normal(0, 20, pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def inputs(
    family_or_processor: Any,
    prompts: list[str],
    images: list[list[Image.Image]] | None = None,
    padding_side: Literal["left", "right"] = "left",
) -> BatchFeature:
    """A padded batch of tensors for `model(**batch)` or `model.generate(**batch)`.

    The first argument is a family's name, or the processor that `build` gave with a model of changed configuration.
    `images[i]` are the 0 or more images of `prompts[i]`, in order. Each "<image>" in a prompt takes one of them; those
    left over go in front of the text. Every placeholder is written as the family writes it (`<image>`, or
    `<|vision_start|><|image_pad|><|vision_end|>`).
    Raises ValueError where the lists differ in length or a prompt has more marks than images.
    """
    proc = _processor(family_or_processor) if isinstance(family_or_processor, str) else family_or_processor
    groups = images if images is not None else [[] for _ in prompts]
    if len(groups) != len(prompts):
        raise ValueError(f"images has {len(groups)} lists for {len(prompts)} prompts; give one list, maybe empty, each")
    token = "<image>" if isinstance(proc, Ovis2Processor) else proc.image_token
    # Families of three rotary axes write something around: no prompt of theirs ends with its picture.
    names = [name for name in ("vision", "image") if hasattr(proc.tokenizer, f"{name}_start_token")]
    around = [getattr(proc.tokenizer, f"{names[0]}_{side}_token") if names else "" for side in ("start", "end")]
    slot = token.join(around)
    lead = f"{slot}\n" if slot == token else slot
    texts = []
    for prompt, group in zip(prompts, groups, strict=True):
        spare = len(group) - prompt.count(MARK)
        if spare < 0:
            raise ValueError(f"prompt {prompt!r} has {prompt.count(MARK)} {MARK} marks for {len(group)} images")
        texts.append(lead * spare + prompt.replace(MARK, slot))
    # Nested, because LLaVA-OneVision cuts crops only for samples of a single image; empty lists it would index into.
    given = (
        [group for group in groups if group or isinstance(proc, Idefics3Processor | Gemma3Processor | MllamaProcessor)]
        if any(groups)
        else None
    )
    return proc(images=given, text=texts, padding=True, padding_side=padding_side, return_tensors="pt")


def answer_kind(processor: Any, name: str) -> int:
    """The kind, among the inputs called `name`, of text that answers a prompt: PaliGemma's prompts are of kind 0."""
    return int(isinstance(processor, Prefixed) and name == "token_type_ids")
