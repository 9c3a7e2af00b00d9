"""LLaVA 1.5 in vLLM, with a CLIP or SigLIP tower."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from vllm.model_executor.models import llava
from vllm.model_executor.models.utils import WeightsMapper
from vllm.multimodal import MULTIMODAL_REGISTRY

from vtokens.core.picture import Picture
from vtokens.integrations.behind_tower.stand_in import stand_in
from vtokens.integrations.vllm.choosers import Choosers, default_of
from vtokens.integrations.vllm.model import Pruned
from vtokens.integrations.vllm.processing import Info, Processor


class LlavaInfo(Info, llava.LlavaProcessingInfo):
    """vLLM's info, whose processors are spared our kwargs."""


class LlavaProcessor(Processor, llava.LlavaMultiModalProcessor):
    """vLLM's processor, with fewer placeholders."""

    def choosers(self, config: Any, default: Any) -> Choosers:
        return _choosers(config, default)

    def pictures(self, number: int, items: Any) -> Picture:
        size, adapter = self.info.get_hf_config().vision_config.image_size, self._choosers.adapter  # type: ignore[union-attr]
        return adapter.pictures("image", {"pixel_values": torch.empty(1, 3, size, size, device="meta")})[0]


def _info(ctx: Any) -> Any:
    found = llava._build_llava_or_pixtral_hf_info(ctx)
    if type(found) is llava.LlavaProcessingInfo:
        return LlavaInfo(ctx)
    if default_of(ctx.get_mm_config().mm_processor_kwargs) is not None:
        raise ValueError("vtokens: this LLaVA has Pixtral's vision tower: those with CLIP's or SigLIP's are supported")
    return found


def _processor(info: Any, dummy_inputs: Any) -> Any:
    if isinstance(info, LlavaInfo):
        return LlavaProcessor(info, dummy_inputs)
    return llava._build_llava_or_pixtral_hf_processor(info, dummy_inputs)


def _choosers(config: Any, default: Any) -> Choosers:
    # Blocks behind the one that makes the features are not loaded.
    return Choosers(config, default, stand_in(config).tower.feature_block + 1)


@MULTIMODAL_REGISTRY.register_processor(_processor, info=_info, dummy_inputs=llava.LlavaDummyInputsBuilder)
class Llava(Pruned, llava.LlavaForConditionalGeneration):
    """LLaVA 1.5. Tokens are numbered one after the other, as with `positions="compact"`."""

    # Checkpoints that transformers 5 saved have the tower's parts without `vision_model.` in front.
    hf_to_vllm_mapper = llava.LlavaForConditionalGeneration.hf_to_vllm_mapper | WeightsMapper(
        orig_to_new_regex={
            re.compile(r"vision_tower\.(?=(embeddings|pre_layrnorm|encoder|post_layernorm|head)\.)"): (
                "vision_tower.vision_model."
            )
        }
    )

    def choosers(self, config: Any, default: Any) -> Choosers:
        return _choosers(config, default)

    def tower_blocks(self) -> tuple[Sequence[nn.Module], Sequence[nn.Module]]:
        tower: Any = self.vision_tower
        blocks = tower.vision_model.encoder.layers
        return blocks, [block.self_attn.attn for block in blocks]

    def shown(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        return {"pixel_values": kwargs["pixel_values"]}
