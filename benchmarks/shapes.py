"""The models that are timed: genuine classes with random weights, and prompts with 576 visual tokens a picture."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, GenerationConfig, PreTrainedModel

# LLaVA-1.5: CLIP ViT-L/14 at 336 pixels and Vicuna-7B (hub: llava-hf/llava-1.5-7b-hf, config.json).
LLAVA_7B: dict[str, Any] = {
    "model_type": "llava",
    "image_token_id": 32000,
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default",
    "text_config": {
        "model_type": "llama",
        "vocab_size": 32064,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 4096,
    },
    "vision_config": {
        "model_type": "clip_vision_model",
        "image_size": 336,
        "patch_size": 14,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "projection_dim": 768,
    },
}
# The same at a quarter of every width and half the depth: 128 and 64 channels a head and 576 visual tokens stay.
LLAVA_300M: dict[str, Any] = LLAVA_7B | {
    "text_config": LLAVA_7B["text_config"]
    | {"hidden_size": 1024, "intermediate_size": 2752, "num_hidden_layers": 16, "num_attention_heads": 8},
    "vision_config": LLAVA_7B["vision_config"]
    | {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 12, "num_attention_heads": 4},
}
# Hub: Qwen/Qwen2.5-VL-7B-Instruct, config.json.
QWEN_7B: dict[str, Any] = {
    "model_type": "qwen2_5_vl",
    "image_token_id": 151655,
    "video_token_id": 151656,
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
    "tie_word_embeddings": False,
    "text_config": {
        "vocab_size": 152064,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "rope_parameters": {"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1000000.0},
    },
    "vision_config": {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "out_hidden_size": 3584,
        "window_size": 112,
        "fullatt_block_indexes": [7, 15, 23, 31],
    },
}
# A stand-in for the smoke run of the Qwen shape where there is no GPU: an eighth of its widths, four layers.
QWEN_QUICK: dict[str, Any] = QWEN_7B | {
    "text_config": QWEN_7B["text_config"]
    | {"hidden_size": 512, "intermediate_size": 2368, "num_hidden_layers": 4, "num_attention_heads": 4}
    | {"num_key_value_heads": 2, "vocab_size": 152064},
    "vision_config": QWEN_7B["vision_config"]
    | {"depth": 4, "hidden_size": 320, "intermediate_size": 856, "num_heads": 4, "out_hidden_size": 512}
    | {"fullatt_block_indexes": [1, 3]},
}
LLAVA_QUICK: dict[str, Any] = LLAVA_300M | {
    "text_config": LLAVA_300M["text_config"] | {"hidden_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4}
}
SHAPES = {
    "llava-300m": LLAVA_300M,
    "llava-1.5-7b": LLAVA_7B,
    "qwen2.5-vl-7b": QWEN_7B,
    "llava-quick": LLAVA_QUICK,
    "qwen-quick": QWEN_QUICK,
}


def build(shape: str, device: torch.device, dtype: torch.dtype) -> PreTrainedModel:
    """The model of `SHAPES[shape]` with random weights (seed 0), in evaluation mode; it never stops by itself."""
    config = AutoConfig.for_model(**SHAPES[shape])
    torch.manual_seed(0)
    with device:
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype, attn_implementation="sdpa")
    model.generation_config = GenerationConfig(pad_token_id=0, do_sample=False)
    return model.eval()


def prompt(model: PreTrainedModel, text: tuple[int, ...], pictures: int = 1) -> dict[str, torch.Tensor]:
    """A left-padded batch with pictures of 576 visual tokens each.

    Args:
        model: decides how a picture is written.
        text: text tokens of each row, half of them before the pictures; marks around a picture are not counted.
        pictures: how many a row has, side by side.

    Returns:
        What `generate` takes, on the model's device; pixels are noise in the model's dtype.
    """
    config, gen, qwen = model.config, torch.Generator().manual_seed(1), model.config.model_type == "qwen2_5_vl"
    block, count = torch.full((576,), config.image_token_id), len(text) * pictures
    if qwen:
        marks = torch.tensor([config.vision_start_token_id]), torch.tensor([config.vision_end_token_id])
        block = torch.cat([marks[0], block, marks[1]])
    rows = []
    for length in text:
        words = torch.randint(5, 30000, (length,), generator=gen)
        rows.append(torch.cat([words[: length // 2], block.repeat(pictures), words[length // 2 :]]))
    longest = max(map(len, rows))
    ids = torch.stack([torch.nn.functional.pad(row, (longest - len(row), 0)) for row in rows])
    batch = {"input_ids": ids, "attention_mask": (ids != 0).long()}
    if qwen:  # 48 x 48 patches of 672 pixels, merged 2 x 2
        batch["pixel_values"] = torch.randn(count * 48 * 48, 3 * 2 * 14 * 14, generator=gen).to(model.dtype)
        batch["image_grid_thw"] = torch.tensor([[1, 48, 48]] * count)
        batch["mm_token_type_ids"] = (ids == config.image_token_id).long()
    else:
        batch["pixel_values"] = torch.randn(count, 3, 336, 336, generator=gen).to(model.dtype)
    return {name: value.to(model.device) for name, value in batch.items()}
