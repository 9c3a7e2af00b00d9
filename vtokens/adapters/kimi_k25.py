"""Kimi K2.5: pictures and clips packed as patches, clips pooled over their frames, a 2x2 merger, latent attention."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from vtokens.adapters.anatomy import Anatomy, TowerSpec
from vtokens.adapters.base import Adapter
from vtokens.adapters.registry import register_adapter
from vtokens.core.costs import Encoding
from vtokens.core.picture import Picture
from vtokens.strategies.stages import STAGES

MOON = TowerSpec(("vision_tower",), "layers", "attn")


@register_adapter("kimi_k25")
class KimiK25(Adapter):
    """Kimi K2.5 and K2.6. Scores of the patches that a token joins, over all frames of a clip, are averaged.

    Its processor cuts videos into clips of four frames, with their times between. Each is a picture of one frame with
    its own share to keep: the model is not told which of them make a video, and strategies for videos are refused.
    (transformers 5.23 itself fails where a clip has more than one frame.)
    """

    anatomy = Anatomy(
        {"image": MOON, "video": MOON},
        {"image": "image_token_id", "video": "video_token_id"},
        apart=True,
        latent=True,
        stages=frozenset(STAGES) - {"cache", "logits"},
    )
    examples = ("moonshotai/Kimi-K2.5", "moonshotai/Kimi-K2.6")

    def pictures(self, modality: str, inputs: Mapping[str, Any]) -> list[Picture]:
        high, wide = self.config.vision_config.merge_kernel_size
        grids = inputs[f"{modality}_grid_thw"].tolist()
        return [Picture.of([(1, h // high, w // wide)], [False], modality) for _, h, w in grids]

    def to_tokens(self, modality: str, scores: Tensor, inputs: Mapping[str, Any]) -> Tensor:
        high, wide = self.config.vision_config.merge_kernel_size
        grids = inputs[f"{modality}_grid_thw"].tolist()
        parts = scores.split([t * h * w for t, h, w in grids])
        cells = [part.view(t, h // high, high, w // wide, wide) for part, (t, h, w) in zip(parts, grids, strict=True)]
        return torch.cat([part.mean((0, 2, 4)).flatten() for part in cells])

    def encoding(self, modality: str, inputs: Mapping[str, Any]) -> Encoding:
        vision, width = self.config.vision_config, self.config.text_config.hidden_size
        clips, (high, wide) = inputs[f"{modality}_grid_thw"].prod(-1).tolist(), vision.merge_kernel_size
        tokens, joined = sum(map(len, self.pictures(modality, inputs))), vision.hidden_size * high * wide
        return Encoding(
            vision.hidden_size,
            vision.intermediate_size,
            gated=False,
            blocks=(tuple(clips),) * vision.num_hidden_layers,
            embedding=(sum(clips), 3 * vision.patch_size**2, vision.hidden_size),
            projector=((tokens, joined, joined), (tokens, joined, width)),
        )

    def _changed(
        self, modality: str, inputs: Mapping[str, Any], name: str, change: Callable[[Tensor], Tensor]
    ) -> Tensor:
        sizes = inputs[f"{modality}_grid_thw"].prod(-1).tolist()
        return torch.cat([change(part) for part in inputs[name].split(sizes)])
