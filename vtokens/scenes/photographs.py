"""Photographs as grounds of scenes: files of scikit-image's and scikit-learn's packages, which are never imported.

Each photograph belongs to one split. A crop is made by averages of whole squares of pixels in integers, so that every
machine that decodes the file alike draws the same.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from vtokens.core.errors import MissingExtra
from vtokens.core.extras import install

from .additions import Crop
from .world import IMAGE, Scene, stream

_STREAM = 101
_MOST = 4  # pixels of a photograph on a side of a pixel of the scene, at most


@dataclass(frozen=True)
class Photograph:
    """A photograph: the split it belongs to, its file, what its package says of its licence, and its SHA-256."""

    split: str
    package: str
    file: str
    licence: str
    sha256: str


_SKIMAGE, _SKLEARN = ("skimage", "scikit-image", "data"), ("sklearn", "scikit-learn", "datasets/images")
_HOME = {package: (module, folder) for module, package, folder in (_SKIMAGE, _SKLEARN)}
_CC0, _FREE, _BY = "CC0", "public domain", "CC BY 2.0"

_A, _B = "scikit-image", "scikit-learn"
#: name -> photograph. What a package says nothing about (moon, motorcycle) is not used, nor are photographs of print.
PHOTOGRAPHS = {
    Path(p.file).stem: p
    for p in (
        Photograph("train", _A, "astronaut.png", _FREE,
                   "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5"),
        Photograph("train", _A, "brick.png", _CC0, "7966caf324f6ba843118d98f7a07746d22f6a343430add0233eca5f6eaaa8fcf"),
        Photograph("train", _A, "chelsea.png", _CC0,
                   "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb"),
        Photograph("train", _A, "gravel.png", _CC0, "c48615b451bf1e606fbd72c0aa9f8cc0f068ab7111ef7d93bb9b0f2586440c12"),
        Photograph("train", _A, "hubble_deep_field.jpg", _FREE,
                   "3a19c5dd8a927a9334bb1229a6d63711b1c0c767fb27e2286e7c84a3e2c2f5f4"),
        Photograph("train", _A, "ihc.png", "no known copyright restrictions",
                   "f8dd1aa387ddd1f49d8ad13b50921b237df8e9b262606d258770687b0ef93cef"),
        Photograph("train", _B, "china.jpg", _BY, "8378025ad2519d649d02e32bd98990db4ab572357d9f09841c2fbfbb4fefad29"),
        Photograph("calibration", _A, "camera.png", _CC0,
                   "b0793d2adda0fa6ae899c03989482bff9a42d3d5690fc7e3648f2795d730c23a"),
        Photograph("calibration", _A, "clock_motion.png", _FREE,
                   "f029226b28b642e80113d86622e9b215ee067a0966feaf5e60604a1e05733955"),
        Photograph("test", _A, "coffee.png", _CC0, "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7"),
        Photograph("test", _A, "grass.png", _CC0, "b6b6022426b38936c43a4ac09635cd78af074e90f42ffa8227ac8b7452d39f89"),
        Photograph("test", _B, "flower.jpg", _BY, "a77f6ec41e353afdf8bdff2ea981b2955535d8d83294f8cfa49cf4e423dd5638"),
        Photograph("hard", _A, "coins.png", "no known copyright restrictions",
                   "f8d773fc9cfa6f4d8e5942dc34d0a0788fcaed2a4fefbbed0aef5398d7ef4cba"),
        Photograph("hard", _A, "rocket.jpg", _FREE, "c2dd0de7c538df8d111e479619b129464d0269d0ae5fd18ca91d33a7fdfea95c"),
        Photograph("decorrelated", _A, "retina.jpg", _CC0,
                   "38a07f36f27f095e818aea7b96d34202c05176d30253c66733f2e00379e9e0e6"),
        Photograph("partner-removed", _A, "cell.png", _CC0,
                   "8d23a7fb81f7cc877cd09f330357fc7f595651306e84e17252f6e0a1b3f61515"),
    )
}  # fmt: skip


def check_photographs(split: str) -> None:
    """Read all photographs of a split.

    Raises:
        MissingExtra: a package is not installed; the message has the command.
        ValueError: a package holds another photograph under this name, or none.
    """
    for name in _names(split):
        pixels(name)


def draw_crop(scene: Scene) -> Crop:
    """Which photograph of its split lies behind `scene`, and which part of it. Raises as `check_photographs`."""
    rng = stream(scene.split, scene.seed, scene.index, scene.attempt, _STREAM)
    names = _names(scene.split)
    name = names[int(rng.integers(len(names)))]
    height, width = pixels(name).shape[:2]
    scale = int(rng.integers(1, min(_MOST, min(height, width) // IMAGE) + 1))
    left, top = (int(rng.integers(size - scale * IMAGE + 1)) for size in (width, height))
    return Crop(name, left, top, scale, bool(rng.integers(2)))


def cut(crop: Crop) -> np.ndarray:
    """The pixels of a crop, float32 (96, 96, 3) with whole values 0-255."""
    side = IMAGE * crop.scale
    part = pixels(crop.name)[crop.top : crop.top + side, crop.left : crop.left + side].astype(np.int64)
    sums = part.reshape(IMAGE, crop.scale, IMAGE, crop.scale, 3).sum(axis=(1, 3))
    small = (sums + crop.scale**2 // 2) // crop.scale**2
    return (small[:, ::-1] if crop.mirrored else small).astype(np.float32)


@cache
def pixels(name: str) -> np.ndarray:
    """A whole photograph, uint8 (height, width, 3), RGB. Raises as `check_photographs`."""
    photograph = PHOTOGRAPHS[name]
    path = _path(photograph)
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != photograph.sha256:
        what = "is not the photograph that scenes are drawn on" if path.is_file() else "is not there"
        raise ValueError(f"{path} {what}; these releases hold it: pip install scikit-image==0.26.0 scikit-learn==1.9.1")
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def _names(split: str) -> list[str]:
    return [name for name, photograph in PHOTOGRAPHS.items() if photograph.split == split]


def _path(photograph: Photograph) -> Path:
    module, folder = _HOME[photograph.package]
    try:
        spec = find_spec(module)
    except ValueError:  # None in sys.modules: the import was forbidden
        spec = None
    if spec is None or not spec.submodule_search_locations:
        missing = f"scenes on photographs need {photograph.package}, which is not installed"
        raise MissingExtra(f"{missing}: {install('worlds')}")
    return Path(spec.submodule_search_locations[0]) / folder / photograph.file
