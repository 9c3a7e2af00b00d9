"""What a strategy makes of tokens, for those that add tokens to others."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

import vtokens
from tests.engine.cases import model
from tests.families import image, inputs
from tests.limits import close_pass
from tests.strategies.invariants import Shown, visuals
from vtokens.engine.state.blend import Blend
from vtokens.strategies import Selection, Strategy, Visuals, parse


def made(strategy: Strategy | str, *pictures: Shown) -> list[tuple[list[int], np.ndarray]]:
    """Of each picture, the places of the tokens that stay, and what they are then (K, D) in float64."""
    (strategy,) = parse(strategy) if isinstance(strategy, str) else (strategy,)
    seen = visuals(strategy, pictures)
    selection = strategy.at_prompt(seen)
    assert selection is not None
    groups = seen.layout.groups(strategy.grouping)
    blend = Blend.of(selection, groups, seen.layout.visual.shape, None)
    found = []
    for group, keep in enumerate(selection.keep):
        places = keep.nonzero()[:, 0].tolist()
        tokens = seen.tokens[group, places] if blend is None else blend.tokens(seen.hidden)[group, : len(places)]
        found.append((places, tokens.double().numpy()))
    return found


def merged(strategy: Strategy, seen: Visuals) -> tuple[Selection, list[Tensor]]:
    """What a strategy that merges selects, and the tokens (K, D) that it makes of each group."""
    selection = strategy.at_prompt(seen)
    assert selection is not None
    blend = Blend.of(selection, seen._groups, seen.layout.visual.shape, None)
    assert blend is not None
    assert selection.counts is not None
    tokens = blend.tokens(seen.hidden)
    return selection, [part[:count] for part, count in zip(tokens, selection.counts, strict=True)]


@torch.no_grad()
def rows_answer_as_alone(spec: str, family: str) -> None:
    """A ragged batch with several pictures gives the logits that each of its rows gives by itself."""
    target = model(family, "pruned")
    prompts = ["Is there a cat?", "Compare <image> with <image> please"]
    groups = [[image(100, 60, seed=0)], [image(84, 112, seed=1), image(60, 60, seed=2)]]
    options: dict[str, Any] = {
        "do_sample": False, "max_new_tokens": 2, "output_logits": True, "return_dict_in_generate": True,
    }  # fmt: skip
    with vtokens.attach(target, spec) as handle:
        together = target.generate(**inputs(family, prompts, groups), **options)
        assert all(sample.visual_tokens[-1] < sum(p.picture.tokens for p in sample.pictures)
                   for sample in handle.report().samples)  # fmt: skip
        for row in range(2):
            alone = target.generate(**inputs(family, prompts[row : row + 1], groups[row : row + 1]), **options)
            for mine, theirs in zip(together.logits, alone.logits, strict=True):
                close_pass(mine[row], theirs[0])


def tensor(values: np.ndarray) -> Tensor:
    """float32, as strategies get them."""
    return torch.from_numpy(np.asarray(values)).float()
