"""CHAIR: the objects a caption names that are not in the picture (Rohrbach et al., EMNLP 2018)."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .intervals import Interval, bootstrap, ratio


@dataclass(frozen=True)
class Chair:
    """CHAIR over `n` captions.

    chair_s: share of captions that name at least one object that is not there. chair_i: share of the mentions,
    repeats counted, whose object is not there; None where nothing is mentioned. recall: share of the objects there
    that are mentioned, over all pictures together; None where all are empty. length: mean length of a caption.
    """

    chair_s: Interval
    chair_i: Interval | None
    recall: Interval | None
    length: Interval
    n: int


def chair(
    mentions: Sequence[Sequence[Hashable]],
    truths: Sequence[Collection[Hashable]],
    *,
    lengths: Sequence[float] | None = None,
    groups: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Chair:
    """CHAIR_S and CHAIR_I, with the recall and length that they must be read with: short captions invent little.

    Args:
        mentions: the objects each caption names, in the vocabulary of `truths`, repeats included.
        truths: the objects that are in each picture.
        lengths: the length of each caption, in whatever unit, by default its number of mentions.
        groups: one label a caption where several describe one picture (see `bootstrap`).

    The intervals of chair_i, recall and length resample captions (or groups), since the mentions of one caption are
    not independent; that of chair_s is Wilson's unless there are groups.

    Raises ValueError for no caption or lists of different length, TypeError for a caption given as text.
    """
    if not len(truths) or len(mentions) != len(truths):
        raise ValueError(f"need as many captions as truths and at least one, got {len(mentions)} and {len(truths)}")
    for named in mentions:
        if isinstance(named, str):
            raise TypeError(f"mentions must hold lists of objects, got the text {named!r}")
    if lengths is not None and len(lengths) != len(truths):
        raise ValueError(f"need one length a caption, got {len(lengths)} for {len(truths)}")
    pairs = list(zip(mentions, map(frozenset, truths), strict=True))
    counted = np.array([len(said) for said, _ in pairs])
    wrong = np.array([sum(thing not in there for thing in said) for said, there in pairs])
    covered = np.array([len(there.intersection(said)) for said, there in pairs])
    more: dict[str, Any] = {"groups": groups, "confidence": confidence, "resamples": resamples, "seed": seed}
    chair_s = ratio((wrong > 0).astype(int), np.ones(len(pairs), dtype=int), **more)
    assert chair_s is not None
    return Chair(
        chair_s,
        ratio(wrong, counted, **more),
        ratio(covered, [len(there) for _, there in pairs], **more),
        bootstrap(counted if lengths is None else lengths, np.mean, **more),
        len(pairs),
    )
