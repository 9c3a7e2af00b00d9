"""Prompts with images and videos in any order, in every family that sees both; videos need no video processor.

Frames go through the family's own image processor, and their placeholders are written as its video processor would.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from tests.families import MARK, image, inputs
from tests.strategies.helpers import pair

TIMED = ("qwen3_vl", "qwen3_vl_moe")
PATCHED = ("qwen2_vl", "qwen2_5_vl", "qwen2_5_omni_thinker", "qwen3_omni_moe_thinker", *TIMED)
"""Frames of any size, as rows of patches."""
APART = ("glm4v", "glm46v", "glm4v_moe")
"""The same, each frame marked as an image."""
POOLED = ("llava_onevision", "llava_next_video", "video_llava")
"""Square frames, as many in each video of a call."""
PADDED = ("gemma4",)
"""Frames of any size, as padded rows of patches, each with its time in front."""
FRAMES = (*PATCHED, *APART, *POOLED, *PADDED)
HELD = "\x01"
"""A byte that holds the place of a video's features until the processor has gone over the text."""
Part = str | Image.Image | Sequence[Image.Image]
"""What a prompt is made of: text, an image, or the frames of a video."""


def clip(frames: int, width: int = 84, height: int = 56, seed: int = 0) -> list[Image.Image]:
    """The frames of a video, no two alike."""
    return [image(width, height, seed=seed + 100 * number) for number in range(1, frames + 1)]


def media(family: str, rows: Sequence[Sequence[Part]], side: str = "left") -> dict[str, Any]:
    """A padded batch, one row a prompt."""
    processor = pair(family)[1]
    videos = [part for row in rows for part in row if not isinstance(part, str | Image.Image)]
    made = [_video(family, processor, frames) for frames in videos]
    written = iter([text for text, _ in made])
    prompts = ["".join(_text(part, written) for part in row) for row in rows]
    stills = [[part for part in row if isinstance(part, Image.Image)] for row in rows]
    batch = dict(inputs(processor, prompts, stills if any(stills) else None, side))  # type: ignore[arg-type]
    tok = processor.tokenizer
    video = batch["input_ids"] == tok.convert_tokens_to_ids(tok.tokenize(HELD))[0]
    if family not in POOLED and "omni" not in family:
        batch["mm_token_type_ids"] = (batch["input_ids"] == tok.image_token_id).int() + 2 * video.int()
    token = tok.image_token_id if family in APART else tok.video_token_id
    batch["input_ids"] = batch["input_ids"].masked_fill(video, token)
    return batch | _joined([pixels for _, pixels in made])


def _text(part: Part, videos: Iterator[str]) -> str:
    return part if isinstance(part, str) else MARK if isinstance(part, Image.Image) else next(videos)


def _video(family: str, processor: Any, frames: Sequence[Image.Image]) -> tuple[str, dict[str, Tensor]]:
    """What stands for a video in the text, and its pixels."""
    each = [inputs(processor, [MARK], [[frame]]) for frame in frames]
    tok = processor.tokenizer
    if family in POOLED:
        planes = torch.stack([one["pixel_values"].flatten(0, -4)[0] for one in each])
        tokens = {"llava_onevision": 4 * len(frames) + 1, "llava_next_video": 4 * len(frames)}
        return HELD * tokens.get(family, 17 * len(frames)), {"pixel_values_videos": planes[None]}
    if family in PADDED:
        run = HELD * int((each[0]["input_ids"] == tok.image_token_id).sum())
        pixels = {
            "pixel_values_videos": torch.cat([one["pixel_values"] for one in each]),
            "video_position_ids": torch.cat([one["image_position_ids"] for one in each]),
            "num_frames_per_video": torch.tensor([len(each)]),
        }
        return "".join(f"<{number}>{tok.boi_token}{run}{tok.eoi_token}" for number in range(len(each))), pixels
    grid = each[0]["image_grid_thw"].clone()
    count = int(grid.prod()) // 4
    grid[0, 0] = len(frames)
    pixels = {"pixel_values_videos": torch.cat([one["pixel_values"] for one in each]), "video_grid_thw": grid}
    if "omni" in family:  # which counts seconds
        pixels["video_second_per_grid"] = torch.ones(1)
    if family in APART:
        frame = tok.image_start_token + HELD * count + tok.image_end_token
        times = "".join(f"{frame}{number}" for number in range(len(frames)))
        return tok.video_start_token + times + tok.video_end_token, pixels
    runs = [HELD * count] * len(frames)
    if family in TIMED:  # which writes the time in front of each frame
        timed = (f"<{n}>{tok.vision_start_token}{run}{tok.vision_end_token}" for n, run in enumerate(runs))
        return "".join(timed), pixels
    return tok.vision_start_token + "".join(runs) + tok.vision_end_token, pixels


def _joined(pixels: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The pixels of several videos in one call."""
    longest = max((one["video_position_ids"].shape[1] for one in pixels if "video_position_ids" in one), default=0)
    return {
        name: torch.cat([_padded(one[name], longest, -1 if name == "video_position_ids" else 0) for one in pixels])
        for name in (pixels[0] if pixels else ())
    }


def _padded(part: Tensor, longest: int, value: int) -> Tensor:
    """Padded rows of patches (P, N, values), as long as the longest of a call; others as they are."""
    if part.dim() != 3:
        return part
    behind = longest - part.shape[1] if longest else 0
    return torch.nn.functional.pad(part, (0, 0, 0, behind), value=value)
