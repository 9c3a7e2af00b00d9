"""The video part of Qwen2-VL's and Qwen2.5-VL's processors where torchvision is missing.

What torchvision does for frames of the right size is arithmetic: scale, normalise, cut into patches that span several
frames. Frames that would have to be resized are refused, since Pillow rounds otherwise than torchvision.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import BatchFeature
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil, smart_resize
from transformers.video_utils import make_batched_metadata, make_batched_videos

GENUINE = "Qwen2VLVideoProcessor"
_SAME = (
    *("patch_size", "merge_size", "temporal_patch_size", "image_mean", "image_std"),
    *("rescale_factor", "do_rescale", "do_normalize"),
)


class PairedFrames:
    """Prepares frames by the image processor, and puts those of a step into one patch.

    Args:
        pictures: the image processor of the same model.
        settings: of the genuine video part, as saved.
        remedy: how videos of other sizes are prepared; ends the message that refuses them.
    """

    def __init__(self, pictures: Qwen2VLImageProcessorPil, settings: dict[str, Any], remedy: str) -> None:
        self.pictures, self.remedy = pictures, remedy
        self.least, self.most = _pixels(settings)
        self.merge_size: int = pictures.merge_size
        self.temporal_patch_size: int = pictures.temporal_patch_size

    @property
    def fixed_size(self) -> bool:
        """Whether the model sees frames of one number of pixels only, so that they are made to have it anyway."""
        return self.least == self.most

    def __call__(self, videos: Any, video_metadata: Any = None, **options: Any) -> BatchFeature:
        """Patches and grids, as the genuine part gives them.

        Args:
            videos: one or several, uint8 (T, H, W, 3) each.
            video_metadata: as transformers takes it.
            options: `do_sample_frames` is read; the genuine part's others are not for frames of the right size.

        Raises:
            ValueError: `do_sample_frames`: which frames are taken is decided before.
            ImportError: frames that are no uint8 arrays (T, H, W, 3), or would have to be resized.
        """
        if options.get("do_sample_frames"):
            raise ValueError("do_sample_frames=True is not possible without torchvision: give the frames to be seen")
        whole: Any = make_batched_videos(videos)
        made = [self._patches(video) for video in whole]
        return BatchFeature(
            {
                "pixel_values_videos": torch.cat([patches for patches, _ in made]),
                "video_grid_thw": torch.tensor([grid for _, grid in made]),
                "video_metadata": make_batched_metadata(whole, video_metadata=video_metadata),
            }
        )

    def _patches(self, video: Any) -> tuple[torch.Tensor, Sequence[int]]:
        frames = np.asarray(video)
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3:
            raise ImportError(f"a video of shape {frames.shape} and type {frames.dtype} {self.remedy}")
        height, width = frames.shape[1:3]
        factor = self.pictures.patch_size * self.merge_size
        wanted = smart_resize(height, width, factor=factor, min_pixels=self.least, max_pixels=self.most)
        if wanted != (height, width):
            raise ImportError(
                f"frames of {width} x {height} pixels have to become {wanted[1]} x {wanted[0]}: that {self.remedy}"
            )
        span = self.temporal_patch_size
        frames = np.concatenate([frames, *[frames[-1:]] * (-len(frames) % span)])
        shown = self.pictures([Image.fromarray(frame) for frame in frames], do_resize=False, return_tensors="pt")
        one, rows, columns = (int(n) for n in shown["image_grid_thw"][0])
        side = self.pictures.patch_size
        # Each picture fills all places of its patches; from the n-th of a step the n-th place is taken.
        filled = shown["pixel_values"].view(-1, span, one * rows * columns, 3, span, side, side)
        patches = torch.stack([filled[:, n, :, :, n] for n in range(span)], dim=3)
        return patches.flatten(0, 1).flatten(1), (len(frames) // span, rows, columns)


def paired_frames(pictures: Any, settings: dict[str, Any] | None, remedy: str) -> PairedFrames | None:
    """The part for a processor; None where its video part is another one, or prepares frames otherwise than pictures.

    Args:
        pictures: its image processor.
        settings: of its video part, as saved; None where nothing was saved.
        remedy: see `PairedFrames`.
    """
    if settings is None or settings.get("video_processor_type") != GENUINE or not all(_pixels(settings)):
        return None
    if not isinstance(pictures, Qwen2VLImageProcessorPil):
        return None
    if not all(np.array_equal(settings.get(name, getattr(pictures, name)), getattr(pictures, name)) for name in _SAME):
        return None
    return PairedFrames(pictures, settings, remedy)


def _pixels(settings: dict[str, Any]) -> tuple[int, int]:
    """The fewest and the most pixels of a frame; 0 for what was not saved. Older settings have other names for them."""
    size = settings.get("size") or {}
    least = settings.get("min_pixels") or size.get("shortest_edge") or 0
    return least, settings.get("max_pixels") or size.get("longest_edge") or 0
