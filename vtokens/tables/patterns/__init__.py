"""Which pattern each attention head of a decoder runs over long prompts, decoder by decoder."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from vtokens.core.errors import shorten, unknown
from vtokens.core.writing import write_text
from vtokens.tables import base
from vtokens.tables.patterns.a_shape import AShape
from vtokens.tables.patterns.grid import Grid
from vtokens.tables.patterns.index import INTER, Run
from vtokens.tables.patterns.lines import Pattern
from vtokens.tables.patterns.vertical_slash import VerticalSlash

SCHEMA = 1
DENSE = "dense"
INTRA: dict[str, type[Pattern]] = {cls.intra: cls for cls in (AShape, VerticalSlash, Grid)}
BLOCKS = (16, 32, 64, 128)
_HOW = "`vtokens search-patterns MODEL --out FILE`"


@dataclass(frozen=True)
class Head:
    """What one head runs, and what the search found of it, as means over its samples.

    Attributes:
        run: the pattern.
        density: visited tiles as a share of the causal ones.
        score: distance of the head's output from that of dense attention, over the latter's norm.
        recall: attention of dense rows that falls into visited tiles.
    """

    run: Run
    density: float
    score: float
    recall: float


@dataclass(frozen=True)
class Patterns:
    """The heads of one decoder.

    Attributes:
        decoder: the decoder they were searched on, as in `Facts.decoder`.
        block: rows and keys of a tile.
        ratio: seconds of a visited tile, selection included, over those of a tile of dense attention.
        source: the samples, and the device that `ratio` was measured on.
        heads: of each layer.
    """

    decoder: str
    block: tuple[int, int]
    ratio: float
    source: str
    heads: tuple[tuple[Head, ...], ...]

    def save(self, path: str | Path) -> None:
        """Write a file that `read` reads; patterns and their parameters are kept, never indices."""
        lines = ",\n".join(
            "  [\n" + ",\n".join(f"   {json.dumps(_entry(head))}" for head in layer) + "\n  ]" for layer in self.heads
        )
        about = {
            "schema": SCHEMA,
            "decoder": self.decoder,
            "layers": len(self.heads),
            "heads": len(self.heads[0]),
            "block": self.block,
            "ratio": self.ratio,
            "source": self.source,
        }
        head = json.dumps(about, indent=1).removesuffix("\n}")
        write_text(path, f'{head},\n "patterns": [\n{lines}\n ]\n}}\n')


def read(path: str | Path) -> Patterns:
    """Patterns from a JSON file.

    Raises:
        ImportError: pydantic is missing.
        ValueError: no such file, or not what the search writes.
    """
    return base.read(path, "patterns", SCHEMA, _parse, "patterns", _HOW, (OSError, ValueError, TypeError))


def known(decoder: str) -> Patterns | None:
    """The shipped patterns of a decoder."""
    return _table().get(decoder)


@cache
def _table() -> dict[str, Patterns]:
    return {patterns.decoder: patterns for patterns in base.shipped(__name__, _parse)}


def _entry(head: Head) -> dict[str, Any]:
    intra = head.run.intra
    return {
        "inter": head.run.inter,
        "intra": DENSE if intra is None else intra.intra,
        "params": {} if intra is None else asdict(intra),
        "density": head.density,
        "score": head.score,
        "recall": head.recall,
    }


def _parse(data: Any) -> Patterns:
    block = tuple(data["block"])
    if any(size not in BLOCKS for size in block):
        raise ValueError(f"block={list(block)}: two of {BLOCKS} are allowed")
    heads = tuple(tuple(_head(entry) for entry in layer) for layer in data["patterns"])
    if len(heads) != data["layers"] or any(len(layer) != data["heads"] for layer in heads):
        raise ValueError(f"patterns are not those of {data['layers']} layers with {data['heads']} heads each")
    return Patterns(data["decoder"], block, float(data["ratio"]), data["source"], heads)


def _head(entry: dict[str, Any]) -> Head:
    numbers = (float(entry[name]) for name in ("density", "score", "recall"))
    return Head(run_of(entry["inter"], entry["intra"], entry["params"]), *numbers)


def run_of(inter: str, intra: str, params: dict[str, Any]) -> Run:
    """A head's pattern from its names and parameters.

    Raises:
        TypeError, ValueError: an unknown name, or a parameter of another kind.
    """
    if inter not in INTER:
        raise unknown("inter-modality pattern", inter, INTER)
    if intra == DENSE:
        return Run(inter)
    if intra not in INTRA:
        raise unknown("intra-modality pattern", intra, [*INTRA, DENSE])
    cls = INTRA[intra]
    defaults: dict[str, Any] = {field.name: field.default for field in fields(cls)}
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in params.items()}
    for name, value in given.items():
        if name not in defaults:
            raise unknown(f"parameter of {intra!r}:", name, defaults)
        kind = type(defaults[name])
        if type(value) is not kind or (kind is tuple and not all(type(part) is int for part in value)):
            raise TypeError(f"{name}={shorten(value)} of {intra!r}: {kind.__name__} is allowed")
    return Run(inter, cls(**given))
