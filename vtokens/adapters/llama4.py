"""Llama 4: square tiles, the whole of an image last; a decoder that attends in chunks, and turns complex numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from vtokens.adapters.anatomy import Anatomy, TowerSpec
from vtokens.adapters.registry import register_adapter
from vtokens.adapters.tiles import Tiles
from vtokens.adapters.tiles_in_text import written_together
from vtokens.core.versions import installed

BROKEN = ("5.24.0",)
"""Releases of transformers whose own Llama 4 ends each call with an AttributeError: it reads `image_outputs` of what
its text model gives."""


@register_adapter("llama4")
class Llama4(Tiles):
    """Llama 4. The tiles of an image and the whole of it, the last one, are views of one picture; text between stays.

    A token joins 2 x 2 patches, whose scores are averaged. Layers that turn positions attend in chunks, which are
    counted in the positions that were fed; those between attend to all, and scale their queries by these positions.
    """

    anatomy = Anatomy(
        {
            "image": TowerSpec(
                ("vision_model",),
                "model.layers",
                "self_attn",
                saliency="[CLS]",
                class_token="class_embedding",
                class_last=True,
            )
        },
        features="last_hidden_state",
        projects="multi_modal_projector",
        decoder="language_model.model",
        kinds=frozenset(("full", "chunked")),
        complex_angles=True,
    )
    examples = ("meta-llama/Llama-4-Scout-17B-16E-Instruct", "meta-llama/Llama-4-Maverick-17B-128E-Instruct")

    def __init__(self, model: PreTrainedModel) -> None:
        if (release := installed("transformers")) in BROKEN:
            raise ValueError(
                f"transformers {release} cannot run its own Llama 4, with or without a strategy (its output asks for "
                f"'image_outputs', which the text model does not give): transformers 5.23 can"
            )
        super().__init__(model)

    @property
    def factor(self) -> int:
        return round(1 / self.config.vision_config.pixel_shuffle_ratio)

    def stretches(self, placeholders: Tensor, inputs: Mapping[str, Any]) -> Tensor:
        # One mark ends an image; others stand between its tiles, and in front of the whole of it.
        return written_together(placeholders, inputs, ends=0)

    def projected(self, joined: int, width: int) -> tuple[tuple[int, int], ...]:
        vision = self.config.vision_config
        inner, outer = vision.projector_input_dim, vision.projector_output_dim
        return (joined, inner), (outer, outer), (vision.vision_output_dim, width)
