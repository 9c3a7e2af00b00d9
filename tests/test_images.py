"""Pictures reach a model upright, RGB and in eight bits, whichever way they come in."""

import io
import json
import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.image_utils import load_image

import vtokens
from vtokens import scenes
from vtokens.cli import main
from vtokens.core import pixel_limit
from vtokens.core.images import as_image, open_image, upright
from vtokens.eval.lmms.media import picture
from vtokens.filter.datasets.worker import Worker
from vtokens.integrations.ray_data import Decode

ORIENTATION = 0x0112
TURNS = {  # what undoes each orientation, so that a viewer shows the picture as it was
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.fixture(scope="module")
def example():
    return scenes.examples("decorrelated", n=1, kinds=["caption"])[0]


def on_its_side(image, path, turn, **options):
    """Save `image` as a camera held sideways does: the pixels turned, and the EXIF data saying so."""
    exif = Image.Exif()
    exif[ORIENTATION] = turn
    image.transpose(TURNS[turn]).save(path, exif=exif, **options)
    return path


def noise(*shape, dtype=np.uint8):
    top = 256 if dtype == np.uint8 else 65536
    return np.random.default_rng(0).integers(0, top, shape).astype(dtype)


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
def test_every_orientation_is_undone(tmp_path, turn, suffix):
    image = Image.fromarray(noise(10, 16, 3))
    path = on_its_side(image, tmp_path / f"a.{suffix}", turn, **({"lossless": True} if suffix == "webp" else {}))
    found = open_image(path)
    assert np.array_equal(found, load_image(str(path)))
    if suffix != "jpg":
        assert np.array_equal(found, image)
    assert np.array_equal(upright(found), found)  # and not turned twice
    with Image.open(path) as opened:
        assert np.array_equal(as_image(opened), found)
        assert np.array_equal(picture(opened), found)
    assert np.array_equal(picture({"bytes": path.read_bytes(), "path": None}), found)


@pytest.mark.parametrize("turn", [3, 6])
def test_a_photograph_on_its_side_is_seen_as_it_was_taken(capsys, tmp_path, example, turn):
    example.image.save(tmp_path / "plain.png")
    on_its_side(example.image, tmp_path / "turned.png", turn)
    told, kept = [], []
    for name in ("plain", "turned"):
        png = tmp_path / f"{name}-kept.png"
        main(["run", str(tmp_path / f"{name}.png"), "describe the image.", "--strategy", "todre", "--keep", "0.2",
              "--overlay", str(png)])  # fmt: skip
        told.append(capsys.readouterr().out)
        kept.append(np.asarray(Image.open(png)))
    assert told[0] == told[1]
    assert np.array_equal(*kept)
    maps = []
    for name in ("plain", "turned"):
        with pytest.raises(SystemExit):
            main(["check", str(tmp_path / f"{name}.png"), "red circle, cyan cross", "--threshold", "0", "--json",
                  "--heatmaps", str(tmp_path / name)])  # fmt: skip
        found = json.loads(capsys.readouterr().out)
        maps.append(([one["p"] for one in found["mentions"]], [np.asarray(Image.open(p)) for p in found["heatmaps"]]))
    assert maps[0][0] == maps[1][0]
    assert all(np.array_equal(*pair) for pair in zip(maps[0][1], maps[1][1], strict=True))


def test_the_filter_takes_paths_arrays_and_tensors_and_turns_pictures(tmp_path, example):
    model, processor = vtokens.load("scenes-llava")
    hf = vtokens.HallucinationFilter.from_pretrained(model, processor)
    array, path = np.asarray(example.image), on_its_side(example.image, tmp_path / "turned.png", 6)
    tensor = torch.from_numpy(array.copy())
    expected = hf.check(example.image, "Describe the image.", example.answer).to_dict()
    for given in (path, str(path), Image.open(path), array, tensor, tensor.permute(2, 0, 1), [path]):
        report = hf.check(given, "Describe the image.", example.answer)
        assert report.to_dict() == expected
        assert np.array_equal(report.images[0], array)
    both = hf.check([path, array], ["Describe the image."] * 2, [example.answer] * 2)
    for report in both:
        assert [one.name for one in report.mentions] == [one["name"] for one in expected["mentions"]]
    outcome = hf.generate(str(path), "Describe the image.", threshold=0.5, max_new_tokens=8)
    assert outcome.text == hf.generate(example.image, "Describe the image.", threshold=0.5, max_new_tokens=8).text
    row = {"image": "turned.png", "caption": example.answer}
    (tmp_path / "in.jsonl").write_text(json.dumps(row) + "\n")
    from vtokens.filter.datasets.rows import read_rows

    done, aside = Worker(hf, tmp_path)(list(read_rows(tmp_path / "in.jsonl", "Describe the image.")))
    assert not aside
    assert [one["p"] for one in done[0][1]["filter"]["mentions"]] == [one["p"] for one in expected["mentions"]]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (np.zeros((4, 4, 3)), "multiply by 255"),
        (torch.zeros(3, 4, 4), "multiply by 255"),
        (np.zeros((4, 4, 3), np.int64), "uint8 is"),
        (np.zeros((5, 5, 2), np.uint8), r"\(5, 5, 2\)"),
        (np.zeros((1, 4, 4, 3), np.uint8), r"\(1, 4, 4, 3\).*vtokens.video.read\(frames\) makes a clip"),
        (np.zeros((0, 4, 3), np.uint8), r"\(0, 4, 3\)"),
        (7, "type int is not allowed: a PIL image, the path"),
        ({"a": 1}, "type dict is not allowed"),
        (b"\x89PNG", "type bytes is not allowed"),
        ("no-such.png", "no-such.png"),
    ],
)
def test_what_is_no_picture_is_named(given, says):
    with pytest.raises((TypeError, ValueError, OSError), match=says):
        as_image(given)


def png(array):
    """A 16-bit PNG with the channels of `array`, written by hand: PIL writes none in colour."""
    height, width, channels = array.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return io.BytesIO(b"\x89PNG\r\n\x1a\n" + parts)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bits_a_channel_keep_their_range(channels):
    array = noise(9, 7, channels, dtype=np.uint16)
    found = np.asarray(open_image(png(array), "a.png")).astype(float)
    colours = array[..., :3] if channels > 2 else array[..., :1].repeat(3, -1)
    assert found.shape == (9, 7, 3)
    assert np.abs(found - colours / 257.0).max() < 1  # rounded, or cut off as PIL does in colour


@pytest.mark.parametrize(
    ("mode", "white", "suffix"),
    [("I;16", 65535, "png"), ("I;16", 65535, "tif"), ("I;16B", 65535, "tif"), ("I;16", 65535, "pgm"),
     ("I", 65535, "tif"), ("I", 255, "tif"), ("F", 65535, "tif"), ("F", 255, "tif"), ("F", 1, "tif")],
)  # fmt: skip
def test_grey_of_more_than_eight_bits_is_scaled(tmp_path, mode, white, suffix):
    ramp = np.linspace(0, 1, 64).reshape(8, 8)
    kind = {"I;16": "<u2", "I;16B": ">u2", "I": np.int32, "F": np.float32}[mode]
    image = Image.fromarray((ramp * white).astype(kind))
    assert image.mode == mode
    image.save(tmp_path / f"a.{suffix}")
    for found in (open_image(tmp_path / f"a.{suffix}"), upright(image)):
        assert found.mode == "RGB"
        assert np.abs(np.asarray(found) - 255 * ramp[..., None]).max() <= 255 / white / 2 + 1


def test_a_dark_picture_of_sixteen_bits_stays_dark(tmp_path):
    dark = np.full((4, 4), 200, np.uint16)
    for name in ("a.png", "a.pgm"):  # PIL gives the second in mode I, whose white the values alone would not tell
        Image.fromarray(dark).save(tmp_path / name)
        assert np.asarray(open_image(tmp_path / name)).max() == 1


@pytest.mark.parametrize("values", [[-1.0, 2.0], [0.0, np.nan], [0.0, np.inf], [0.0, 7e4]])
def test_numbers_that_are_no_grey_are_refused(tmp_path, values):
    Image.fromarray(np.array([values], np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(OSError, match=r"a\.tif.*0 to 65535 is allowed"):
        open_image(tmp_path / "a.tif")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "palette with transparency"])
def test_every_other_mode_is_what_transformers_makes_of_it(tmp_path, mode):
    suffix, more = ("tif" if mode in ("CMYK", "YCbCr") else "png"), {}
    image = Image.fromarray(noise(8, 8, 4), "RGBA")
    if mode == "palette with transparency":
        image, more = image.convert("RGB").quantize(16), {"transparency": bytes(range(0, 256, 16))}
    else:
        image = image.convert("RGB").convert(mode) if mode in ("CMYK", "YCbCr", "P") else image.convert(mode)
    image.save(tmp_path / f"a.{suffix}", **more)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = load_image(str(tmp_path / f"a.{suffix}"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(open_image(tmp_path / f"a.{suffix}"), expected)


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_an_animation_gives_its_first_frame_and_says_so(tmp_path, suffix):
    first, second = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    first.save(tmp_path / f"a.{suffix}", save_all=True, append_images=[second])
    with pytest.warns(UserWarning, match="several frames: only the first"):
        found = open_image(tmp_path / f"a.{suffix}")
    assert np.abs(np.asarray(found)[0, 0] - np.array([255.0, 0, 0])).max() < 8


def test_exif_data_that_cannot_be_read_do_not_hide_the_picture(tmp_path):
    image = Image.fromarray(noise(8, 8, 3))
    for number, broken in enumerate(
        [b"Exif\0\0garbage", b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0II*\0\x08\0\0\0\xff\xff"]
    ):
        image.save(tmp_path / f"{number}.png", exif=broken)
        assert np.array_equal(open_image(tmp_path / f"{number}.png"), image)


def test_a_picture_of_too_many_pixels_says_how_many_are_allowed_and_how_to_allow_it(tmp_path, monkeypatch, capsys):
    """In the library's words, from Python, the command line and a worker of Ray; half the limit is no matter."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    path = tmp_path / "large.png"
    Image.fromarray(noise(40, 50, 3)).save(path)
    says = r"large.png': it has 2,000 pixels, and at most 1,998 are allowed, .*smaller, .*VTOKENS_MAX_PIXELS=2000"
    monkeypatch.setenv("VTOKENS_MAX_PIXELS", "1998")
    for call in (open_image, as_image):
        with pytest.raises(OSError, match=says):
            call(str(path))
    with pytest.raises(SystemExit):
        main(["run", str(path), "what?"])
    error = capsys.readouterr().err
    assert "VTOKENS_MAX_PIXELS=2000" in error.splitlines()[-1]
    assert "2,000 pixels" in error
    assert "DOS" not in error
    refused = Decode()({"image": path.read_bytes(), "prompt": "what?"})["refused"]
    assert "it has 2,000 pixels, and at most 1,998 are allowed" in refused
    monkeypatch.setenv("VTOKENS_MAX_PIXELS", "2000")
    assert open_image(path).size == (50, 40)
    for wrong in ("many", "0", "-3", "1e9", ""):
        monkeypatch.setenv("VTOKENS_MAX_PIXELS", wrong)
        with pytest.raises(OSError, match=r"VTOKENS_MAX_PIXELS=.* is not allowed: a whole number of pixels"):
            open_image(path)


def test_the_number_of_pixels_that_is_allowed_is_looked_at_whenever_a_picture_is_opened(tmp_path, monkeypatch):
    """To the pixel; without the variable the limit is PIL's again, as it was or as a user has set it since."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    monkeypatch.setattr(pixel_limit, "_replaced", {})
    path = tmp_path / "picture.png"
    Image.fromarray(noise(40, 50, 3)).save(path)
    for most, allowed in (("1999", False), ("2000", True), ("1998", False), (None, True), ("1999", False)):
        monkeypatch.setenv("VTOKENS_MAX_PIXELS", most) if most else monkeypatch.delenv("VTOKENS_MAX_PIXELS")
        if allowed:
            assert open_image(path).size == (50, 40)
        else:
            with pytest.raises(OSError, match=f"2,000 pixels, and at most {int(most):,} are allowed"):
                open_image(path)
    monkeypatch.delenv("VTOKENS_MAX_PIXELS")
    assert open_image(path).size == (50, 40)
    assert Image.MAX_IMAGE_PIXELS == 1000
    monkeypatch.setenv("VTOKENS_MAX_PIXELS", "9999")
    open_image(path).crop((0, 0, 60, 50))  # larger than PIL alone would allow
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 999)
    monkeypatch.delenv("VTOKENS_MAX_PIXELS")
    with pytest.raises(OSError, match="at most 1,998 are allowed"):
        open_image(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert open_image(path).size == (50, 40)
