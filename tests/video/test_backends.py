"""Whatever decodes a file gives the same frames, which look the same and have the same times, or is passed over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers.video_utils import VideoMetadata

from tests.video import files
from vtokens import video

pytestmark = files.needs_av

COUNT = 40
STEPS = np.random.default_rng(0).integers(20, 300, COUNT)
TIMES = [int(at) for at in np.cumsum(STEPS) - STEPS[0]]
GROUPS = "keyint=12:min-keyint=12:scenecut=0:bframes=3"
QUIET = {"x265-params": "log-level=none"}

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "h264": ("a.mp4", {}),
    "h264-b": ("a.mkv", {"options": {"x264-params": GROUPS}}),
    "bt709": ("a.mp4", {"colorspace": 1}),
    "ntsc": ("a.mp4", {"colorspace": 6, "color_range": 1}),
    "ntsc-full-range": ("a.mp4", {"colorspace": 6, "color_range": 2}),
    "full-range": ("a.mp4", {"color_range": 2}),
    "mpeg4": ("a.mp4", {"codec": "mpeg4"}),
    "mpeg4-avi": ("a.avi", {"codec": "mpeg4"}),
    "mjpeg": ("a.avi", {"codec": "mjpeg", "pix_fmt": "yuvj420p"}),
    "vp9": ("a.webm", {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8"}}),
    "odd-whole": ("a.mp4", {"size": (97, 193), "pix_fmt": "yuv444p"}),
    "odd": ("a.mp4", {"size": (97, 193), "codec": "mpeg4"}),
    "varying": ("a.mp4", {"times": TIMES}),
    "varying-mkv": ("a.mkv", {"times": TIMES}),
    "av1": ("a.mp4", {"codec": "libsvtav1", "options": {"preset": "10", "crf": "10"}}),
    "gif": ("a.gif", {"codec": "gif", "pix_fmt": "rgb8"}),
    "open-groups": ("a.mp4", {"options": {"x264-params": f"open-gop=1:{GROUPS}"}}),
    "hevc": ("a.mp4", {"codec": "libx265", "options": QUIET}),
    "ten-bits": ("a.mp4", {"codec": "libx265", "options": QUIET, "pix_fmt": "yuv420p10le"}),
    "transport": ("a.ts", {}),
    "no-times": ("a.avi", {"codec": "mpeg4", "options": {"bf": "2"}}),
    "flash": ("a.flv", {}),
}
BY_DECORD = {
    "h264",
    "h264-b",
    "bt709",
    "ntsc",
    "ntsc-full-range",
    "full-range",
    "mpeg4",
    "mpeg4-avi",
    "mjpeg",
    "vp9",
    "odd-whole",
}
"""What decord 0.6 is right about; of the rest, `test_decord_would_be_wrong` shows some."""


def made(folder: Path, kind: str) -> str:
    """A file of that kind with 40 frames."""
    name, how = KINDS[kind]
    how = dict(how)
    frames = files.drawn(COUNT, *how.pop("size", (96, 192)))
    if how.get("codec") not in (None, "gif", "mpeg4", "mjpeg"):
        try:
            files.av.codec.Codec(how["codec"], "w")
        except ValueError:
            pytest.skip(f"this PyAV has no encoder {how['codec']}")
    return files.write(folder / name, frames, **how)


def decord_is_there() -> bool:
    try:
        import decord  # noqa: F401
    except Exception:
        return False
    return True


@pytest.mark.parametrize("kind", KINDS)
def test_backends_agree(kind: str, tmp_path: Path) -> None:
    """Numbers are read off the pictures, times are those that were written, and pixels are two grey levels apart."""
    path = made(tmp_path, kind)
    rate = 100 / 10 if kind == "gif" else 10
    true = np.array(TIMES) / 1000 if kind.startswith("varying") else np.arange(COUNT) / rate
    answered = {}
    for ask in ({"frames": 7}, {"frames": COUNT}, {"frames": 5, "start": 1.23, "end": 2.8}, {"fps": 3, "start": 0.5}):
        found = video.read(path, **ask)
        assert files.numbers(found.frames) == list(found.indices)
        assert np.abs(np.array(found.seconds) - true[list(found.indices)]).max() < 0.002  # Matroska counts milliseconds
        for backend in video.BACKENDS:
            try:
                other = video.read(path, backend=backend, **ask)
            except (ValueError, ImportError) as error:
                answered[backend] = str(error)
                continue
            answered[backend] = ""
            assert other.metadata == found.metadata | {"video_backend": backend}
            assert other.indices == found.indices
            assert other.seconds == found.seconds
            assert np.abs(other.frames.astype(int) - found.frames).max() <= 2
    assert answered["pyav"] == ""
    if decord_is_there():
        assert (answered["decord"] == "") == (kind in BY_DECORD), answered["decord"]


@pytest.mark.parametrize("kind", ["open-groups", "odd", "transport"])
def test_decord_would_be_wrong(kind: str, tmp_path: Path) -> None:
    """Where it is passed over it counts wrong, repeats frames or gives other colours: the rule is no idle one."""
    decord = pytest.importorskip("decord")
    path = made(tmp_path, kind)
    right = video.read(path, frames=COUNT)
    if kind == "open-groups":
        wrong = [
            files.numbers(decord.VideoReader(path, num_threads=1).get_batch([at]).asnumpy()) for at in range(COUNT)
        ]
        assert wrong != [[at] for at in range(COUNT)]
        return
    frames = decord.VideoReader(path, num_threads=1).get_batch(range(COUNT)).asnumpy()
    assert np.abs(frames.astype(int) - right.frames).max() > 2


def test_times_are_what_processors_compute(tmp_path: Path) -> None:
    """transformers divides frame numbers by the rate, where the rate is steady and where it is not."""
    for kind, true in (("h264", np.arange(COUNT) / 10), ("varying", np.array(TIMES) / 1000)):
        found = video.read(made(tmp_path, kind), frames=9)
        told = VideoMetadata(**found.metadata)
        assert np.allclose(told.timestamps, true[list(found.indices)], atol=1e-3)
        assert told.duration == pytest.approx(true[-1] * COUNT / (COUNT - 1), rel=1e-3)
        assert told.sampled_fps == pytest.approx(9 / told.duration, rel=1e-3)
    assert VideoMetadata(**video.read(made(tmp_path, "h264"), frames=3).metadata).frames_indices == [0, 19, 39]


TURNS = [(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0), (-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0)]


@pytest.mark.parametrize("rate", [24, 30])
def test_a_clock_of_milliseconds_drops_no_frame_of_a_constant_rate(rate: int, tmp_path: Path) -> None:
    """At its own rate every frame is taken, at half of it every other, as of MP4, whose clock tells them exactly."""
    times = np.arange(40) / rate
    for name in ("a.mkv", "a.mp4"):
        path = files.write(tmp_path / name, files.drawn(40), "mpeg4", rate=rate)
        assert np.allclose(video.timeline(path).times, times, rtol=0, atol=1e-9)
        assert video.read(path, fps=rate).indices == tuple(range(40))
        assert video.read(path, fps=rate / 2).indices == tuple(range(0, 40, 2))


@pytest.mark.parametrize("matrix", TURNS)
def test_frames_are_turned_as_the_file_says(matrix: tuple[int, int, int, int], tmp_path: Path) -> None:
    """Each pixel is where the matrix sends it, worked out pixel by pixel."""
    path = files.write(tmp_path / "a.mp4", files.drawn(5, 32, 48), "mpeg4")
    stored = video.read(path, frames=2).frames
    found = video.read(files.turn(path, matrix), frames=2)
    a, b, c, d = matrix
    y, x = np.mgrid[: stored.shape[1], : stored.shape[2]]
    to_x, to_y = a * x + c * y, b * x + d * y
    wanted = np.empty_like(stored if a else stored.swapaxes(1, 2))
    wanted[:, to_y - to_y.min(), to_x - to_x.min()] = stored
    assert np.array_equal(found.frames, wanted)
    assert (found.metadata["height"], found.metadata["width"]) == wanted.shape[1:3]
    assert (found.metadata["video_backend"] == "pyav") or matrix == (1, 0, 0, 1)


def test_an_odd_angle_is_refused(tmp_path: Path) -> None:
    path = files.write(tmp_path / "a.mp4", files.drawn(5, 32, 48), "mpeg4")
    data = Path(files.turn(path, (1, 0, 0, 1))).read_bytes()
    at = data.index(b"tkhd") + 44
    Path(path).write_bytes(data[:at] + b"\0\0\xb5\x05" * 2 + data[at + 8 :])  # by 45 degrees
    with pytest.raises(ValueError, match="no multiple of 90 degrees"):
        video.read(path, frames=2)
