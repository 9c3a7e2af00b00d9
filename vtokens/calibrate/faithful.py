"""The objective of VFlowOpt for any strategy: how little pruning moves what a model makes of a prompt; and a search."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from vtokens.engine import attach

Settings = dict[str, Any]
_DRAWN = 1 / 3
"""The part of the calls that is drawn at random, before the search goes on from the best of them."""


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        settings: the best ones.
        score: theirs.
        tried: all settings that were scored, in order, and their scores.
    """

    settings: Settings
    score: float
    tried: tuple[tuple[Settings, float], ...]


class Faithfulness:
    """The mean cosine of the last state of a prompt, behind all layers, with and without a strategy.

    It is 1 where pruning changes nothing. What the model says without a strategy is computed once.

    Args:
        model: a loaded model of a supported family, nothing attached.
        batches: processor outputs of one prompt each, with a picture.

    Raises:
        ValueError: no prompts.
    """

    def __init__(self, model: PreTrainedModel, batches: Iterable[Mapping[str, Any]]) -> None:
        self._model, self._batches = model, [dict(batch) for batch in batches]
        if not self._batches:
            raise ValueError("no prompts to compare: at least one is needed")
        self._plain = [self._last(batch) for batch in self._batches]

    def of(self, strategy: Any) -> float:
        """The mean over the prompts, -1 to 1, under a strategy as `attach` takes it."""
        with attach(self._model, strategy):
            pairs = zip(self._plain, map(self._last, self._batches), strict=True)
            return sum(float(torch.cosine_similarity(one, other, dim=0)) for one, other in pairs) / len(self._plain)

    @torch.no_grad()
    def _last(self, batch: Mapping[str, Any]) -> Tensor:
        """float64 (D,)."""
        states: Tensor = self._model(**batch, output_hidden_states=True, logits_to_keep=1).hidden_states[-1]
        return states[0, -1].double().cpu()


def search(
    score: Callable[[Settings], float],
    space: Mapping[str, Sequence[Any]],
    calls: int,
    seed: int = 0,
    allowed: Callable[[Settings], bool] = lambda settings: True,
    progress: Callable[[], None] | None = None,
) -> Found:
    """Look for the settings of highest score: random ones first, then steps of one setting from the best so far.

    A third of the calls are drawn at random. The others try the next lower and higher value of each setting, from the
    best so far, and random ones again where all of these were tried. No settings are scored twice.

    Args:
        score: of settings.
        space: for each setting the values that it may have, in order.
        calls: how often `score` may be called; fewer where there are fewer settings.
        seed: of what is drawn.
        allowed: whether settings go together.
        progress: called after each call.

    Raises:
        ValueError: no calls, or no settings that are allowed.
    """
    names = list(space)
    every = [dict(zip(names, values, strict=True)) for values in itertools.product(*space.values())]
    left = [settings for settings in every if allowed(settings)]
    if calls < 1 or not left:
        raise ValueError(f"{calls} calls for {len(left)} settings: at least one of each is needed")
    random.Random(seed).shuffle(left)
    tried: list[tuple[Settings, float]] = []
    first = max(1, round(calls * _DRAWN))
    while left and len(tried) < calls:
        best = max(tried, key=lambda one: one[1])[0] if len(tried) >= first else None
        near = [one for one in left if best is not None and _step(space, best, one)]
        settings = (near or left)[0]
        left.remove(settings)
        tried.append((settings, score(settings)))
        if progress is not None:
            progress()
    return Found(*max(tried, key=lambda one: one[1]), tuple(tried))


def _step(space: Mapping[str, Sequence[Any]], one: Settings, other: Settings) -> bool:
    """Whether settings differ by one step of one of them."""
    return sum(abs(values.index(one[name]) - values.index(other[name])) for name, values in space.items()) == 1
