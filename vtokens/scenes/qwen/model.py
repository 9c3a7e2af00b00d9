"""The tiny Qwen2.5-VL for scenes: its tokenizer, its processor and its configuration, all genuine transformers classes.

2.1 million parameters: a tower with windows (96 px, patch 6, merged 2 x 2: 64 visual tokens for a picture, and for two
frames of a video) and a decoder of 6 layers with M-RoPE. One word is one token, with the number it has in scenes-llava.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtokens.core.writing import write_text

from ..model import WORDS as OLDER
from ..model import tokenizer_of
from ..world import IMAGE

if TYPE_CHECKING:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

PATCH, MERGE, PAIR = 6, 2, 2  #: pixels on a side; patches on a side and frames that become one visual token
TOKEN = PATCH * MERGE  #: pixels on a side of a visual token
SIDE = IMAGE // TOKEN  #: visual tokens on a side
WINDOW = IMAGE // 2  #: pixels on a side of a window of the tower

SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>", "<|image_pad|>", "USER:", "ASSISTANT:")
LATER = ("<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
_MOTION = (
    *(
        "which",
        "way",
        "does",
        "move",
        "left",
        "right",
        "up",
        "down",
        "still",
        "comes",
        "first",
        "or",
        "often",
        "appear",
    ),
    *("frame", "only", "video"),
)
WORDS = SPECIAL + OLDER[len(SPECIAL) :] + LATER + tuple(w for w in _MOTION if w not in OLDER)

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}USER: {% elif message['role'] == 'assistant' %}ASSISTANT: {% endif %}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] if part['type'] in ('image', 'video') %}"
    "<|vision_start|><|{{ part['type'] }}_pad|><|vision_end|>\n{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}{% endif %}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% else %} {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def build_tokenizer() -> Any:
    """The word-level tokenizer as a fast tokenizer; as that of scenes-llava, with Qwen's tokens around visual ones."""
    return tokenizer_of(WORDS, (*SPECIAL, *LATER), [*SPECIAL[4:], *LATER])


def build_config() -> Qwen2_5_VLConfig:
    """The configuration.

    rope_theta is 20: with the usual 10000 the width's share of a head of 32 turns so slowly that columns are not told
    apart. A step of two frames at two frames a second is one position further.
    """
    from transformers import Qwen2_5_VLConfig

    ids = {w: i for i, w in enumerate(WORDS)}
    ends: dict[str, Any] = {"bos_token_id": ids["<bos>"], "eos_token_id": ids["<eos>"], "pad_token_id": ids["<pad>"]}
    return Qwen2_5_VLConfig(
        vision_config={
            "depth": 4,
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_heads": 4,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": PAIR,
            "tokens_per_second": 1,
            "window_size": WINDOW,
            "out_hidden_size": 128,
            "fullatt_block_indexes": [1, 3],
        },
        text_config={
            "vocab_size": len(WORDS),
            "hidden_size": 128,
            "intermediate_size": 352,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 32768,
            "rope_parameters": {"rope_type": "default", "rope_theta": 20.0, "mrope_section": [4, 6, 6]},
            "tie_word_embeddings": False,
            **ends,
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=False,
        **ends,
    )


def build_model(seed: int = 0) -> Qwen2_5_VLForConditionalGeneration:
    """The model with random weights drawn from `seed`, float32, in eval mode."""
    import torch
    from transformers import Qwen2_5_VLForConditionalGeneration

    config = build_config()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2_5_VLForConditionalGeneration(config).float().eval()
        # Word embeddings this large are what lets the language model learn look-ups within minutes.
        torch.nn.init.normal_(model.get_input_embeddings().weight, std=0.3)
    text = config.get_text_config()
    model.generation_config.update(
        do_sample=False,
        max_new_tokens=40,
        bos_token_id=text.bos_token_id,
        eos_token_id=text.eos_token_id,
        pad_token_id=text.pad_token_id,
    )
    return model


def processor_settings() -> dict[str, Any]:
    """What is saved of the processor but its tokenizer: pictures and frames have 96 x 96 pixels, or as many.

    They are written down, not saved by transformers: its video part is not to be had without torchvision.
    """
    from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

    cut = {
        "size": {"shortest_edge": IMAGE * IMAGE, "longest_edge": IMAGE * IMAGE},
        "patch_size": PATCH,
        "merge_size": MERGE,
        "temporal_patch_size": PAIR,
        # Those that transformers takes where none are named; engines that read this file by themselves take others.
        "image_mean": OPENAI_CLIP_MEAN,
        "image_std": OPENAI_CLIP_STD,
    }
    return {
        "processor_class": "Qwen2_5_VLProcessor",
        "image_processor": {"image_processor_type": "Qwen2VLImageProcessor", **cut},
        "video_processor": {"video_processor_type": "Qwen2VLVideoProcessor", "cap_pixels_per_frame": False, **cut},
    }


def save(model: Qwen2_5_VLForConditionalGeneration, folder: str | Path) -> Path:
    """Write model, tokenizer and processor as a Hugging Face folder (safetensors and JSON only); returns the folder."""
    folder = Path(folder)
    model.save_pretrained(folder, safe_serialization=True)
    build_tokenizer().save_pretrained(folder)
    write_text(folder / "processor_config.json", json.dumps(processor_settings(), indent=2) + "\n")
    write_text(folder / "chat_template.jinja", CHAT_TEMPLATE)
    return folder
