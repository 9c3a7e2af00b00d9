"""Clips of moving objects with exact ground truth, and questions about motion, order, number and a needle frame.

    from vtokens.scenes import clips
    sample = clips.examples("test", n=60, frames=16)   # kinds take turns; sample[0].video.frames: uint8 (16, 96, 96, 3)
    scenes.evaluate(model, processor, sample)

The embedded `scenes-qwen` answers about them.
"""

from __future__ import annotations

from .questions import KINDS
from .sampling import ClipExample, examples, video_of
from .world import FPS, SPLITS, WAYS, ClipScene, Track, draw_clip

__all__ = [
    "FPS",
    "KINDS",
    "SPLITS",
    "WAYS",
    "ClipExample",
    "ClipScene",
    "Track",
    "draw_clip",
    "examples",
    "video_of",
]
