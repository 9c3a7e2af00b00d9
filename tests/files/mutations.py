"""Files that are broken in one place, or made to break a reader: each number gives the same one everywhere."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from typing import Any

_RAW = {"@1e999": "1e999", "@-1e999": "-1e999", "@digits": "9" * 5000, "@deep": "[" * 3000 + "]" * 3000}
_VALUES: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, -1e308, 1e308, 5e-324, 2**31, -(2**63), 2**63, 2**64, 10**300, 0.5, -0.5, 1.0000001,
    float("nan"), float("inf"), float("-inf"), "", "1", "nan", "x" * 5000, "\ud800", "a\x1b[31m\n\r", [], {}, [[]],
    [None], {"": 1}, [1, "a"], [float("nan")], {"schema": 1}, [[[[[0]]]]], *_RAW,
)  # fmt: skip
Path = tuple[Any, ...]


def mutated(data: bytes, number: int) -> tuple[bytes, Path]:
    """The content of a file, broken in one place, and which: the names and numbers that lead there, () for bytes."""
    rng = random.Random(number)
    if rng.random() < 0.3:
        return rng.choice(_BYTES)(data, rng), ()
    lines = data.decode().splitlines() if data.count(b"}\n{") else [data.decode()]
    at = rng.randrange(len(lines))
    content = json.loads(lines[at])
    path = rng.choice(list(_paths(content)))
    changed, path = _change(content, path, rng)
    text = json.dumps(changed)
    for mark, raw in _RAW.items():
        text = text.replace(json.dumps(mark), raw)
    if rng.random() < 0.05 and text.startswith('{"'):  # a name that is there twice
        name = next(iter(json.loads(lines[at])))
        text, path = f"{{{json.dumps(name)}: null, {text[1:]}", (name,)
    lines[at] = text
    return ("\n".join(lines) + "\n").encode("utf-8", "surrogatepass"), path


def _paths(content: Any, path: Path = ()) -> list[Path]:
    found = [path]
    parts = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, part in parts:
        found += _paths(part, (*path, key))
    return found


def _change(content: Any, path: Path, rng: random.Random) -> tuple[Any, Path]:
    if not path:
        return rng.choice(_VALUES), path
    content = copy.deepcopy(content)
    inside = content
    for key in path[:-1]:
        inside = inside[key]
    last = path[-1]
    how = rng.random()
    if how < 0.6:
        inside[last] = rng.choice(_VALUES)
    elif how < 0.75:
        del inside[last]
    elif isinstance(inside, list):
        inside.insert(last, copy.deepcopy(inside[rng.randrange(len(inside))]))
    elif how < 0.9:
        name = rng.choice(["new", "", "_", last + "s", last.upper()])
        inside[name], path = inside.pop(last), (*path, name)
    else:
        name = rng.choice(["new", "schema ", "__class__", "x" * 3000])
        inside[name], path = rng.choice(_VALUES), (*path[:-1], name)
    return content, path


def _flip(data: bytes, rng: random.Random) -> bytes:
    found = bytearray(data)
    for _ in range(rng.choice([1, 1, 3, 20])):
        found[rng.randrange(len(found))] ^= 1 << rng.randrange(8)
    return bytes(found)


def _cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def _drop(data: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(data))
    return data[:start] + data[start + rng.randrange(1, 50) :]


def _twice(data: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(data))
    return data[:start] + data[start : start + rng.randrange(1, 200)] + data[start:]


def _noise(data: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(data))
    return data[:start] + rng.choice([rng.randbytes(8), b"\x00", b"\xff\xfe", b"\n", b"[" * 5000]) + data[start:]


_BYTES: tuple[Callable[[bytes, random.Random], bytes], ...] = (_flip, _cut, _drop, _twice, _noise)
