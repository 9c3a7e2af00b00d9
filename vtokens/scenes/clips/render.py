"""Rendering of clips into frames, and the class that each merged patch of a step shows."""

from __future__ import annotations

import numpy as np

from .. import render
from ..world import CELL, COLOURS, IMAGE, Scene, Thing
from .world import STEP, ClipScene, Track, clip_stream

_MARGIN = CELL // 4  # windows around objects reach over the edge of the picture by less
_NOISE = np.float32(8 / 127.5)
_GROUND = 10_000  # a clip's ground is drawn as that of a picture which no attempt reaches


def frames_of(clip: ClipScene) -> np.ndarray:
    """Render a clip: uint8 (frames, 96, 96, 3), RGB. The ground stays, noise and objects change."""
    ground = render._background(Scene(clip.split, clip.seed, clip.index, _GROUND + clip.attempt, (), ()))
    ground = np.pad(ground, ((_MARGIN, _MARGIN), (_MARGIN, _MARGIN), (0, 0)))
    rng = clip_stream(clip.split, clip.seed, clip.index, clip.attempt, 1)
    jitter = rng.integers(-18, 19, (len(clip.tracks), 3)).astype(np.float32)
    paints = [render._RGB[COLOURS.index(t.colour)] + j for t, j in zip(clip.tracks, jitter, strict=True)]
    covers = [cover_of(t) for t in clip.tracks]
    found = np.empty((clip.frames, IMAGE, IMAGE, 3), dtype=np.uint8)
    inner = slice(_MARGIN, _MARGIN + IMAGE)
    for frame in range(clip.frames):
        canvas = ground.copy()
        for track, cover, paint in zip(clip.tracks, covers, paints, strict=True):
            if track.shown(frame):
                top, left = corner_of(track, frame)
                window = canvas[top + _MARGIN :, left + _MARGIN :][:CELL, :CELL]
                window += (paint - window) * (cover * np.float32(track.opacity))[..., None]
        noise = rng.integers(0, 256, (IMAGE, IMAGE, 3), dtype=np.uint8).astype(np.float32) - np.float32(127.5)
        shown = canvas[inner, inner] + noise * _NOISE
        found[frame] = np.floor(np.clip(shown, 0, 255) + np.float32(0.5)).astype(np.uint8)
    return found


def cover_of(track: Track) -> np.ndarray:
    """How far an object covers each pixel of the 24 x 24 window that it stands in the middle of, float32 in 0-1."""
    room = (CELL - track.size) // 2
    box = (room, room, room + track.size, room + track.size)
    return render._masks([Thing(track.shape, track.colour, 0, 0, box)])[0]


def corner_of(track: Track, frame: int) -> tuple[int, int]:
    """Top and left of that window in a frame, in pixels; it may reach over the edge of the picture by 3."""
    room = (CELL - track.size) // 2
    left, top = track.places[frame]
    return top - room, left - room


def token_classes(clip: ClipScene, token: int = 12) -> np.ndarray:
    """What each square of `token` pixels shows in each step: int64 (steps, 96 / token, 96 / token).

    As `vtokens.scenes.render.patch_classes`; what is there in one of a step's two frames is shown.
    """
    side = IMAGE // token
    shares = np.zeros((clip.frames // STEP, len(clip.tracks), side, side), dtype=np.float32)
    for number, track in enumerate(clip.tracks):
        cover = cover_of(track)
        seen: dict[tuple[int, int], np.ndarray] = {}
        for first, end in track.spells:
            for frame in range(first, end):
                corner = corner_of(track, frame)
                if corner not in seen:
                    plane = np.zeros((IMAGE + 2 * _MARGIN,) * 2, dtype=np.float32)
                    plane[corner[0] + _MARGIN :, corner[1] + _MARGIN :][:CELL, :CELL] = cover
                    inner = plane[_MARGIN : _MARGIN + IMAGE, _MARGIN : _MARGIN + IMAGE]
                    seen[corner] = inner.reshape(side, token, side, token).mean(axis=(1, 3))
                np.maximum(shares[frame // STEP, number], seen[corner], out=shares[frame // STEP, number])
    found = np.full((len(shares), side, side), render.BACKGROUND, dtype=np.int64)
    for number, track in enumerate(clip.tracks):
        share = shares[:, number]
        most = share.max(axis=(1, 2), keepdims=True)
        found[(most > 0) & ((share >= render.SEEN) | (share >= most))] = track.number
    return found
