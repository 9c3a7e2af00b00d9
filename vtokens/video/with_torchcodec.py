"""Videos decoded by torchcodec, which needs FFmpeg's libraries on the machine and the torch it was built for."""

from __future__ import annotations

import numpy as np

from vtokens.core.extras import needs
from vtokens.video.backend import Opened, Skipped
from vtokens.video.clip import Timeline
from vtokens.video.facts import Facts


def opened(path: str, facts: Facts | None) -> Opened:
    """A file, opened by torchcodec; arguments and errors as for decord."""
    with needs("video", "decoding a video"):
        from torchcodec.decoders import VideoDecoder
    decoder = VideoDecoder(path, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact")
    told = decoder.metadata
    if not hasattr(told, "rotation"):
        raise Skipped("skipped, since this release does not turn frames as their file says")
    first = decoder.get_frame_at(0).data
    line = facts.line if facts else Timeline(np.arange(told.num_frames) / told.average_fps, float(told.average_fps))
    if facts and len(line.times) != told.num_frames:
        raise Skipped(f"skipped, since it sees {told.num_frames} frames where there are {len(line.times)}")

    def take(indices: list[int]) -> np.ndarray:
        batch = decoder.get_frames_at(indices)
        seconds = batch.pts_seconds.numpy() - told.begin_stream_seconds
        if np.abs(seconds - line.times[np.asarray(indices)]).max() > 0.5 / line.fps:
            known = (
                "the times it gives are not those of the file" if facts else "the rate varies, and PyAV tells the times"
            )
            raise Skipped(f"skipped, since {known}")
        found: np.ndarray = batch.data.numpy()
        return found

    return Opened(line, int(first.shape[0]), int(first.shape[1]), take)
