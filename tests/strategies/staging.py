"""What the tests of strategies inside the decoder share: a masked eager copy that shows what each stage could see."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

import vtokens
from tests.engine.masked import dropped_keys, masking
from tests.strategies.helpers import pair
from tests.strategies.test_fastv import batch_of, visual_positions
from vtokens.core.layout import Layout
from vtokens.core.picture import Picture
from vtokens.strategies import Visuals

FAMILIES = ("llava", "llava_next", "qwen2_5_vl")


@dataclass(frozen=True)
class Seen:
    """One picture on its way through the decoder.

    Attributes:
        row: of the batch.
        places: the fed positions of its visual tokens.
        left: for each decoder layer, the places that it sees.
    """

    row: int
    places: list[int]
    left: list[list[int]]


@dataclass(frozen=True)
class Run:
    """A pruned pass, and the same pass of an untouched eager copy in which what was dropped is masked.

    Attributes:
        batch: what was fed.
        attentions: of each layer, float64 (B, H, N, N).
        states: of each layer, (B, N, D), those that enter it.
        pictures: in order.
        last: of each row, the position at which its prompt ends.
        model: the eager copy.
    """

    batch: dict[str, Any]
    attentions: tuple[Tensor, ...]
    states: tuple[Tensor, ...]
    pictures: list[Seen]
    last: list[int]
    model: Any


@torch.no_grad()
def run(family: str, spec: Any, side: str = "left") -> Run:
    """A batch of one, two and no pictures under strategies that keep tokens as they are."""
    batch = batch_of(family, side)
    model, eager = pair(family)[0], pair(family, attn_implementation="eager")[0]
    with vtokens.attach(model, spec) as handle:
        model(**batch)
        report = handle.report()
    with masking(eager, dropped_keys(report, batch["attention_mask"])):
        out = eager(**batch, output_attentions=True, output_hidden_states=True)
    pictures = []
    for row, (sample, own) in enumerate(zip(report.samples, visual_positions(family, batch), strict=True)):
        seen = [{*map(int, layer)} for layer in sample.positions]
        pictures += [Seen(row, places, [[p for p in places if p in layer] for layer in seen]) for places in own]
    last = [int(row.nonzero().max()) for row in batch["attention_mask"]]
    attentions = tuple(layer.double() for layer in out.attentions)
    return Run(batch, attentions, out.hidden_states, pictures, last, eager)


def shown(signals: dict[Any, Tensor], states: Tensor, start: int, end: int, prepared: Any = None) -> Visuals:
    """What a strategy sees of one picture, with signals written by hand.

    Args:
        signals: signal -> values (W, ...) for all positions.
        states: (W, D), of which those from `start` to `end` are the picture's, and the others text.
        prepared: what the strategy prepared.
    """
    visual = torch.zeros(1, len(states), dtype=torch.bool)
    visual[0, start:end] = True
    picture = Picture.of([(1, 1, end - start)], [False])
    layout = Layout.build({"image": visual}, {"image": [picture]}, torch.ones_like(visual))
    given = SimpleNamespace(
        noted=lambda signal: signals[signal][None], knows=lambda signal: signal in signals, notes=lambda _: notes,
    )  # fmt: skip
    notes: dict[int, Any] = {}
    return Visuals(states[None], layout, "image", given, prepared)  # type: ignore[arg-type]


def best(scores: Any, places: list[int], count: int) -> list[int]:
    """The `count` places of the highest scores, which are given for each of `places`; ascending."""
    order = sorted(range(len(places)), key=lambda one: -float(scores[one]))
    return sorted(places[one] for one in order[:count])
