"""DyFo: a tree of cuttings, searched where answers are sure, and a vote of all that were asked."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from vtokens.core.facts import Facts
from vtokens.recipes.looking.asking import Asking, Box, Said
from vtokens.recipes.looking.attended import GENERAL, layer_of, looks, relative
from vtokens.recipes.looking.base import Looked, Recipe, function
from vtokens.recipes.looking.frame import framed, rounded
from vtokens.recipes.looking.registry import recipe
from vtokens.recipes.looking.sdrpn import in_pixels
from vtokens.recipes.region import window_sums
from vtokens.strategies import Strategy
from vtokens.strategies.checks import check_share

_LEAST = 28
"""Pixels of a cutting's shorter side below which it is cut no further: fewer than a patch of any tower's grid of 2."""


@recipe(
    "dyfo",
    paper="DyFo, arXiv:2504.14920",
    venue="CVPR 2025",
    evidence="stand-in",
    shown="tests/recipes/test_dyfo.py::test_a_tree_worked_by_hand",
)
@dataclass(frozen=True)
class DyFo(Recipe):
    """Searches a tree of cuttings by how sure answers to them are, and takes the answer that gets most votes.

    The root is the picture. A cutting's children are the `width` windows of half its sides that relative attention in
    it marks (focus), and it grown to half as much again (scatter). Each rollout goes down by UCT, asks about one
    new cutting beside the picture, and is rewarded by the mean probability of the answer's tokens. Equal answers add
    up their rewards. At most 1 + 3 * rollouts passes: a look is two, for each cutting that gets children.

    Attributes:
        rollouts: cuttings that are asked about at most.
        width: windows that are marked in a cutting.
        explore: the weight of what was visited less, in UCT.
        zoom: sides of a window, as a share of those of the cutting it is in.
        layer: the decoder layer that marks, 0 to depth - 2; by default as deep as that of `crop`.
        general: the general question of relative attention.
    """

    rollouts: int = 6
    width: int = 2
    explore: float = 0.5
    zoom: float = 0.5
    layer: int | None = None
    general: str = GENERAL

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("zoom", self.zoom)
        for name in ("rollouts", "width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is not allowed: at least 1")

    def watches(self, facts: Facts) -> tuple[Strategy, ...]:
        return looks(facts, (layer_of(facts, self.layer),))

    def answer(self, asking: Asking) -> Looked:
        layer, whole = layer_of(asking.facts, self.layer), rounded(asking.frame())
        answers: dict[Box, Said] = {}

        def judge(box: Box) -> tuple[str, float]:
            shown = (asking.image,) if box == whole else (asking.image, asking.image.crop(box))
            answers[box] = asking.ask(images=shown, likely=True)
            return answers[box].text, answers[box].likely

        def propose(box: Box) -> list[Box]:
            if min(box[2] - box[0], box[3] - box[1]) < _LEAST:
                return []
            part = asking.image.crop(box)
            [attention] = relative(asking, (layer,), self.general, part)
            left, top, right, bottom = framed(asking.processor, part)
            frame = (box[0] + left, box[1] + top, box[0] + right, box[1] + bottom)
            marked = [in_pixels(one, attention.shape, frame) for one in marks(attention, self.zoom, self.width)]
            return marked if box == whole else [*marked, grown(box, whole)]

        visited = search(whole, propose, judge, self.rollouts, self.explore)
        best = vote(visited)
        boxes = () if best.box == whole else (best.box,)
        votes = [(one.box, one.text, one.reward) for one in visited]
        return self.looked(asking, answers[best.box], boxes, votes=votes, layer=layer)


@dataclass
class Node:
    """A cutting that was asked about: the answer, how sure it is, and what rollouts through it brought."""

    box: Box
    text: str
    reward: float
    total: float = 0.0
    visits: int = 0
    children: list[Node] = field(default_factory=list)
    waiting: list[Box] | None = None

    def worth(self, child: Node, explore: float) -> float:
        """UCT: what a child brought on average, and more the less it was visited."""
        return child.total / child.visits + explore * math.sqrt(math.log(self.visits) / child.visits)


def search(
    whole: Box, propose: Callable[[Box], Sequence[Box]], judge: Callable[[Box], tuple[str, float]], rollouts: int,
    explore: float,
) -> list[Node]:  # fmt: skip
    """All nodes in the order in which they were asked about.

    A rollout goes to the best child until a node has a proposal left, asks about that, and rewards the way there. Where
    the way ends without any, the last node's own reward counts once more. A cutting that several nodes propose belongs
    to the first: asked about twice, its answer would have two votes.
    """
    root = Node(whole, *judge(whole))
    root.total, root.visits = root.reward, 1
    visited, known = [root], {whole}
    for _ in range(rollouts):
        way = [root]
        while True:
            node = way[-1]
            if node.waiting is None:
                node.waiting = [box for box in dict.fromkeys(propose(node.box)) if box not in known]
                known.update(node.waiting)
            if node.waiting:
                box = node.waiting.pop(0)
                child = Node(box, *judge(box))
                node.children.append(child)
                visited.append(child)
                way.append(child)
                break
            if not node.children:
                break
            way.append(max(node.children, key=lambda one: node.worth(one, explore)))
        for one in way:
            one.total, one.visits = one.total + way[-1].reward, one.visits + 1
    return visited


def vote(visited: Sequence[Node]) -> Node:
    """The surest node of the answer whose rewards add up to most; of equal ones the first. Case does not count."""
    sums: dict[str, float] = {}
    for one in visited:
        sums[one.text.casefold()] = sums.get(one.text.casefold(), 0.0) + one.reward
    winner = max(sums, key=lambda text: sums[text])
    return max((one for one in visited if one.text.casefold() == winner), key=lambda one: one.reward)


def marks(attention: np.ndarray, zoom: float, count: int) -> list[tuple[int, int, int, int]]:
    """Windows of `zoom` of the sides with most attention: (left, top, right, bottom) cells, the best first.

    What a window holds counts no more for those after it. No fewer are given only because they overlap.
    """
    rows, columns = attention.shape
    down, across = max(1, round(rows * zoom)), max(1, round(columns * zoom))
    left_over, found = attention.astype(float).copy(), []
    for _ in range(count):
        inside = window_sums(left_over, down, across)
        y, x = (int(one) for one in np.unravel_index(inside.argmax(), inside.shape))
        found.append((x, y, x + across, y + down))
        left_over[y : y + down, x : x + across] = 0.0
    return found


def grown(box: Box, whole: Box, by: float = 1.5) -> Box:
    """The box with sides `by` times as long around the same middle, as far as the picture goes."""
    wide, high = (box[2] - box[0]) * (by - 1) / 2, (box[3] - box[1]) * (by - 1) / 2
    return (
        max(whole[0], round(box[0] - wide)), max(whole[1], round(box[1] - high)),
        min(whole[2], round(box[2] + wide)), min(whole[3], round(box[3] + high)),
    )  # fmt: skip


dyfo = function(DyFo)
