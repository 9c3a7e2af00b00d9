"""Tiny configurations and processors of families whose towers timm brings; there are none where it does not import."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import CLIPImageProcessor, LlavaProcessor

from vtokens.loading.processors import pictures_only

from .configs import LLAMA, TEXT

try:  # with a torchvision that imports; tests/environments/test_timm.py sees to both
    import timm  # noqa: F401
except (ImportError, RuntimeError):
    HERE = False
else:
    HERE = True

_TEXT = {"bos": "<s>", "eos": "</s>", "pad": "<pad>", "image": "<image>"}
CONFIGS: dict[str, dict[str, Any]] = {
    # 4 x 4 patches behind a class token, of which a mean makes 2 x 2 tokens.
    "perception_lm": {
        "text_config": LLAMA,
        "vision_config": {
            "model_type": "timm_wrapper", "architecture": "vit_pe_core_large_patch14_336",
            "model_args": {
                "embed_dim": 32, "depth": 4, "num_heads": 4, "img_size": [56, 56], "ref_feat_shape": [4, 4],
                "use_post_transformer_norm": False, "global_pool": "", "init_values": 0.5,
            },
        },
        "projector_pooling_ratio": 2,
    },
    # Convolutions with a stride of 64 in all make 4 x 4 cells.
    "fast_vlm": {
        "text_config": {**TEXT, "model_type": "qwen2"},
        "vision_config": {
            "model_type": "timm_wrapper", "architecture": "fastvit_mci3", "hidden_size": 64, "do_pooling": True,
            "global_pool": "avg",
            "model_args": {"inference_mode": True, "layers": [1] * 5, "embed_dims": [8, 8, 8, 32, 32]},
        },
    },
}  # fmt: skip
TOKENS = {"perception_lm": {**_TEXT, "video": "<video>"}, "fast_vlm": _TEXT}


def _perception_lm(config: Any, tok: Any) -> Any:
    from transformers import PerceptionLMImageProcessor, PerceptionLMProcessor  # which ask for torchvision

    # Pictures of several sizes are cut into as many tiles as each needs, which transformers then cannot batch.
    tiles = PerceptionLMImageProcessor(tile_size=56, max_num_tiles=4, vision_input_type="vanilla")
    return pictures_only(PerceptionLMProcessor)(image_processor=tiles, tokenizer=tok, patch_size=14, pooling_ratio=2)


def _fast_vlm(config: Any, tok: Any) -> Any:
    pixels = CLIPImageProcessor(size={"shortest_edge": 256}, crop_size={"height": 256, "width": 256})
    return LlavaProcessor(
        pixels, tok, patch_size=64, vision_feature_select_strategy="full", num_additional_image_tokens=0
    )


PROCESSORS: dict[str, Callable[[Any, Any], Any]] = {"perception_lm": _perception_lm, "fast_vlm": _fast_vlm}
