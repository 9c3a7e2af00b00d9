"""What the thinkers of Qwen's omni models share: beside pictures they hear audio, which is left alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vtokens.adapters.anatomy import Aside

AUDIO = {"audio": Aside("audio_token_id", "audio_start_token_id")}


def thinker_positions(multimodal: Any, given: Mapping[str, Any], features: Sequence[Mapping[str, Any]]) -> Tensor:
    """(3, B, N): rotary positions of a prompt with pictures and sounds, as `Adapter.prompt_positions`.

    Raises:
        ValueError: the prompt holds audio, or a video, and how long that is was not given.
    """
    config, ids, heard = multimodal.config, given["input_ids"], given.get("feature_attention_mask")
    lengths, seconds = None if heard is None else heard.sum(-1), given.get("video_second_per_grid")
    missing = {
        "feature_attention_mask": lengths is None and bool((ids == config.audio_token_id).any()),
        "video_second_per_grid": seconds is None and bool((ids == config.video_token_id).any()),
    }
    for name, absent in missing.items():
        if absent:
            raise ValueError(f"the prompt has no {name}, by which its positions count: give it as the processor does")
    grids = {name: inputs[name] for inputs in features for name in inputs if name.endswith("_grid_thw")}
    # A video whose sound stands between its frames begins as both do.
    sounding = (ids[:, :-1] == config.vision_start_token_id) & (ids[:, 1:] == config.audio_start_token_id)
    positions: Tensor = multimodal.get_rope_index(
        ids,
        attention_mask=given["attention_mask"],
        use_audio_in_video=bool(sounding.any()),
        audio_seqlens=lengths,
        second_per_grids=None if seconds is None else torch.as_tensor(seconds),
        **grids,
    )[0]
    return positions
