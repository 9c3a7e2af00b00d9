"""Frames of videos: where tokens stand in them, and that no stage waits for the device."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import vtokens
from tests.engine.cases import model
from tests.families import ALL, OUTSIDE, STATEFUL
from tests.strategies.videos import visuals
from vtokens.adapters import adapter_class
from vtokens.strategies import VideoPruner, get, list_strategies
from vtokens.strategies.signals import Saliency

TEMPORAL = [name for name in list_strategies() if issubclass(get(name), VideoPruner)]
PLAIN = [name for name in TEMPORAL if "chosen" not in vars(get(name)) and get(name)().stages() == ("prompt",)]
"""Temporal strategies that read features alone."""
CLIPS = ("kimi_k25", "minicpmv4_6")  # each of one frame


def video(frames: int, rows: int, columns: int) -> torch.Tensor:
    """float32 (T, h, w, 3): each token says where it stands."""
    return torch.stack(torch.meshgrid(*(torch.arange(n) for n in (frames, rows, columns)), indexing="ij"), -1).float()


def test_tokens_stand_where_they_say() -> None:
    """Two videos of different sizes and an image between them: rows of frames and places, and back."""
    seen = visuals([[("video", video(4, 2, 3)), ("image", video(1, 5, 5))], [("video", video(2, 3, 3))]], width=3)
    frames = seen.frames
    assert frames is not None
    assert frames.shapes == ((4, 6), (2, 9))
    assert frames.real.sum((1, 2)).tolist() == [24, 18]
    tokens = frames.gather(seen.tokens)
    assert tokens.shape == (2, 4, 9, 3)
    for number, (length, rows, columns) in enumerate(((4, 2, 3), (2, 3, 3))):
        assert torch.equal(tokens[number, :length, : rows * columns], video(length, rows, columns).flatten(1, 2))
    assert (tokens[~frames.real] == 0).all()
    frame = torch.arange(4)[None, :, None].expand(2, 4, 9).float()
    back = frames.scatter(frame, torch.full(seen.valid.shape, -1.0))
    for row, picture in enumerate(seen.layout.pictures):
        expected = seen.tokens[row, :, 0] if picture.modality == "video" else torch.full((25,), -1.0)
        assert torch.equal(back[row, : seen.counts[row]], expected[: seen.counts[row]])


def test_images_alone_have_no_frames() -> None:
    assert visuals([[("image", video(1, 2, 2))]], width=3).frames is None


@pytest.mark.parametrize("name", PLAIN)
def test_no_stage_waits_for_the_device(name: str) -> None:
    """On torch's meta device, which holds no values, whatever reads one fails; counts are known all the same."""
    seen = visuals([[("video", video(5, 2, 3)), ("image", video(1, 5, 5))], [("video", video(2, 3, 3))]], width=3)
    meta = torch.device("meta")
    found = get(name)(keep=0.5).at_prompt(replace(seen, hidden=seen.hidden.to(meta), layout=seen.layout.to(meta)))  # type: ignore[call-arg]
    assert found is not None
    assert found.keep.device == meta
    assert found.counts is not None
    assert found.counts[0] == 25


def test_there_are_such_strategies() -> None:
    assert {"evs", "vidcom2", "dycoke"} <= set(PLAIN)
    assert all(Saliency() not in get(name)().needs(None).signals for name in PLAIN)  # type: ignore[arg-type]


@pytest.mark.parametrize("family", [*ALL, *STATEFUL, *OUTSIDE])
def test_a_family_without_videos_refuses_it(family: str) -> None:
    """With every temporal strategy and its spatial partner, whatever the settings; `keep=1.0` asks for nothing."""
    target, anatomy = model(family, "plain"), adapter_class(family).anatomy
    sees = "clips" if family in CLIPS else "images"
    for name in TEMPORAL:
        if "video" in anatomy.towers and family not in CLIPS:
            vtokens.attach(target, name, keep=0.9).detach()
            continue
        with pytest.raises(ValueError, match=rf"'{name}' drops tokens of videos alone, and a .* sees {sees}"):
            vtokens.attach(target, f"{name}+uniform", keep=0.1)
        assert vtokens.attachment(target) is None
        vtokens.attach(target, f"{name}(keep=1.0)").detach()
