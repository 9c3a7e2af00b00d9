"""The PNG files: which are written, that they show something, and that the same input gives the same picture."""

import numpy as np
import pytest
from PIL import Image

from tests.eval import folders
from vtokens.report import answers, flips, palette, plots, reading

NAMES = ["tokens", "speed", "time", "memory", "flips", "kept"]


@pytest.fixture(scope="module")
def read(shipped, tmp_path_factory):
    names = ["none", "random", "cls", "fastv"]
    tasks = ["scenes_vqa", "scenes_caption"]
    folder = folders.write(tmp_path_factory.mktemp("plots") / "x", shipped[0], names, [0.5, 0.1], 1, tasks)
    results = reading.read_results(folder)
    given = answers.read_answers(results)
    return results, given, flips.flips(results, given)


def near(path, colour):
    """The share of pixels within a few steps of a colour."""
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return float((np.abs(pixels - wanted).max(-1) < 6).mean())


def test_every_plot_shows_its_colours(read, tmp_path):
    written = plots.write(*read, tmp_path)
    assert [path.name for path in written] == [f"{name}.png" for name in NAMES]
    for path in written:
        assert min(Image.open(path).size) > 300
    for name in ("tokens", "speed"):
        assert all(near(tmp_path / f"{name}.png", colour) > 2e-4 for colour in palette.LIGHT[:3])
        assert near(tmp_path / f"{name}.png", palette.LIGHT[5]) < 1e-5
    assert all(near(tmp_path / "time.png", palette.PHASES_LIGHT[p]) > 1e-2 for p in ("encode", "prefill", "decode"))
    assert near(tmp_path / "flips.png", palette.LIGHT[1]) > near(tmp_path / "flips.png", palette.LIGHT[0]) > 0
    assert near(tmp_path / "memory.png", palette.LIGHT[5]) > 2e-2


def test_the_same_results_give_the_same_pictures(read, tmp_path):
    for name in ("a", "b"):
        plots.write(*read, tmp_path / name)
    assert all((tmp_path / "a" / f"{n}.png").read_bytes() == (tmp_path / "b" / f"{n}.png").read_bytes() for n in NAMES)


def test_bars_are_as_long_as_the_times(read, tmp_path):
    results, *_ = read
    plots.write(*read, tmp_path)
    pixels = np.asarray(Image.open(tmp_path / "time.png").convert("RGB")).astype(int)
    colours = [[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in palette.PHASES_LIGHT.values()]
    painted = np.any([np.abs(pixels - c).max(-1) < 6 for c in colours], axis=0)
    lengths = painted.sum(1)[70:]  # below the legend
    rows = np.split(lengths, np.flatnonzero(np.diff((lengths > 50).astype(int))) + 1)
    lengths = [float(np.median(row)) for row in rows if row.max() > 50]
    totals = [s.cost().encode + s.cost().prefill + s.cost().decode for s in results.settings]
    assert len(lengths) == len(totals) == 7
    assert np.corrcoef(lengths, totals)[0, 1] > 0.999
