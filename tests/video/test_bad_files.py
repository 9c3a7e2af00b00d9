"""What is no whole video is refused, with what is wrong; what can be read of it still is."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.video import files
from vtokens import video
from vtokens.core.errors import MissingExtra
from vtokens.recipes import search_frames


def refused(path: object, says: str, **asked: object) -> None:
    with pytest.raises(ValueError, match=says):
        video.read(path, **(asked or {"frames": 4}))


@files.needs_av
class TestFiles:
    def test_no_video(self, tmp_path: Path) -> None:
        (tmp_path / "empty.mp4").touch()
        refused(tmp_path / "empty.mp4", r"empty.mp4' is empty: it holds 0 bytes")
        (tmp_path / "note.mp4").write_text("nothing")
        refused(
            tmp_path / "note.mp4",
            r"cannot read the video '.*note.mp4': pyav: .*Invalid data.*: '.*note.mp4'. It holds text$",
        )
        refused(files.sound(tmp_path / "tone.wav"), r"holds no video, only audio \(pcm_s16le\): a file with frames")
        with pytest.raises(FileNotFoundError, match=r"gone.mp4"):
            video.read(tmp_path / "gone.mp4", frames=4)
        with pytest.raises(OSError, match="is a folder, and a regular file is needed"):
            video.read(tmp_path, frames=4)

    @pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi"])
    def test_a_file_that_is_cut_off(self, name: str, tmp_path: Path) -> None:
        """It is refused whatever decodes it, and read up to the time that the error names."""
        options = {"movflags": "faststart"} if name == "a.mp4" else None
        path = Path(files.write(tmp_path / name, files.drawn(40), "mpeg4", container=options))
        data = path.read_bytes()
        path.write_bytes(data[: len(data) * 7 // 10])
        for backend in ("auto", "pyav"):
            with pytest.raises(ValueError, match=r"is incomplete: it holds [\d,]+ of the [\d,]+ bytes") as caught:
                video.read(path, frames=4, backend=backend)
        end = float(re.search(r"below ([\d.]+)", str(caught.value))[1]) - 0.01
        found = video.read(path, frames=4, end=end)
        assert files.numbers(found.frames) == list(found.indices)
        assert found.indices[-1] >= 11
        refused(path, "is incomplete", frames=4, end=3.9)
        with pytest.raises(ValueError, match="is incomplete"):
            video.timeline(path)
        searched = search_frames(path, "", lambda frames, query: list(range(len(frames))), 2, end=end, fps=10.0)
        assert len(searched.clip.indices) == 2
        assert searched.clip.seconds[-1] <= end

    def test_a_file_without_its_index(self, tmp_path: Path) -> None:
        path = Path(files.write(tmp_path / "a.mp4", files.drawn(20), "mpeg4"))
        path.write_bytes(path.read_bytes()[:2000])
        refused(path, r"cannot read the video '.*a.mp4'.* was cut off before the part that says how to read it$")

    def test_damage_is_refused_and_the_rest_is_read(self, tmp_path: Path) -> None:
        """Only what is asked for is decoded: frames before and behind the damage come, those in it do not."""
        path = Path(files.write(tmp_path / "a.mkv", files.drawn(60), options={"x264-params": "keyint=12:scenecut=0"}))
        with files.av.open(str(path)) as file:
            packets = [packet for packet in file.demux(video=0) if packet.size]
        data = bytearray(path.read_bytes())
        at = data.index(bytes(packets[25]))
        data[at + 8 : at + len(bytes(packets[25])) // 2] = b"\xa5" * (len(bytes(packets[25])) // 2 - 8)
        path.write_bytes(data)
        for part in ((0.0, 2.2), (3.7, 5.9)):
            found = video.read(path, frames=6, start=part[0], end=part[1], backend="pyav")
            assert files.numbers(found.frames) == list(found.indices)
        refused(path, r"is damaged: frame \d+ of 60, shown at 2\.\d+ s", fps=10, start=2.4, end=3.5, backend="pyav")

    @pytest.mark.parametrize("kind", ["mpeg4", "mjpeg"])
    def test_damage_is_not_passed_over(self, kind: str, tmp_path: Path) -> None:
        """The second half of a frame is gone, and its decoder would fill it with what it likes."""
        pix_fmt = "yuvj420p" if kind == "mjpeg" else "yuv420p"
        path = Path(files.write(tmp_path / "a.avi", files.drawn(30), kind, pix_fmt=pix_fmt))
        with files.av.open(str(path)) as file:
            packet = [bytes(packet) for packet in file.demux(video=0) if packet.size][17]
        path.write_bytes(path.read_bytes().replace(packet[len(packet) // 2 :], bytes(len(packet) - len(packet) // 2)))
        refused(path, r"is damaged: frame 17 of 30, shown at 1\.70 s, cannot be decoded", frames=30)
        assert video.read(path, frames=5, end=1.0).indices == (0, 2, 5, 7, 10)

    @pytest.mark.parametrize("kind", ["libx264", "mpeg4"])
    def test_an_encrypted_file(self, kind: str, tmp_path: Path) -> None:
        locked = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": "0f" * 16, "encryption_kid": "a7" * 16}
        path = files.write(tmp_path / "a.mp4", files.drawn(12), kind, container=locked)
        for backend in ("auto", *video.BACKENDS):
            refused(
                path, r"a.mp4' is encrypted: its frames need a key, so a copy in the clear", frames=2, backend=backend
            )

    def test_long_sides(self, tmp_path: Path) -> None:
        path = files.write(tmp_path / "a.avi", [np.zeros((1, 5000, 3), np.uint8)] * 3, "ffv1", pix_fmt="bgr0")
        refused(path, "has frames of 5000 x 1 pixels: one side may be at most 200 times the other")

    def test_too_many_frames(self, tmp_path: Path) -> None:
        path = files.write(tmp_path / "a.mp4", files.drawn(9), "mpeg4")
        assert video.read(path, frames=500).indices == tuple(range(9))
        refused(path, r"start=0\.9 lies behind the end of the video, which takes 0\.90 s", frames=2, start=0.9)
        refused(path, "unknown backend 'pyavv'. Did you mean 'pyav'", frames=2, backend="pyavv")

    def test_an_hour_is_read_in_little_memory(self, tmp_path: Path) -> None:
        """Decoded whole it would take 830 MB."""
        frame = [np.full((240, 320, 3), at, np.uint8) for at in range(0, 240, 2)]
        path = files.write(tmp_path / "a.mp4", [frame[at // 30] for at in range(3600)], "mpeg4", rate=1)
        code = (
            "import resource, sys\nfrom vtokens import video\nvideo.read(sys.argv[1], frames=1, backend=sys.argv[2])\n"
            "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
            "clip = video.read(sys.argv[1], frames=8, backend=sys.argv[2])\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, clip.seconds[-1])"
        )
        for backend in ("auto", "pyav"):
            ran = subprocess.run(
                [sys.executable, "-c", code, path, backend], capture_output=True, text=True, check=True
            )
            more, last = ran.stdout.split()
            assert int(more) < 50_000  # KiB
            assert float(last) == 3599


def test_without_packages_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None in sys.modules is Python's own way to say that a module is not there."""
    (tmp_path / "a.mp4").write_bytes(b"something")
    for name in ("av", "decord", "torchcodec", "torchcodec.decoders"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtra, match=r"needs one of pyav, decord, torchcodec: pip install 'vtokens\[video\]'"):
        video.read(tmp_path / "a.mp4", frames=1)


def test_decord_alone_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not tell whether a file is to be turned."""
    from tests.eval import avi

    pytest.importorskip("decord")
    for name in ("av", "torchcodec", "torchcodec.decoders"):
        monkeypatch.setitem(sys.modules, name, None)
    path = avi.write(tmp_path / "a.avi", [np.zeros((32, 32, 3), np.uint8)] * 3)
    says = (
        r"decord: skipped, since only PyAV tells.* PyAV is needed: pip install 'av>=14', or pip install 'vtokens\[video"
    )
    refused(path, f"pyav: not installed; {says}")
    refused(path, says, frames=2, backend="decord")


class TestGivenFrames:
    FRAMES = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 6, 3), np.uint8)

    def test_they_pass_through(self) -> None:
        assert np.array_equal(video.read(self.FRAMES).frames, self.FRAMES)
        found = video.read([Image.fromarray(one) for one in self.FRAMES], frames=3)
        assert found.frames[:, 0, 0, 0].tolist() == [0, 2, 4]
        assert found.metadata["frames_indices"] == [0, 2, 4]
        assert (found.metadata["total_num_frames"], found.metadata["width"]) == (5, 6)
        assert [one.size for one in found.images()] == [(6, 4)] * 3

    def test_what_is_none(self) -> None:
        for wrong in (
            self.FRAMES[0],
            self.FRAMES.astype(np.float32),
            self.FRAMES.transpose(0, 3, 1, 2),
            self.FRAMES[:0],
        ):
            refused(wrong, r"a video of shape \(.*\) and type .* is not allowed: the path of a video")
        refused([], "a video of no frames is not allowed")
        refused([Image.new("RGB", (4, 4)), Image.new("RGB", (4, 5))], "frame 1 has 4 x 5 pixels and the first 4 x 4")
        refused(self.FRAMES, "fps=2 is not possible for frames that are given: nothing says when", fps=2)
        with pytest.raises(TypeError, match="a video of type int is not allowed"):
            video.read(3, frames=2)
