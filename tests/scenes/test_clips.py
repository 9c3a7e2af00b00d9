"""Clips are the same everywhere, show what their ground truth says, and keep their splits apart."""

from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np
import pytest

from vtokens.scenes import clips, score
from vtokens.scenes.clips.questions import ask
from vtokens.scenes.clips.render import frames_of, token_classes
from vtokens.scenes.clips.world import clip_stream, draw_clip
from vtokens.scenes.render import _RGB, BACKGROUND
from vtokens.scenes.world import COLOURS, IMAGE, NUMBERS

# SHA-256 over frames, questions and answers of the first 12 examples of each split; the same on every machine.
HASHES = {
    "train": "ad134052a70d55e44d48e1e7bacf424370b8caffdf8e2ca703af6ecde9cdbee0",
    "calibration": "d5ba9aaf7378dc1a36d7894149edfe3b858802982cc66ee1c7ea3e55b7358156",
    "test": "a1bd392aea2d0e554c8ef89feb8739d491dcae064b974501ccab62c04f9f6b5d",
}


def digest(split, seed=0, n=12, frames=8):
    """Hash of the frames and texts of the first examples of a split, all kinds."""
    found = hashlib.sha256()
    for e in clips.examples(split, n, seed, frames=frames):
        found.update(e.video.frames.tobytes() + f"{e.question}|{e.answer}".encode())
    return found.hexdigest()


@pytest.mark.parametrize("split", clips.SPLITS)
def test_examples_are_the_same_on_every_machine(split):
    assert digest(split) == HASHES[split]


def test_splits_seeds_and_lengths_differ():
    found = {digest(split, seed, 2, frames) for split in clips.SPLITS for seed in (0, 1) for frames in (8, 10)}
    assert len(found) == 12


def test_a_longer_list_begins_with_the_shorter_one():
    short, long = clips.examples("test", 4, frames=8), clips.examples("test", 8, frames=8)
    assert [e.question for e in short] == [e.question for e in long[:4]]
    assert all(np.array_equal(a.video.frames, b.video.frames) for a, b in zip(short, long, strict=False))


@pytest.mark.parametrize("frames", [8, 16, 40])
def test_clip_invariants(frames):
    """Two to five objects of different names, none of which ever shares a pixel, or a step's token, with another."""
    for index in range(60):
        clip = draw_clip("train", 3, index, frames)
        assert 1 <= len(clip.lasting) <= 4
        assert len({t.name for t in clip.tracks}) == len(clip.tracks)
        boxes = np.zeros((len(clip.tracks), frames, IMAGE, IMAGE), dtype=bool)
        for number, track in enumerate(clip.tracks):
            edges = [frame for spell in track.spells for frame in spell]
            assert edges == sorted(set(edges))
            assert edges[0] >= 0
            assert edges[-1] <= frames
            if track.behaviour != "flashes":
                assert all(edge % 2 == 0 for edge in edges)
            for frame, (left, top) in enumerate(track.places):
                assert min(left, top) >= 0
                assert max(left, top) + track.size <= IMAGE
                boxes[number, frame, top : top + track.size, left : left + track.size] = track.shown(frame)
        assert boxes.sum(0).max() <= 1


def test_only_the_needle_is_there_in_a_single_step():
    for index in range(200):
        clip = draw_clip("test", 5, index)
        steps = {t.name: sum(t.shown(f) or t.shown(f + 1) for f in range(0, 16, 2)) for t in clip.tracks}
        alone = [name for name, count in steps.items() if count == 1]
        assert alone == ([clip.needle.name] if clip.needle else [])


def pixels_of(frames, colour):
    """Which pixels have a colour's hue: bool (T, 96, 96). Grey ground and other colours are far from it."""
    chroma = frames.astype(float) - frames.mean(-1, keepdims=True)
    hue = _RGB[COLOURS.index(colour)] - _RGB[COLOURS.index(colour)].mean()
    length = np.linalg.norm(chroma, axis=-1)
    return (chroma @ hue / (np.linalg.norm(hue) * np.maximum(length, 1)) > 0.95) & (length > 40)


def runs(seen):
    """How often a row of bools becomes true."""
    return int(seen[0]) + int((~seen[:-1] & seen[1:]).sum())


def test_frames_show_what_answers_say():
    """Ways, numbers of appearances and needles, read off the pixels of objects whose colour nothing else has."""
    told = Counter()
    for index in range(60):
        clip = draw_clip("test", 7, index)
        frames, colours = frames_of(clip), Counter(t.colour for t in clip.tracks)
        for track in clip.tracks:
            if colours[track.colour] > 1:
                continue
            shown = pixels_of(frames, track.colour)
            seen = shown.sum((1, 2)) > 15
            assert seen.tolist() == [track.shown(frame) for frame in range(16)]
            assert NUMBERS[runs(seen)] == NUMBERS[len(track.spells)]
            first, last = (np.argwhere(shown[at]).mean(0) for at in (seen.argmax(), 15 - seen[::-1].argmax()))
            down, right = last - first
            far = max(abs(down), abs(right))
            way = ("down" if down > 0 else "up") if abs(down) > abs(right) else ("right" if right > 0 else "left")
            assert (way if far > 8 else "still") == track.way
            told[track.behaviour] += 1
    assert min(told[b] for b in ("moves", "enters", "blinks", "rests", "flashes")) >= 5


def test_classes_name_what_each_step_shows():
    for index in range(20):
        clip = draw_clip("train", 1, index)
        classes = token_classes(clip)
        assert classes.shape == (8, 8, 8)
        for step in range(8):
            there = {t.number for t in clip.tracks if t.shown(2 * step) or t.shown(2 * step + 1)}
            assert set(classes[step].flatten().tolist()) - {BACKGROUND} == there


def answers(kind, n=400):
    found = Counter()
    for index in range(n):
        asked = ask(draw_clip("test", 2, index), kind, clip_stream("test", 2, index, 0, 20))
        found[asked[1] if asked else None] += 1
    return found


def test_answers_are_balanced():
    ways = answers("way")
    assert min(ways[way] for way in (*clips.WAYS, "still")) > 40
    assert 160 < answers("seen")["yes"] < 240
    assert min(answers("often")[n] for n in ("one", "two", "three", "four")) > 30
    assert max(answers("movers").values()) < 240


def test_the_first_of_two_is_named_first_as_often_as_second():
    found = clips.examples("test", 100, kinds=["first"], frames=8)
    front = sum(e.question.index(e.answer) < e.question.index(" or ") for e in found)
    assert 30 < front < 70


def test_times_stand_beside_frames():
    video = clips.examples("test", 1, frames=8)[0].video
    assert video.seconds == (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5)
    assert (video.metadata["fps"], video.metadata["total_num_frames"], video.metadata["duration"]) == (2.0, 8, 4.0)
    assert video.frames.dtype == np.uint8


def test_score_takes_clips():
    e = clips.examples("test", 1, frames=8)[0]
    assert score(e.answer.upper() + ".", e)
    assert not score("sideways", e)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"split of clips 'tset'.*'test'"):
        clips.examples("tset")
    with pytest.raises(ValueError, match=r"'needel'.*needle"):
        clips.examples(kinds=["needel"])
    with pytest.raises(TypeError, match="sequence of names"):
        clips.examples(kinds="way")
    for frames in (7, 6, 4098):
        with pytest.raises(ValueError, match=f"frames must be an even number from 8 to 4096, got {frames}"):
            clips.examples(frames=frames)
    with pytest.raises(TypeError, match=r"frames must be an int, got 16\.0"):
        draw_clip("test", 0, 0, 16.0)
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        clips.examples(n=0)
