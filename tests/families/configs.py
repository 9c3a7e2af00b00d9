"""Tiny configurations of the model families: every mechanism of the full-size models, none of their width.

Decoders: 4 layers, width 64, 4 heads of 16. Towers: 4 layers, width 32, 4 heads, patches of 14 pixels.
"""

from copy import deepcopy
from typing import Any

from transformers import AutoConfig, PretrainedConfig

# (height, width) choices of AnyRes: strips of two and three crops and a square of four, as the full-size models have.
PINPOINTS = [[56, 112], [112, 56], [112, 112], [56, 168], [168, 56]]

# Wide enough that attention rows are far from uniform; at the usual 0.02 every pruning strategy would see ties.
TEXT: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "initializer_range": 0.2,
    "tie_word_embeddings": False,
}
TOWER: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "image_size": 56,
    "patch_size": 14,
}
CLIP = {**TOWER, "model_type": "clip_vision_model", "initializer_factor": 2.5, "projection_dim": 32}
SIGLIP = {**TOWER, "model_type": "siglip_vision_model", "vision_use_head": False}
LLAMA = {**TEXT, "model_type": "llama", "num_key_value_heads": 4}
# 2 + 3 + 3 rotary frequencies for time, height and width: half of the head width of 16.
MROPE = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
QWEN_TOWER: dict[str, Any] = {
    "depth": 4,
    "num_heads": 4,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "initializer_range": 0.2,
}

BASE: dict[str, dict[str, Any]] = {
    "llava": {
        "text_config": LLAMA,
        "vision_config": CLIP,
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "image_seq_length": 16,
    },
    "llava_next": {
        "text_config": LLAMA,
        "vision_config": CLIP,
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "image_seq_length": 16,
        "image_grid_pinpoints": PINPOINTS,
    },
    "llava_onevision": {
        "text_config": {**TEXT, "model_type": "qwen2"},
        "vision_config": SIGLIP,
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
        "image_grid_pinpoints": PINPOINTS,
    },
    "qwen2_vl": {
        "text_config": {**TEXT, "rope_parameters": MROPE},
        "vision_config": {**QWEN_TOWER, "embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2},
    },
    "qwen2_5_vl": {
        "text_config": {**TEXT, "rope_parameters": MROPE},
        "vision_config": {
            **QWEN_TOWER,
            "hidden_size": 32,
            "intermediate_size": 64,
            "out_hidden_size": 64,
            # Windows of 2 x 2 merged tokens, so that the tower really permutes any image wider than that.
            "window_size": 56,
            "fullatt_block_indexes": [1, 3],
        },
    },
    "qwen3_vl": {
        "text_config": {**TEXT, "head_dim": 16, "rope_parameters": {**MROPE, "mrope_interleaved": True}},
        "vision_config": {
            **QWEN_TOWER,
            "hidden_size": 32,
            "intermediate_size": 64,
            "out_hidden_size": 64,
            # Eight a side: no picture of the tests has that, so that positions are interpolated.
            "num_position_embeddings": 64,
            # Features of three blocks are added behind decoder layers 0 to 2.
            "deepstack_visual_indexes": [0, 1, 2],
        },
    },
}
# Families that are proof of the engine's generality; tests name them where they are in addition to the others.
PROOF: dict[str, dict[str, Any]] = {
    # Tiles of 6 x 6 patches, of which a shuffle makes 3 x 3 tokens.
    "idefics3": {
        "text_config": LLAMA,
        "vision_config": {**TOWER, "image_size": 84, "initializer_range": 0.2},
        "scale_factor": 2,
    },
}
PROOF["smolvlm"] = PROOF["idefics3"]
PROOF["gemma3"] = {
    "text_config": {
        **TEXT,
        "model_type": "gemma3_text",
        "head_dim": 16,
        "query_pre_attn_scalar": 16,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
    },
    # 8 x 8 patches are pooled to 4 x 4 tokens.
    "vision_config": {**SIGLIP, "image_size": 112},
    "mm_tokens_per_image": 16,
}

# The whole prompt sees itself both ways. One key head, as Gemma 1 has it.
PROOF["paligemma"] = {
    "text_config": {**TEXT, "model_type": "gemma", "head_dim": 16, "num_key_value_heads": 1},
    "vision_config": SIGLIP,
    "projection_dim": 64,
}
# Squares of 2 x 2 patches make a token; pictures are padded to as many patches as the largest has, and a few more.
PROOF["gemma4"] = {
    "text_config": {
        **TEXT,
        "head_dim": 16,
        "global_head_dim": 16,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "hidden_size_per_layer_input": 8,
        "use_bidirectional_attention": "vision",
    },
    "vision_config": {
        **{name: TOWER[name] for name in ("hidden_size", "intermediate_size", "num_hidden_layers")},
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 8,
        "patch_size": 16,
        "pooling_kernel_size": 2,
        "position_embedding_size": 64,
        "standardize": True,
        "initializer_range": 0.2,
    },
    "audio_config": None,
    "initializer_range": 0.2,
    "tie_word_embeddings": False,
}
PROOF["qwen3_vl_moe"] = {
    **BASE["qwen3_vl"],
    "text_config": {
        **BASE["qwen3_vl"]["text_config"],
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 64,
    },
}
# Every other decoder layer keeps a state in place of keys, the first among them. The tower is Qwen3-VL's.
RECURRENT: dict[str, dict[str, Any]] = {
    "qwen3_5": {
        "text_config": {
            **TEXT,
            "head_dim": 16,
            "layer_types": ["linear_attention", "full_attention"] * 2,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 16,
            "linear_value_head_dim": 8,
            # Half of each head turns: 1 + 2 + 1 frequencies.
            "rope_parameters": {**MROPE, "mrope_section": [1, 2, 1], "partial_rotary_factor": 0.5},
        },
        "vision_config": {
            name: value for name, value in BASE["qwen3_vl"]["vision_config"].items() if "deepstack" not in name
        },
    },
}
RECURRENT["qwen3_5_moe"] = {
    **RECURRENT["qwen3_5"],
    "text_config": {
        **{name: value for name, value in RECURRENT["qwen3_5"]["text_config"].items() if name != "intermediate_size"},
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 64,
        "shared_expert_intermediate_size": 32,
    },
}
# Short convolutions over three positions. Pictures are padded to as many patches as the largest has, and a few more.
RECURRENT["lfm2_vl"] = {
    "text_config": {**TEXT, "layer_types": ["conv", "full_attention"] * 2, "block_multiple_of": 32},
    "vision_config": {
        **{name: value for name, value in TOWER.items() if name != "image_size"},
        "num_patches": 64,
        "vision_use_head": False,
        "initializer_range": 0.2,
    },
    "projector_hidden_size": 64,
    "tie_word_embeddings": False,
}
# A merger behind the second of four tower blocks joins 2 x 2 patches, and one behind the tower 2 x 2 of those.
RECURRENT["minicpmv4_6"] = {
    "text_config": {**RECURRENT["qwen3_5"]["text_config"], "model_type": "qwen3_5_text"},
    "vision_config": {**TOWER, "patch_size": 7, "initializer_range": 0.2},
    "insert_layer_id": 1,
    "tie_word_embeddings": False,
}
# Visual tokens outside the sequence: keys of two cross-attention layers, the last one of the decoder among them.
CROSS: dict[str, dict[str, Any]] = {
    "mllama": {
        "text_config": {**TEXT, "model_type": "mllama_text_model", "cross_attention_layers": [1, 3]},
        # 3 x 3 patches and a class token a tile, which the tower pads to 16.
        "vision_config": {
            **{name: TOWER[name] for name in ("hidden_size", "intermediate_size", "patch_size")},
            "model_type": "mllama_vision_model",
            "image_size": 42,
            "attention_heads": 4,
            "num_hidden_layers": 3,
            "num_global_layers": 2,
            "max_num_tiles": 4,
            "intermediate_layers_indices": [0, 2],
            "vision_output_dim": 96,
            "initializer_range": 0.2,
        },
    },
}


def configuration(family: str, tokenizer: Any, **overrides: Any) -> PretrainedConfig:
    """The tiny genuine configuration of `family`, with the token ids of `tokenizer`.

    `overrides` replace top-level fields; the dicts `text_config` and `vision_config` are merged into the defaults
    instead of replacing them. A field the genuine class does not know is stored by it as an extra attribute.
    """
    from .adapted import CONFIGS, token_ids

    fields = deepcopy({**BASE, **PROOF, **RECURRENT, **CROSS, **CONFIGS}[family])
    ids = {name: getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    fields["text_config"] |= {"vocab_size": len(tokenizer), **{f"{name}_token_id": ids[name] for name in ids}}
    if family in CONFIGS:
        fields |= token_ids(family, tokenizer)
    elif family.startswith("qwen"):
        names = ("image", "video", "vision_start", "vision_end")
        fields |= {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in names}
    elif family == "minicpmv4_6":
        fields |= {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("image", "video")}
    elif family == "lfm2_vl":
        fields["image_token_id"] = tokenizer.image_token_id
    elif family == "paligemma":
        fields["image_token_index"] = tokenizer.image_token_id
        fields["vocab_size"] = len(tokenizer)
    elif family == "gemma4":
        names = ("image", "video", "audio", "boi", "eoi", "boa")
        fields |= {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in names}
        fields["text_config"]["vocab_size_per_layer_input"] = len(tokenizer)
    elif family in PROOF:
        names = ("image", "boi", "eoi") if family == "gemma3" else ("image",)
        fields |= {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in names}
    else:
        fields["image_token_index"] = tokenizer.image_token_id
        if family == "llava_onevision":
            fields["video_token_index"] = tokenizer.video_token_id
    for key, value in overrides.items():
        fields[key] = fields[key] | value if key in ("text_config", "vision_config") else value
    return AutoConfig.for_model(family, **fields)
