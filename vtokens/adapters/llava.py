"""LLaVA 1.5 and its relatives: one square picture of patches each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from vtokens.adapters.anatomy import Anatomy, TowerSpec
from vtokens.adapters.base import Adapter
from vtokens.adapters.open_tower import OpenTower
from vtokens.adapters.pixtral import LlavaPixtral
from vtokens.adapters.registry import register_adapter
from vtokens.core.costs import Encoding
from vtokens.core.picture import Picture

CLIP = TowerSpec(
    ("vision_tower.vision_model", "vision_tower"),
    "encoder.layers",
    "self_attn",
    saliency="[CLS]",
    class_token="embeddings.class_embedding",
    layer="vision_feature_layer",
    merging=("layer_norm2", "mlp"),
    fewer=frozenset(("resize", "repeats")),
    embeddings="embeddings",
    projector="multi_modal_projector",
)
"""A CLIP- or SigLIP-like tower that transformers loads on its own; SigLIP's have no class token."""


class LlavaTower(OpenTower):
    """What the LLaVA families share: their tower, and squares of patches."""

    anatomy = Anatomy({"image": CLIP})

    def check_merging(self, inputs: Mapping[str, Any]) -> None:
        layer = inputs.get("vision_feature_layer")
        layer = self.config.vision_feature_layer if layer is None else layer
        if not isinstance(layer, int):
            raise ValueError(
                f"vision_feature_layer={layer!r} joins features of several tower blocks, but where tokens are merged "
                "each block has its own tokens: set a single layer, or use a strategy that prunes behind the tower"
            )
        tower = self.tower
        if layer % (len(tower.blocks) + 1) != tower.feature_block + 1:
            raise ValueError(
                f"vision_feature_layer={layer} is not the layer that tokens are merged up to: leave it at the "
                f"config's {self.config.vision_feature_layer}, or change it there before attaching"
            )
        self._check_runs_once("when their tokens are merged already")

    def check_pixels(self, modality: str, inputs: Mapping[str, Any], fewer: str) -> None:
        self._check_runs_once("when it is no longer known what they were shown")

    def _check_runs_once(self, then: str) -> None:
        tower = self.tower.module
        if tower.training and getattr(tower.encoder, "gradient_checkpointing", False):
            raise ValueError(
                f"gradient checkpointing runs the tower's blocks a second time, {then}: "
                "call model.activation_checkpointing_disable() (in older releases of transformers "
                "gradient_checkpointing_disable()), give a trainer gradient_checkpointing=False (TRL's default is "
                "True), or detach() the strategy for training"
            )

    @property
    def side(self) -> int:
        """Patches along one side of a tower input."""
        return self.config.vision_config.image_size // self.config.vision_config.patch_size

    def keeps_cls(self, inputs: Mapping[str, Any]) -> bool:
        """Whether the class token itself is handed to the language model (select strategy "full")."""
        strategy = inputs.get("vision_feature_select_strategy") or self.config.vision_feature_select_strategy
        return self.tower.has_cls and strategy == "full"

    def projected_to_tokens(self, modality: str, scores: Tensor, inputs: Mapping[str, Any]) -> Tensor:
        if self.keeps_cls(inputs):
            scores = scores.view(self.tower_inputs(modality, inputs), -1)[:, 1:].flatten()
        return self.to_tokens(modality, scores, inputs)

    def tower_inputs(self, modality: str, inputs: Mapping[str, Any]) -> int:
        """How many squares of `side * side` patches the tower gets."""
        return len(inputs["pixel_values"])

    def encoding(self, modality: str, inputs: Mapping[str, Any]) -> Encoding:
        vision, text, squares = self.config.vision_config, self.config.text_config, self.tower_inputs(modality, inputs)
        pixels = inputs["pixel_values_videos" if modality == "video" else "pixel_values"]
        patches = (pixels.shape[-2] // vision.patch_size) * (pixels.shape[-1] // vision.patch_size)
        rows = squares * (patches + self.keeps_cls(inputs))
        layers = self.config.vision_feature_layer
        features = vision.hidden_size * (1 if isinstance(layers, int) else len(layers))
        return Encoding(
            vision.hidden_size,
            vision.intermediate_size,
            gated=False,
            blocks=((patches + self.tower.has_cls,) * squares,) * vision.num_hidden_layers,
            embedding=(squares * patches, vision.num_channels * vision.patch_size**2, vision.hidden_size),
            projector=((rows, features, text.hidden_size), (rows, text.hidden_size, text.hidden_size)),
        )


@register_adapter("llava")
class Llava(LlavaTower):
    """LLaVA 1.5: `side * side` tokens a picture. Checkpoints with Pixtral's tower are `LlavaPixtral`."""

    examples: ClassVar[tuple[str, ...]] = (
        "llava-hf/llava-1.5-7b-hf", "llava-hf/llava-1.5-13b-hf", "mistral-community/pixtral-12b",
    )  # fmt: skip

    @classmethod
    def of(cls, model: PreTrainedModel) -> Adapter:
        packed = cls is Llava and model.config.vision_config.model_type == "pixtral"
        return LlavaPixtral(model) if packed else cls(model)

    def pictures(self, modality: str, inputs: Mapping[str, Any]) -> list[Picture]:
        pixels, patch = inputs["pixel_values"], self.config.vision_config.patch_size
        grid = (1, pixels.shape[-2] // patch, pixels.shape[-1] // patch)
        return [Picture.of([grid], [False]).padded(before=int(self.keeps_cls(inputs)))] * pixels.shape[0]

    def to_tokens(self, modality: str, scores: Tensor, inputs: Mapping[str, Any]) -> Tensor:
        if not self.keeps_cls(inputs):
            return scores
        return torch.nn.functional.pad(scores.view(inputs["pixel_values"].shape[0], -1), (1, 0)).flatten()
