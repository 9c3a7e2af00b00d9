"""The model: SmolLM2 behind the scenes' tower, a genuine LLaVA, with what training changed merged into its matrices."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from vtokens.scenes.shipped import FOLDER
from vtokens.scenes.world import IMAGE, PATCH

from .text import PICTURE

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

SCALE = 2.0  #: what an update is multiplied with
_ANSWER = 160  # tokens: a caption of eight sentences has 120
_TOWER, _PROJECTOR, _UPDATES = "tower.", "projector.", "updates."


def configuration(text: LlamaConfig, picture: int) -> LlavaConfig:
    """The LLaVA's configuration. text: the language model's; picture: the token that stands for a patch."""
    from transformers import CLIPVisionConfig, LlavaConfig

    vision = json.loads((FOLDER / "scenes-llava" / "config.json").read_text())["vision_config"]
    config: Any = LlavaConfig(
        vision_config=CLIPVisionConfig(**vision),
        text_config=text,
        image_token_index=picture,
        image_seq_length=(IMAGE // PATCH) ** 2,
        vision_feature_select_strategy="default",
        vision_feature_layer=-2,
        tie_word_embeddings=True,
    )
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(config, name, getattr(text, name))
    return config


def build(
    text: LlamaConfig, weights: dict[str, Tensor], adapter: dict[str, Tensor], tokenizer: Any
) -> LlavaForConditionalGeneration:
    """The model in float32, in eval mode.

    Args:
        text, weights: of the language model, as `Language` reads them.
        adapter: what training left: updates of the attention matrices, tower and projector.
        tokenizer: the language model's.

    Raises:
        RuntimeError: tensors of the adapter are missing, or have other shapes.
    """
    import torch
    from transformers import LlavaForConditionalGeneration

    picture = tokenizer.convert_tokens_to_ids(PICTURE)
    model: Any = LlavaForConditionalGeneration(configuration(text, picture)).float().eval()
    parts = {prefix: _part(adapter, prefix) for prefix in (_TOWER, _PROJECTOR, _UPDATES)}
    inner = model.model
    with torch.no_grad():
        inner.language_model.load_state_dict(merged(text, weights, parts[_UPDATES]))
        inner.vision_tower.load_state_dict(parts[_TOWER])
        inner.multi_modal_projector.load_state_dict(parts[_PROJECTOR])
    model.tie_weights()
    ends = {name: getattr(text, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    model.generation_config.update(do_sample=False, max_new_tokens=_ANSWER, **ends)
    return model


def merged(text: Any, weights: dict[str, Tensor], updates: dict[str, Tensor]) -> dict[str, Tensor]:
    """The language model's tensors with the updates of its attention matrices merged in.

    Updates were learnt behind norms without weights of their own, and with the queries' scale in the matrix: the first
    norm of each layer becomes all ones, and its weight goes into the matrices behind it.
    """
    import torch

    found = dict(weights)
    size = text.hidden_size // text.num_attention_heads
    rows = [text.num_attention_heads * size, *[text.num_key_value_heads * size] * 2]
    for layer in range(text.num_hidden_layers):
        norm = f"layers.{layer}.input_layernorm.weight"
        changes = _product(updates, f"{layer}_qkv").split(rows)
        for name, change, scale in zip("qkv", changes, (size**0.5, 1.0, 1.0), strict=True):
            key = f"layers.{layer}.self_attn.{name}_proj.weight"
            found[key] = weights[key] * weights[norm] + scale * change
        found[norm] = torch.ones_like(weights[norm])
        key = f"layers.{layer}.self_attn.o_proj.weight"
        found[key] = weights[key] + _product(updates, f"{layer}_o")
    return found


def _product(updates: dict[str, Tensor], name: str) -> Tensor:
    return SCALE * (updates[f"{name}_b"].float() @ updates[f"{name}_a"].float())


def _part(adapter: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v.float() for k, v in adapter.items() if k.startswith(prefix)}
