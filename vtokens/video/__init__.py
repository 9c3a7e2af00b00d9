"""Videos as models take them: a few frames of a file, and which frames these are.

    from vtokens import video
    clip = video.read("clip.mp4", frames=64)                  # or fps=2, or start=10, end=20 beside one of these
    processor(videos=[clip.frames], video_metadata=[clip.metadata], do_sample_frames=False, ...)

What decodes them is the extra `video`.
"""

from __future__ import annotations

from .backend import Bounds
from .clip import Clip, Timeline
from .reading import BACKENDS, read, timeline
from .sampling import evenly

__all__ = ["BACKENDS", "Bounds", "Clip", "Timeline", "evenly", "read", "timeline"]
