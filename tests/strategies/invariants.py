"""What should hold of a pruner whatever it is made of, as functions that a strategy's own test calls.

A `Shown` is what a strategy sees of one picture, written by hand; `picks` lets a strategy choose among the tokens of
several, as rows of a batch that is padded, and says which stay. `keeps_all` runs genuine models.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

import vtokens
from tests.strategies.helpers import pair, three_rows
from vtokens.core.layout import Layout
from vtokens.core.picture import Picture
from vtokens.strategies import Facts, Strategy, Visuals, parse

FACTS = Facts("llava", depth=4, tower_depth=4, has_cls=True)


@dataclass(frozen=True)
class Shown:
    """One picture and the text behind it.

    Attributes:
        tokens: (M, D), any dtype.
        saliency: (M,), the same for all tower blocks; or block -> (M,); or (block, rows) -> (M,).
        relevance: (M,).
        keys: (M, H, C) of the tower, the same for all blocks; or block -> (M, H, C).
        text: (T, D), the states of the text behind the picture.
        grid: (t, h, w) with t * h * w = M; one row if there is none.
        more: other signals: name of `Observed`'s method -> values (M, ...) for any arguments.
    """

    tokens: Tensor
    saliency: Any = None
    relevance: Tensor | None = None
    keys: Any = None
    text: Tensor | None = None
    grid: tuple[int, int, int] | None = None
    more: dict[str, Tensor] = field(default_factory=dict)

    def at(self, index: Any) -> Shown:
        """The same picture with its tokens in the order of `index`."""

        def some(values: Any) -> Any:
            if isinstance(values, dict):
                return {name: some(one) for name, one in values.items()}
            return None if values is None else values[index]

        moved = {name: some(getattr(self, name)) for name in ("tokens", "saliency", "relevance", "keys", "more")}
        return dataclasses.replace(self, **moved)


def drawn(seed: int, tokens: int, width: int = 12, grid: tuple[int, int, int] | None = None) -> Shown:
    """A picture of Gaussian tokens, saliency, relevance and tower keys, and four words of text."""
    made = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=made)

    scores = (2 * normal(tokens)).softmax(0)
    relevance, keys = normal(tokens).tanh() / 2, normal(tokens, 2, 6)
    return Shown(normal(tokens, width), scores, relevance, keys, normal(4, width), grid)


def phi() -> Shown:
    """Six unit vectors at 0, 10, 80, 90, 200 and 210 degrees, their saliency, and a word at 85 degrees."""
    angles = torch.deg2rad(torch.tensor([0.0, 10, 80, 90, 200, 210], dtype=torch.float64))
    word = torch.deg2rad(torch.tensor([85.0], dtype=torch.float64))
    tokens, text = (torch.stack([one.cos(), one.sin()], 1).float() for one in (angles, word))
    return Shown(tokens, torch.tensor([0.30, 0.25, 0.05, 0.20, 0.15, 0.05]), text=text)


@dataclass
class _Given:
    """Signals written by hand, at all positions of the batch."""

    pictures: Sequence[Shown]
    places: list[Tensor]
    words: Tensor
    shape: tuple[int, int]

    def _spread(self, parts: list[Any], key: Any = None) -> Tensor:
        parts = [part[key] if isinstance(part, dict) else part for part in parts]
        if any(part is None for part in parts):
            raise KeyError("no such signal was written for these pictures")
        out = torch.zeros(*self.shape, *parts[0].shape[1:])
        for row, (part, place) in enumerate(zip(parts, self.places, strict=True)):
            out[row, place] = part.float()
        return out

    def saliency(self, blocks: tuple[int, ...] | None, rows: str = "cls", heads: str = "mean") -> Tensor:
        key: Any = blocks[0] if blocks and len(blocks) == 1 else blocks
        given = self.pictures[0].saliency
        if isinstance(given, dict) and (key, rows) in given:
            key = (key, rows)
        return self._spread([one.saliency for one in self.pictures], key)

    def tower_keys(self, block: int | None) -> Tensor:
        return self._spread([one.keys for one in self.pictures], block)

    def relevance(self, text: str) -> Tensor:
        return self._spread([one.relevance for one in self.pictures])

    def text(self, text: str) -> Tensor:
        return self.words

    def copies(self) -> None:
        return None

    def sizes(self) -> None:
        return None

    def noted(self, signal: Any) -> Tensor:
        raise KeyError(signal)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *_: self._spread([one.more.get(name) for one in self.pictures])


def visuals(strategy: Strategy, pictures: Sequence[Shown], filler: float = 0.0, side: str = "left") -> Visuals:
    """The pictures as rows of one batch: a word, the picture, its text; padding in front of or behind shorter ones.

    Args:
        strategy: groups are made as it wants them, and it is prepared.
        filler: what stands in all channels of padding.
        side: where the padding stands.
    """
    width = pictures[0].tokens.shape[1]
    texts = [torch.zeros(1, width) if one.text is None else one.text for one in pictures]
    sizes = [1 + len(one.tokens) + len(text) for one, text in zip(pictures, texts, strict=True)]
    most = max(sizes) + 2 * (filler != 0)  # a batch of one has padding too, where it is to be seen
    hidden = torch.full((len(pictures), most, width), filler, dtype=pictures[0].tokens.dtype)
    valid = torch.zeros(hidden.shape[:2], dtype=torch.bool)
    visual, words, places = valid.clone(), valid.clone(), []
    for row, (one, text, size) in enumerate(zip(pictures, texts, sizes, strict=True)):
        first = most - size if side == "left" else 0
        middle, last = first + 1, first + 1 + len(one.tokens)
        valid[row, first : first + size], visual[row, middle:last] = True, True
        words[row, last : first + size] = True
        hidden[row, first] = 0.5
        hidden[row, middle:last], hidden[row, last : first + size] = one.tokens, text.to(hidden.dtype)
        places.append(torch.arange(middle, last))
    grids = [one.grid or (1, 1, len(one.tokens)) for one in pictures]
    modality = ["video" if grid[0] > 1 else "image" for grid in grids]
    made = {"image": [Picture.of([grid], [False], kind) for grid, kind in zip(grids, modality, strict=True)]}
    layout = Layout.build({"image": visual}, made, valid)
    given: Any = _Given(pictures, places, words, (len(pictures), most))
    return Visuals(hidden, layout, strategy.grouping, given, strategy.prepare(FACTS))


def picks(strategy: Strategy | str, *pictures: Shown, filler: float = 0.0, side: str = "left") -> list[list[int]]:
    """Of each picture, the places of the tokens that stay, after checks of what the strategy says about them."""
    (strategy,) = parse(strategy) if isinstance(strategy, str) else (strategy,)
    seen = visuals(strategy, pictures, filler, side)
    selection = strategy.at_prompt(seen)
    keep = seen.valid if selection is None else selection.keep
    assert keep.dtype == torch.bool
    assert keep.shape == seen.valid.shape
    assert not (keep & ~seen.valid).any(), "padding was kept"
    if selection is not None and selection.counts is not None:
        assert keep.sum(1).tolist() == list(selection.counts), "the counts said are not those of the selection"
    return [row.nonzero()[:, 0].tolist() for row in keep]


def keeping(strategy: Strategy | str, keep: float) -> Strategy:
    """The strategy with another `keep`."""
    (strategy,) = parse(strategy) if isinstance(strategy, str) else (strategy,)
    return dataclasses.replace(strategy, keep=keep)


@torch.no_grad()
def keeps_all(name: str, families: Sequence[str] = ("llava", "qwen2_5_vl"), **settings: Any) -> None:
    """`keep=1.0` is the untouched model bit by bit, and so is a share that is asked for and drops nothing."""
    for family in families:
        model, batch = pair(family)[0], three_rows(family)
        plain = model(**batch).logits
        for keep in (1.0, 0.999):
            with vtokens.attach(model, name, keep=keep, **settings) as handle:
                assert torch.equal(model(**batch).logits, plain)
                assert all(min(s.visual_tokens) == max(s.visual_tokens) for s in handle.report().samples)


def counts_hold(strategy: Strategy | str, picture: Shown) -> None:
    """As many tokens stay as `keep` says, from one to all."""
    for count in range(1, len(picture.tokens) + 1):
        (found,) = picks(keeping(strategy, count), picture)
        assert len(found) == count
        assert found == sorted(set(found))


def moves_with_tokens(strategy: Strategy | str, picture: Shown, seed: int = 0) -> None:
    """Permutation equivariance: in another order the same tokens stay."""
    order = torch.randperm(len(picture.tokens), generator=torch.Generator().manual_seed(seed))
    (plain,), (moved,) = picks(strategy, picture), picks(strategy, picture.at(order))
    assert 0 < len(plain) < len(picture.tokens)
    assert sorted(order[moved].tolist()) == plain


def nested(strategy: Strategy | str, picture: Shown) -> None:
    """What stays of K tokens stays of K + 1."""
    before: set[int] = set()
    for count in range(1, len(picture.tokens) + 1):
        (found,) = picks(keeping(strategy, count), picture)
        assert before < set(found)
        before = set(found)


def ignores_length(strategy: Strategy | str, picture: Shown, seed: int = 0) -> None:
    """Scale invariance: features that are longer or shorter are chosen alike; powers of two keep the rounding."""
    made = torch.Generator().manual_seed(seed)
    factor = 2.0 ** torch.randint(-6, 7, (len(picture.tokens), 1), generator=made)
    scaled = dataclasses.replace(picture, tokens=picture.tokens * factor.to(picture.tokens.dtype))
    assert picks(strategy, scaled) == picks(strategy, picture)


def rows_are_alone(strategy: Strategy | str, *pictures: Shown) -> None:
    """A row of a ragged batch is pruned as it is by itself, and as it is among others."""
    assert len({len(one.tokens) for one in pictures}) > 1
    alone = [picks(strategy, one)[0] for one in pictures]
    assert picks(strategy, *pictures) == alone
    assert picks(strategy, *reversed(pictures)) == alone[::-1]


def ignores_padding(strategy: Strategy | str, *pictures: Shown) -> None:
    """What stands in padding does not matter, nor on which side it stands."""
    plain = picks(strategy, *pictures)
    for filler in (1e4, -3.0):
        for side in ("left", "right"):
            assert picks(strategy, *pictures, filler=filler, side=side) == plain


def spoilt_go_first(strategy: Strategy | str, picture: Shown) -> None:
    """Tokens that are NaN or infinite, saliency and all, change no choice among the others and are kept after them."""
    spoilt = {2: float("nan"), 7: float("inf"), 8: float("nan")}
    tokens, saliency = picture.tokens.clone(), picture.saliency.clone()
    for place, value in spoilt.items():
        tokens[place, 1:3], saliency[place] = value, float("nan")
    sound = [place for place in range(len(tokens)) if place not in spoilt]
    (whole, few) = dataclasses.replace(picture, tokens=tokens, saliency=saliency), picture.at(torch.tensor(sound))
    for count in (1, 4, len(sound)):
        ((found,), (alone,)) = (picks(keeping(strategy, count), one) for one in (whole, few))
        assert found == [sound[place] for place in alone]
    (found,) = picks(keeping(strategy, len(sound) + 2), whole)
    assert found == sorted([*sound, 2, 7])


def coarse_as_fine(strategy: Strategy | str, picture: Shown) -> None:
    """Features in bfloat16 or float16 are chosen as the same numbers in float32; values that collide are drawn anew."""
    for dtype in (torch.bfloat16, torch.float16):
        coarse = dataclasses.replace(
            picture, tokens=picture.tokens.to(dtype), text=None if picture.text is None else picture.text.to(dtype)
        )
        fine = dataclasses.replace(
            coarse, tokens=coarse.tokens.float(), text=None if coarse.text is None else coarse.text.float()
        )
        assert picks(strategy, coarse) == picks(strategy, fine)


def hold(strategy: Strategy | str, *, moves: bool = True, nests: bool = True, length: bool = True) -> None:
    """All of these on drawn pictures; settings switch off what a method does not have.

    Args:
        strategy: keeps some of 14 tokens, as "cls(keep=5)".
        moves, nests, length: whether it is equivariant, nested, and blind to the length of features.
    """
    one, two, three = drawn(1, 23), drawn(2, 14), drawn(3, 37)
    counts_hold(strategy, two)
    rows_are_alone(strategy, one, two, three)
    ignores_padding(strategy, one, two, three)
    coarse_as_fine(strategy, one)
    for seed in range(3):
        if moves:
            moves_with_tokens(strategy, drawn(seed, 23), seed)
        if length:
            ignores_length(strategy, drawn(seed, 23), seed)
    if nests:
        nested(strategy, two)


def numbers(picture: Shown) -> tuple[np.ndarray, np.ndarray]:
    """Unit tokens (M, D) and saliency (M,) in float64, for oracles written with loops."""
    tokens = picture.tokens.double().numpy()
    return tokens / np.linalg.norm(tokens, axis=1, keepdims=True), np.asarray(picture.saliency, dtype=np.float64)
