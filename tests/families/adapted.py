"""Tiny configurations and processors of the families that need an adapter only: nothing of the engine is about them.

Decoders and towers have the sizes of `configs`.
"""

from collections.abc import Callable
from typing import Any

from transformers import (
    AyaVisionProcessor,
    DeepseekVLProcessor,
    Glm4vProcessor,
    Glm46VProcessor,
    InternVLProcessor,
    JanusProcessor,
    LlavaNextVideoProcessor,
    LlavaProcessor,
    Ovis2Processor,
    Qwen2_5OmniProcessor,
    Qwen3OmniMoeProcessor,
    VideoLlavaProcessor,
    WhisperFeatureExtractor,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.deepseek_vl.image_processing_pil_deepseek_vl import DeepseekVLImageProcessorPil
from transformers.models.glm4v.image_processing_pil_glm4v import Glm4vImageProcessorPil
from transformers.models.glm46v.image_processing_pil_glm46v import Glm46VImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.janus.image_processing_pil_janus import JanusImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.ovis2.image_processing_pil_ovis2 import Ovis2ImageProcessorPil
from transformers.models.paddleocr_vl.image_processing_pil_paddleocr_vl import PaddleOCRVLImageProcessorPil
from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from vtokens.loading.processors import pictures_only

from . import of_timm
from .by_hand import Pages, Patches, Pooled, Rows, Separated, Tiled, Unbroken
from .configs import BASE, CLIP, LLAMA, PROOF, SIGLIP, TEXT, TOWER

_LLAMA = {"bos": "<s>", "eos": "</s>", "pad": "<pad>", "image": "<image>"}
_GLM_TOWER = {
    "depth": 4, "num_heads": 4, "hidden_size": 32, "out_hidden_size": 64, "intermediate_size": 64, "patch_size": 14,
    "image_size": 56, "spatial_merge_size": 2, "temporal_patch_size": 2, "initializer_range": 0.2,
}  # fmt: skip
_GLM_TEXT = {**TEXT, "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}}
_GLM_TOKENS = {
    "eos": "<|user|>", "pad": "<|endoftext|>", "image": "<|image|>", "video": "<|video|>",
    "image_start": "<|begin_of_image|>", "image_end": "<|end_of_image|>",
    "video_start": "<|begin_of_video|>", "video_end": "<|end_of_video|>",
}  # fmt: skip
_BARE_TOWER = {name: TOWER[name] for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "patch_size")}
_EARS = {
    "num_mel_bins": 16, "d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 64,
    "n_window": 8, "output_dim": 64, "max_source_positions": 64, "initializer_range": 0.2,
}  # fmt: skip
_OMNI_TOKENS = {
    "eos": "<|im_end|>", "pad": "<|endoftext|>", "image": "<|image_pad|>", "video": "<|video_pad|>",
    "audio": "<|audio_pad|>", "vision_start": "<|vision_start|>", "vision_end": "<|vision_end|>",
    "vision_bos": "<|vision_start|>", "vision_eos": "<|vision_end|>", "audio_start": "<|audio_start|>",
    "audio_end": "<|audio_end|>", "audio_bos": "<|audio_start|>", "audio_eos": "<|audio_end|>",
}  # fmt: skip
PIXTRAL = {**TOWER, "model_type": "pixtral", "image_size": 112, "initializer_range": 0.2}

CONFIGS: dict[str, dict[str, Any]] = {
    # Tiles of 4 x 4 patches, of which a shuffle makes 2 x 2 tokens.
    "internvl": {
        "text_config": {**TEXT, "model_type": "qwen2"},
        "vision_config": {
            **TOWER, "image_size": [56, 56], "patch_size": [14, 14], "initializer_range": 0.2,
            "layer_scale_init_value": 0.7, "use_qk_norm": False,
        },
        "downsample_ratio": 0.5,
    },
    "llava_next_video": BASE["llava_next"],
    "vipllava": {
        "text_config": LLAMA,
        "vision_config": CLIP,
        "vision_feature_layer": [-2, -3, 1],
        "image_seq_length": 16,
    },
    "glm4v": {"text_config": _GLM_TEXT, "vision_config": _GLM_TOWER},
    "glm46v": {"text_config": _GLM_TEXT, "vision_config": _GLM_TOWER},
    "glm4v_moe": {
        "text_config": {
            **_GLM_TEXT, "head_dim": 16, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64,
            "first_k_dense_replace": 1,
            "rope_parameters": {**_GLM_TEXT["rope_parameters"], "partial_rotary_factor": 1.0},
        },
        "vision_config": _GLM_TOWER,
    },
    "janus": {
        "text_config": LLAMA,
        "vision_config": {
            **_BARE_TOWER, "image_size": 56, "mlp_ratio": 2, "projection_dim": 64, "num_image_tokens": 16,
            "initializer_range": 0.2,
        },
        "vq_config": {
            "num_embeddings": 16, "latent_channels": 16, "base_channels": 32, "channel_multiplier": [1],
            "num_patches": 4, "num_res_blocks": 1, "projection_dim": 64, "image_token_embed_dim": 64,
        },
    },
    "aya_vision": {
        "text_config": {
            **TEXT, "model_type": "cohere2", "sliding_window": 4096,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
        },
        "vision_config": SIGLIP,
    },
    "ovis2": {
        "text_config": {**TEXT, "model_type": "qwen2"},
        "vision_config": {**TOWER, "vocab_size": 40, "hidden_stride": 2, "initializer_range": 0.2},
        "hidden_size": 64,
        "tie_word_embeddings": False,
    },
    "deepseek_vl": {"text_config": LLAMA, "vision_config": {**SIGLIP}},
    # Up to 8 x 8 patches, of which a merger makes 4 x 4 tokens.
    "mistral3": {
        "text_config": {**TEXT, "model_type": "mistral", "sliding_window": None},
        "vision_config": PIXTRAL,
        "spatial_merge_size": 2,
    },
    "lighton_ocr": {
        "text_config": {**TEXT, "model_type": "qwen3", "head_dim": 16, "sliding_window": None},
        "vision_config": PIXTRAL,
        "spatial_merge_size": 2,
        "tie_word_embeddings": False,
    },
    # Latents of 16 and rotated parts of 8 are cached; queries and keys have 16, values 12.
    "kimi_k25": {
        "text_config": {
            **TEXT, "model_type": "deepseek_v3", "num_key_value_heads": 4, "kv_lora_rank": 16, "q_lora_rank": 16,
            "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 12, "first_k_dense_replace": 3, "n_group": 1,
            "topk_group": 1, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1,
            "moe_intermediate_size": 64, "initializer_range": 0.3,
        },
        "vision_config": {
            **{name: value for name, value in TOWER.items() if name != "image_size"},
            "pos_emb_height": 8, "pos_emb_width": 8, "initializer_range": 0.2,
        },
        "projection_hidden_size": 32,
        "tie_word_embeddings": False,
    },
    "paddleocr_vl": {
        "text_config": {
            **TEXT, "head_dim": 16,
            "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0},
        },
        "vision_config": {**TOWER, "spatial_merge_size": 2, "initializer_range": 0.2},
        "tie_word_embeddings": False,
    },
    # Tiles of 4 x 4 patches, of which a shuffle makes 2 x 2 tokens. Every other layer attends to all, turns nothing and
    # has experts: one that all tokens go through, and one of two others. Queries and keys are normed to one length, so
    # that heads of 32 prefer as much as others of 16 do.
    "llama4": {
        "text_config": {
            **TEXT, "head_dim": 32, "intermediate_size": 64, "intermediate_size_mlp": 128, "num_local_experts": 2,
            "interleave_moe_layer_step": 2, "no_rope_layer_interval": 2,
        },
        "vision_config": {
            **TOWER, "intermediate_size": 128, "projector_input_dim": 48, "projector_output_dim": 48,
            "vision_output_dim": 48, "initializer_range": 0.2,
        },
    },
    # Squares of 5 x 5 patches, of which up to 2 x 2 are pooled, of two tower blocks each; two layers turn otherwise.
    "molmo2": {
        "text_config": {
            **TEXT, "head_dim": 16, "additional_vocab_size": 0, "rope_scaling_layers": [0, 2],
            "rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0},
        },
        "vision_config": {
            **TOWER, "num_key_value_heads": 4, "head_dim": 8, "image_size": [70, 70], "initializer_range": 0.2,
        },
        "adapter_config": {
            "vision_feature_layer": [3, 1], "hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 4,
            "head_dim": 8, "intermediate_size": 64, "text_hidden_size": 64, "initializer_range": 0.2,
        },
        "initializer_range": 0.2,
        "tie_word_embeddings": False,
    },
    # Four positions a second, and chunks of a second: video and sound take turns within it.
    "qwen2_5_omni_thinker": {
        **BASE["qwen2_5_vl"], "audio_config": _EARS, "position_id_per_seconds": 4, "seconds_per_chunk": 1,
        "initializer_range": 0.2,
    },
    "qwen3_omni_moe_thinker": {
        "text_config": PROOF["qwen3_vl_moe"]["text_config"],
        "vision_config": BASE["qwen3_vl"]["vision_config"],
        "audio_config": {**_EARS, "n_window": 50, "n_window_infer": 100, "downsample_hidden_size": 16},
        "position_id_per_seconds": 4,
        "initializer_range": 0.2,
    },
}  # fmt: skip
CONFIGS["video_llava"] = {**BASE["llava"], "video_seq_length": 17}
CONFIGS["cohere2_vision"] = {**CONFIGS["aya_vision"], "alignment_intermediate_size": 64}
TOKENS: dict[str, dict[str, str]] = {
    "internvl": {
        "eos": "<|im_end|>", "pad": "<|endoftext|>", "image": "<IMG_CONTEXT>", "context_image": "<IMG_CONTEXT>",
        "start_image": "<img>", "end_image": "</img>", "video": "<video>",
    },
    "llava_next_video": {**_LLAMA, "video": "<video>"},
    "vipllava": _LLAMA,
    "video_llava": {**_LLAMA, "video": "<video>"},
    "glm4v": _GLM_TOKENS,
    "glm46v": _GLM_TOKENS,
    "glm4v_moe": _GLM_TOKENS,
    "janus": {**_LLAMA, "boi": "<begin_of_image>", "eoi": "<end_of_image>"},
    "aya_vision": {
        **_LLAMA, "mark": "<image>", "image": "<|IMG_PATCH|>", "start": "<|START_OF_IMG|>", "end": "<|END_OF_IMG|>",
        "tile": "TILE", "tile_global": "TILE_GLOBAL",
    },
    "ovis2": {
        "eos": "<|im_end|>", "pad": "<|endoftext|>", "mark": "<image>", "image": "<IMG_ATOM>", "start": "<IMG_START>",
        "grid": "<IMG_GRID>", "col": "<IMG_COL>", "row": "<IMG_ROW>", "end": "<IMG_END>",
    },
    "deepseek_vl": _LLAMA,
    "llama4": {
        "bos": "<|begin_of_text|>", "eos": "<|eot|>", "pad": "<|finetune_right_pad|>", "image": "<|patch|>",
        "whole": "<|image|>", "boi": "<|image_start|>", "eoi": "<|image_end|>", "column": "<|tile_x_separator|>",
        "row": "<|tile_y_separator|>",
    },
    "lighton_ocr": {"eos": "<|im_end|>", "pad": "<|endoftext|>", "image": "<|image_pad|>"},
    "mistral3": {**_LLAMA, "image": "[IMG]", "image_break": "[IMG_BREAK]", "image_end": "[IMG_END]"},
    "kimi_k25": {
        "eos": "<|im_end|>", "pad": "[PAD]", "image": "<|media_pad|>", "video": "<|video_pad|>",
        "vision_start": "<|media_begin|>", "vision_end": "<|media_end|>",
    },
    "molmo2": {
        "eos": "<|im_end|>", "pad": "<|endoftext|>", "image": "<im_patch>", "column": "<im_col>",
        "begin": "<im_start>", "low_begin": "<low_res_im_start>", "frame_begin": "<frame_start>", "end": "<im_end>",
        "frame_end": "<frame_end>",
    },
    "paddleocr_vl": {
        "eos": "</s>", "pad": "<unk>", "image": "<|IMAGE_PLACEHOLDER|>", "video": "<|video_pad|>",
        "vision_start": "<|IMAGE_START|>", "vision_end": "<|IMAGE_END|>",
    },
    "qwen2_5_omni_thinker": _OMNI_TOKENS,
    "qwen3_omni_moe_thinker": _OMNI_TOKENS,
    "cohere2_vision": {
        **_LLAMA, "image": "<|IMG_PATCH|>", "boi": "<|START_OF_IMG|>", "eoi": "<|END_OF_IMG|>",
        "img_line_break": "<|IMG_LINE_BREAK|>",
    },
}  # fmt: skip


def token_ids(family: str, tokenizer: Any) -> dict[str, Any]:
    """The top-level fields of a configuration with token ids."""
    fields = {"image_patch_id" if family == "molmo2" else "image_token_id": tokenizer.image_token_id}
    if family == "llama4":
        return {f"{name}_token_index": getattr(tokenizer, f"{name}_token_id") for name in ("image", "boi", "eoi")}
    if family == "molmo2":
        fields |= {
            "image_start_token_id": tokenizer.begin_token_id, "image_end_token_id": tokenizer.end_token_id,
            "low_res_image_start_token_id": tokenizer.low_begin_token_id,
            "frame_start_token_id": tokenizer.frame_begin_token_id,
            "frame_end_token_id": tokenizer.frame_end_token_id,
        }  # fmt: skip
    if family.startswith("glm"):
        names = ("video", "image_start", "image_end", "video_start", "video_end")
        fields |= {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in names}
    if family.endswith("thinker"):
        names = ("video", "audio", "vision_start", "vision_end", "audio_start", "audio_end")
        fields |= {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in names}
    if family in ("llava_next_video", "video_llava", "kimi_k25", "perception_lm"):
        fields["video_token_id"] = tokenizer.video_token_id
    if family == "paddleocr_vl":
        names = ("video", "vision_start", "vision_end")
        fields |= {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in names}
    if family == "ovis2":
        names = ("start", "grid", "col", "row", "end")
        fields["visual_indicator_token_ids"] = [getattr(tokenizer, f"{name}_token_id") for name in names]
        fields["vocab_size"] = len(tokenizer)
    return fields


def _square(config: Any) -> dict[str, int]:
    size = config.vision_config.image_size
    size = size if isinstance(size, int) else size[0]
    return {"height": size, "width": size}


def _glm(genuine: Any, pixels: Any) -> Callable[[Any, Any], Any]:
    def make(config: Any, tok: Any) -> Any:
        cell = (config.vision_config.patch_size * config.vision_config.spatial_merge_size) ** 2
        # It counts the pixels of both frames that a picture is made to.
        patches = pixels(size={"shortest_edge": 2 * 4 * cell, "longest_edge": 2 * 48 * cell})
        return pictures_only(genuine)(patches, tok)

    return make


def _internvl(config: Any, tok: Any) -> Any:
    tiles = GotOcr2ImageProcessorPil(size=_square(config), crop_to_patches=True, max_patches=3)
    return pictures_only(InternVLProcessor)(tiles, tok, image_seq_length=4)


def _next_video(config: Any, tok: Any) -> Any:
    square = _square(config)
    crops = LlavaNextImageProcessorPil(
        image_grid_pinpoints=config.image_grid_pinpoints, size={"shortest_edge": square["height"]}, crop_size=square
    )
    return pictures_only(LlavaNextVideoProcessor)(
        image_processor=crops, tokenizer=tok, patch_size=14, vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )  # fmt: skip


def _video_llava(config: Any, tok: Any) -> Any:
    square = _square(config)
    # Its own hands on pixels by a name that it calls deprecated, unless each call says otherwise.
    pixels = CLIPImageProcessorPil(size={"shortest_edge": square["height"]}, crop_size=square)
    return pictures_only(VideoLlavaProcessor)(image_processor=pixels, tokenizer=tok, patch_size=14)


def _vipllava(config: Any, tok: Any) -> Any:
    square = _square(config)
    pixels = CLIPImageProcessorPil(size={"shortest_edge": square["height"]}, crop_size=square)
    return LlavaProcessor(
        pixels, tok, patch_size=14, vision_feature_select_strategy="default", num_additional_image_tokens=1
    )


def _omni(genuine: Any) -> Callable[[Any, Any], Any]:
    def make(config: Any, tok: Any) -> Any:
        cell = (config.vision_config.patch_size * config.vision_config.spatial_merge_size) ** 2
        patches = Qwen2VLImageProcessorPil(
            patch_size=config.vision_config.patch_size, size={"shortest_edge": 4 * cell, "longest_edge": 48 * cell}
        )
        return pictures_only(genuine)(
            image_processor=patches, feature_extractor=WhisperFeatureExtractor(feature_size=16, chunk_length=1),
            tokenizer=tok,
        )  # fmt: skip

    return make


PROCESSORS: dict[str, Callable[[Any, Any], Any]] = {
    "internvl": _internvl,
    "llava_next_video": _next_video,
    "vipllava": _vipllava,
    "video_llava": _video_llava,
    "glm4v": _glm(Glm4vProcessor, Glm4vImageProcessorPil),
    "glm46v": _glm(Glm46VProcessor, Glm46VImageProcessorPil),
    "glm4v_moe": _glm(Glm4vProcessor, Glm4vImageProcessorPil),
    "janus": lambda config, tok: JanusProcessor(JanusImageProcessorPil(size=_square(config)), tok, num_image_tokens=16),
    "aya_vision": lambda config, tok: AyaVisionProcessor(
        GotOcr2ImageProcessorPil(size=_square(config), crop_to_patches=True, max_patches=3),
        tok, patch_size=14, img_size=56, downsample_factor=2,
    ),
    "ovis2": lambda config, tok: Ovis2Processor(
        Ovis2ImageProcessorPil(size=_square(config), crop_to_patches=True, max_patches=3), tok, image_seq_length=4
    ),
    "lighton_ocr": lambda config, tok: Unbroken(
        PixtralImageProcessorPil(size={"longest_edge": 112}, patch_size={"height": 28, "width": 28}), tok
    ),
    "mistral3": lambda config, tok: Rows(
        PixtralImageProcessorPil(size={"longest_edge": 112}, patch_size={"height": 28, "width": 28}), tok
    ),
    "cohere2_vision": lambda config, tok: Tiled(
        GotOcr2ImageProcessorPil(size=_square(config), crop_to_patches=True, max_patches=3), tok
    ),
    "llama4": lambda config, tok: Separated(
        GotOcr2ImageProcessorPil(size=_square(config), crop_to_patches=True, max_patches=3), tok
    ),
    "kimi_k25": lambda config, tok: Patches(
        Qwen2VLImageProcessorPil(
            patch_size=14, temporal_patch_size=1, size={"shortest_edge": 4 * 28**2, "longest_edge": 48 * 28**2}
        ),
        tok,
    ),
    "molmo2": lambda config, tok: Pooled(SiglipImageProcessorPil(size={"height": 70, "width": 70}), tok),
    "paddleocr_vl": lambda config, tok: Pages(
        PaddleOCRVLImageProcessorPil(size={"shortest_edge": 4 * 28**2, "longest_edge": 48 * 28**2}), tok
    ),
    "qwen2_5_omni_thinker": _omni(Qwen2_5OmniProcessor),
    "qwen3_omni_moe_thinker": _omni(Qwen3OmniMoeProcessor),
    "deepseek_vl": lambda config, tok: DeepseekVLProcessor(
        DeepseekVLImageProcessorPil(size=_square(config)), tok, num_image_tokens=16
    ),
}  # fmt: skip
if of_timm.HERE:
    CONFIGS |= of_timm.CONFIGS
    TOKENS |= of_timm.TOKENS
    PROCESSORS |= of_timm.PROCESSORS
