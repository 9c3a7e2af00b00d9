"""The colours can be told apart by everyone, and stand out from the background."""

import itertools

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from vtokens.report import palette

# Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB.
VISION = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
# Ottosson's OKLab.
LMS = [[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
       [0.0883024619, 0.2817188376, 0.6299787005]]  # fmt: skip
LAB = [[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099],
       [0.0259040371, 0.7827717662, -0.8086757660]]  # fmt: skip
SETS = {
    "light": (palette.LIGHT, palette.LIGHT_BACKGROUND),
    "dark": (palette.DARK, palette.DARK_BACKGROUND),
    "light phases": (tuple(palette.PHASES_LIGHT.values()), palette.LIGHT_BACKGROUND),
    "dark phases": (tuple(palette.PHASES_DARK.values()), palette.DARK_BACKGROUND),
}


def linear(colours):
    rgb = np.array([to_rgb(colour) for colour in colours])
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("vision", VISION)
def test_no_two_colours_look_alike(name, vision):
    colours, _ = SETS[name]
    seen = np.clip(linear(colours) @ np.array(VISION[vision]).T, 0, 1)
    lab = np.cbrt(seen @ np.array(LMS).T) @ np.array(LAB).T
    nearest = min(np.linalg.norm(a - b) for a, b in itertools.combinations(lab, 2))
    assert nearest > 0.1  # Okabe and Ito's palette, the usual choice, has 0.076 under deuteranopia


@pytest.mark.parametrize("name", SETS)
def test_colours_stand_out_from_the_background(name):
    colours, background = SETS[name]
    light = linear([*colours, background]) @ [0.2126, 0.7152, 0.0722]
    ratios = (np.maximum(light[:-1], light[-1]) + 0.05) / (np.minimum(light[:-1], light[-1]) + 0.05)
    least = 3.0 if "phases" not in name else 2.0  # each phase stands in a column of figures as well
    assert ratios.min() >= least
