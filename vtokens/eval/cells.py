"""The cells of a sweep: strategies x keeps x seeds."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from vtokens.core.budget import Keep, check_keep
from vtokens.core.errors import shorten
from vtokens.eval.lmms.loading import seeded
from vtokens.recipes import parse_recipe
from vtokens.strategies import format_spec, parse
from vtokens.strategies.grammar import grammar
from vtokens.strategies.spec import open_keeps

_SEEDS = 1000
LARGEST_SEED = 2**32 - 1
"""numpy takes no larger one."""


@dataclass(frozen=True)
class Cell:
    """One strategy with all its settings, under one seed.

    Attributes:
        cell: what the results call it, `fastv@0.25#s0`.
        strategy: the settings in full, as `vtokens.strategies.parse` reads them.
        name: the strategy as it was asked for; cells that differ in `keep` or `seed` only share it.
        keep: the share or count that the sweep set, None where it set none.
        seed: the seed of what the cell draws at random, and of the data where the task can draw it.
        recipe: how questions are asked, as `vtokens.recipes.parse_recipe` reads it; "none" asks once.
    """

    cell: str
    strategy: str
    name: str
    keep: Keep | None
    seed: int
    recipe: str = "none"


def split(text: str) -> list[str]:
    """The strategies of a comma-separated list; commas inside brackets do not separate.

    >>> split("none, fastv(keep=0.5, layer=2)+cls")
    ['none', 'fastv(keep=0.5, layer=2)+cls']

    Raises:
        ValueError: text that is no such list.
    """
    example = "write for example 'none,cls,fastv(layer=3)'"
    try:
        found = grammar(f"[{text}]", "strategies", example)
    except ValueError as error:  # with brackets that nobody wrote
        raise ValueError(str(error).replace(shorten(f"[{text}]"), shorten(text))) from error
    if not isinstance(found, ast.List) or not found.elts:
        raise ValueError(f"cannot read the strategies {shorten(text)}: {example}")
    return [ast.get_source_segment(f"[{text}]", part) or "" for part in found.elts]


def cells(
    strategies: Sequence[str], keeps: Sequence[Keep] = (), seeds: int | Sequence[int] = 1, recipes: Sequence[str] = ()
) -> list[Cell]:  # fmt: skip
    """Every combination, seed by seed, in the order given.

    A strategy that leaves its `keep` open makes a cell for each of `keeps`, or one with its own default where there are
    none; one without a `keep`, or with its `keep` written out, makes a single cell. A strategy that draws (has a field
    `seed`) takes the cell's seed, unless it was given another one.

    Args:
        strategies: such as "none", "fastv", "random(seed=3)" or "todre(keep=0.1)+fastv(keep=0.5)".
        keeps: shares in (0, 1] or counts per picture.
        seeds: how many, from 0, or which.
        recipes: ways to ask, such as "crop", under which every cell is asked; "none" asks once, and is the default.

    Raises:
        TypeError, ValueError: what names no strategy, `keep` or seed; a `keep` that two strategies of one cell would
            take, or that none would; one of them, or a recipe, that is there twice; no cell at all, or
            seeds without end.
    """
    numbers = range(seeds) if isinstance(seeds, int) else seeds
    if len(numbers) > _SEEDS:
        raise ValueError(f"{len(numbers):,} seeds are not allowed: at most {_SEEDS:,}, each asks everything again")
    for seed in numbers:
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= LARGEST_SEED:
            raise ValueError(f"seed {shorten(seed)} is not allowed: an int from 0 to {LARGEST_SEED}")
    checked = [check_keep(keep) for keep in keeps]
    if checked and strategies and not any(open_keeps(text) for text in strategies):
        raise ValueError(
            f"keep={checked[0]!r} has no strategy to take it: of {' and '.join(strategies)} none leaves its keep "
            "open. Leave it out, or name a strategy without its keep, such as 'cls'"
        )
    ways = [_way(text) for text in recipes] or ["none"]
    _check_once("strategy", [shorten(" ".join(text.split())) for text in strategies])
    _check_once("keep", [repr(keep) for keep in checked])  # 1 is a count, and 1.0 a share
    _check_once("seed", [repr(seed) for seed in numbers])
    _check_once("recipe", [shorten(way) for way in ways])
    found = [
        _asked(cell, way)
        for seed in numbers
        for text in strategies
        for cell in _of(text, checked, seed)
        for way in ways
    ]
    if not found:
        raise ValueError(
            f"no cells: {len(strategies)} strategies and {len(numbers)} seeds; at least one of each is needed"
        )
    return found


def _check_once(kind: str, given: Sequence[str]) -> None:
    twice = [one for one, count in Counter(given).items() if count > 1]
    if twice:
        raise ValueError(f"the {kind} {twice[0]} is asked for twice: each {kind} is allowed once")


def _way(text: str) -> str:
    """A recipe with its settings in full, "none" for none."""
    return "none" if text.strip() == "none" else str(parse_recipe(text, ["none"]))


def _asked(cell: Cell, way: str) -> Cell:
    """The cell asked by a recipe, which stands behind the strategy in its name."""
    if way == "none":
        return cell
    name = way if cell.name == "none" else f"{cell.name}+{way}"
    return replace(cell, cell=name + cell.cell.removeprefix(cell.name), name=name, recipe=way)


def _of(text: str, keeps: Sequence[Keep], seed: int) -> list[Cell]:
    plain, name = parse(text), " ".join(text.split())
    if not open_keeps(text):
        return [Cell(f"{name}#s{seed}", format_spec(seeded(plain, seed)), name, None, seed)]
    if not keeps:
        own = [strategy.keep for strategy in plain if strategy.name in open_keeps(text)]  # type: ignore[attr-defined]
        if len(own) > 1:  # the cell is called by none of them
            return [Cell(f"{name}#s{seed}", format_spec(seeded(plain, seed)), name, None, seed)]
        keeps = own
    return [
        Cell(f"{name}@{keep!r}#s{seed}", format_spec(seeded(parse(text, keep), seed)), name, keep, seed)
        for keep in keeps
    ]
