"""Pictures, layouts and groups, on sequences small enough to write down."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from vtokens.core.groups import Groups
from vtokens.core.layout import Layout
from vtokens.core.picture import Picture

IMAGE, VIDEO, PAD, TEXT = "i", "v", "_", "t"


def build(rows: list[str], images: list[Picture], videos: list[Picture] | None = None) -> Layout:
    """A layout from rows of letters: `i` and `v` are placeholder positions, `_` padding, `t` text."""
    letters = np.array([list(row) for row in rows])
    masks = {"image": torch.from_numpy(letters == IMAGE), "video": torch.from_numpy(letters == VIDEO)}
    pictures = {"image": images, "video": videos or []}
    return Layout.build(masks, pictures, torch.from_numpy(letters != PAD))


def square(side: int, modality: str = "image") -> Picture:
    """A picture of side x side tokens."""
    return Picture.of([(1, side, side)], [False], modality)


def test_picture_in_raster_order() -> None:
    """Frames, then rows, then columns."""
    picture = Picture.of([(2, 2, 3)], [False], "video")
    assert len(picture) == picture.tokens == 12
    assert picture.t.tolist() == [0] * 6 + [1] * 6
    assert picture.y.tolist() == [0, 0, 0, 1, 1, 1] * 2
    assert picture.x.tolist() == [0, 1, 2] * 4
    assert set(picture.view.tolist()) == {0}


def test_picture_with_views_and_newlines() -> None:
    """A thumbnail without and a tiled view with newlines: these hold no feature and have no cell."""
    picture = Picture.of([(1, 2, 2), (1, 2, 3)], [False, True])
    assert picture.tokens == 10
    assert picture.view.tolist() == [0] * 4 + [1, 1, 1, -1] * 2
    assert picture.x.tolist() == [0, 1, 0, 1] + [0, 1, 2, -1] * 2
    assert picture.y.tolist() == [0, 0, 1, 1, 0, 0, 0, -1, 1, 1, 1, -1]
    padded = picture.padded(before=1, after=2)
    assert (len(padded), padded.tokens) == (15, 10)
    assert padded.view.tolist() == [-1, *picture.view.tolist(), -1, -1]
    assert padded.grids == picture.grids


def test_layout_of_a_ragged_batch() -> None:
    """Two pictures of two sizes in one row, one in the next, none in the last; padding on the left."""
    newlined = Picture.of([(1, 1, 2)], [True])
    layout = build(["ttiiiitiiit", "___tiiiitt_", "____ttttttt"], [square(2), newlined, square(2)])
    assert layout.visual.int().tolist() == [
        [0, 0, 1, 1, 1, 1, 0, 1, 1, 0, 0],
        [0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0],
        [0] * 11,
    ]
    # The newline belongs to its picture and has a cell, though it is no visual token.
    assert layout.image[0].tolist() == [-1, -1, 0, 0, 0, 0, -1, 1, 1, 1, -1]
    assert layout.cell[0].tolist() == [-1, -1, 0, 1, 2, 3, -1, 0, 1, 2, -1]
    assert layout.image[1].tolist() == [-1] * 4 + [2] * 4 + [-1] * 3
    assert (layout.owner, layout.source, layout.counts) == ((0, 0, 1), (0, 1, 2), (4, 2, 4))
    assert (layout.lead, layout.tail, layout.padded) == ((0, 3, 4), 1, True)
    assert layout.per_sample() == [6, 4, 0]
    assert layout.per_sample([1, 1, 3]) == [2, 3, 0]


def test_images_come_before_videos() -> None:
    """Numbers follow the order of the features: all images, then all videos, wherever they stand."""
    layout = build(["vviitt", "tiiiit"], [Picture.of([(1, 1, 2)], [False]), square(2)],
                   [Picture.of([(2, 1, 1)], [False], "video")])  # fmt: skip
    assert layout.image.tolist() == [[2, 2, 0, 0, -1, -1], [-1, 1, 1, 1, 1, -1]]
    assert [p.modality for p in layout.pictures] == ["image", "image", "video"]
    assert layout.owner == (0, 1, 0)
    assert not layout.padded


def test_beams_repeat_the_pictures_of_their_row() -> None:
    """Each row was copied three times after the tower: every copy owns its row's pictures, from the same source."""
    one, two = square(1), square(2)
    rows = ["iitiiii"] * 3 + ["titttii"] * 3
    layout = build(rows, [Picture.of([(1, 1, 2)], [False]), two, one, Picture.of([(1, 2, 1)], [False])])
    assert layout.owner == (0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5)
    assert layout.source == (0, 1, 0, 1, 0, 1, 2, 3, 2, 3, 2, 3)
    assert layout.counts == (2, 4) * 3 + (1, 2) * 3
    assert layout.per_sample() == [6] * 3 + [3] * 3


@pytest.mark.parametrize(
    ("rows", "images", "message"),
    [
        (["tiii"], [square(2)], r"the prompt holds 3 image placeholder positions, but its 1 image\(s\) need 4"),
        (["tiiii"], [], r"holds 4 image placeholder positions, but its 0 image\(s\) need 0"),
        (["tttt"], [square(2)], r"holds 0 image placeholder positions, but its 1 image\(s\) need 4"),
        (["iiii", "iiii", "iiii"], [square(1)] * 6, r"prompt holds 12 image placeholder positions, but .* 6 image"),
        (["iiit", "iiii"], [square(2), Picture.of([(1, 1, 3)], [False])],
         r"picture 0 needs 4 placeholder positions, but its sample has 3 left"),
    ],
)  # fmt: skip
def test_what_does_not_add_up_is_refused(rows: list[str], images: list[Picture], message: str) -> None:
    """Counts that differ in all, and counts that agree in all but not row by row."""
    with pytest.raises(ValueError, match=message):
        build(rows, images)


def test_take_after_a_reduction() -> None:
    """Gathered rows keep image and cell; new left padding belongs to nothing."""
    layout = build(["tiiiit", "_tiiii"], [square(2), square(2)])
    index = torch.tensor([[0, 1, 3, 5], [0, 0, 1, 4]])
    real = torch.tensor([[True] * 4, [False, False, True, True]])
    after = layout.take(index, real, (2, 1), (0, 2))
    assert after.image.tolist() == [[-1, 0, 0, -1], [-1, -1, -1, 1]]
    assert after.cell.tolist() == [[-1, 0, 2, -1], [-1, -1, -1, 2]]
    assert after.valid.tolist() == real.tolist()
    assert (after.counts, after.lead) == ((2, 1), (0, 2))
    assert after.pictures is layout.pictures


def test_count_reads_what_stays() -> None:
    """Tokens per picture where a mask is True; text and newlines do not count."""
    layout = build(["tiiiit", "iiittt"], [square(2), Picture.of([(1, 1, 2)], [True])])
    stay = torch.tensor([[True, True, False, False, True, True], [True, False, True, True, True, True]])
    assert layout.count(stay) == (2, 1)
    assert layout.count(torch.ones_like(stay)) == layout.counts == (4, 2)


def values_of(layout: Layout) -> Tensor:
    """(B, N): a distinct number for each position."""
    return torch.arange(layout.visual.numel()).view_as(layout.visual)


def test_groups_by_image_and_by_sample() -> None:
    """Each group lists its tokens in sequence order, newlines left out; scatter puts choices back where they were."""
    layout = build(
        ["iitiiiit", "_iiitttt"], [Picture.of([(1, 1, 2)], [False]), square(2), Picture.of([(1, 1, 2)], [True])]
    )
    images, samples = layout.groups("image"), layout.groups("sample")
    assert images.counts == (2, 4, 2)
    gathered = images.gather(values_of(layout))
    assert [gathered[g][images.valid[g]].tolist() for g in range(3)] == [[0, 1], [3, 4, 5, 6], [9, 10]]
    assert samples.counts == (6, 2)
    assert samples.gather(values_of(layout))[0].tolist() == [0, 1, 3, 4, 5, 6]
    for groups in (images, samples):
        assert torch.equal(groups.scatter(groups.valid, layout.visual), layout.visual)
        # Slots beyond a group's size point at other tokens: choosing them must choose nothing.
        assert not groups.scatter(~groups.valid, layout.visual).any()
    one = torch.zeros_like(images.valid)
    one[1, 2] = True
    assert images.scatter(one, layout.visual).nonzero().tolist() == [[0, 5]]
    hidden = torch.randn(2, 8, 3)
    assert torch.equal(images.gather(hidden)[1, 2], hidden[0, 5])


@given(st.lists(st.lists(st.integers(0, 5), max_size=3), min_size=1, max_size=4), st.integers(0, 999))
def test_gather_and_scatter_are_inverse(shapes: list[list[int]], seed: int) -> None:
    """Any batch of rows with any number of pictures: what is chosen per group is what is True in the sequence."""
    rows = ["t".join("i" * (side * side) for side in sides) for sides in shapes]
    width = max(len(row) for row in rows) + 1
    pictures = [square(side) for sides in shapes for side in sides if side]
    layout = build([row.rjust(width, "_")[:-1] + "t" if row else "_" * (width - 1) + "t" for row in
                    (row + "t" for row in rows)], pictures)  # fmt: skip
    for grouping in ("image", "sample"):
        groups = layout.groups(grouping)
        chosen = (torch.rand(groups.valid.shape, generator=torch.Generator().manual_seed(seed)) > 0.5) & groups.valid
        mask = groups.scatter(chosen, layout.visual)
        assert not (mask & ~layout.visual).any()
        assert torch.equal(groups.gather(mask) & groups.valid, chosen)
        assert int(mask.sum()) == int(chosen.sum())
        assert groups.valid.sum(1).tolist() == list(groups.counts)


def test_no_pictures_at_all() -> None:
    """A text batch has no groups and nothing to keep."""
    layout = build(["tttt", "__tt"], [])
    assert layout.counts == layout.owner == ()
    assert not layout.visual.any()
    assert layout.per_sample() == [0, 0]
    groups = Groups.of(layout.image, ())
    assert groups.valid.shape[0] == 0
    assert not groups.scatter(groups.valid, layout.visual).any()
