"""A filter as a folder that can be shared: JSON for what is read, safetensors for its numbers, and no pickle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from vtokens.core.errors import shorten
from vtokens.core.reading import MEBIBYTE, read_json, regular
from vtokens.core.writing import fresh, write_json

NAMES = ("filter.json", "filter.safetensors")
_SHORT = 16  # numbers that stay in the JSON
_MOST = 256 * MEBIBYTE
_ROWS, _ARRAY = "$rows", "$array"


def write_folder(folder: str | Path, content: dict[str, Any]) -> Path:
    """Write what a filter's JSON file would hold: long lists of numbers into safetensors, the rest into JSON.

    Raises:
        OSError: the folder cannot be made or written.
    """
    from safetensors.numpy import save

    folder, arrays = Path(folder), dict[str, Any]()
    folder.mkdir(parents=True, exist_ok=True)
    told = _packed(content, "filter", arrays)
    with fresh(folder / NAMES[1]) as file:
        file.write(save(arrays, metadata={"format": "np"}))
    write_json(folder / NAMES[0], told)
    return folder


def read_folder(folder: str | Path) -> dict[str, Any]:
    """What `write_folder` was given, number by number.

    Raises:
        OSError: a file is missing.
        ValueError: files that do not belong together, or are none.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    path = Path(folder) / NAMES[1]
    size = regular(path).st_size
    if size > _MOST:
        raise ValueError(f"{shorten(str(path))} has {size:,} bytes, and {_MOST:,} are read")
    try:
        arrays = load(path.read_bytes())
    except SafetensorError as error:
        raise ValueError(f"{shorten(str(path))} is no safetensors file: {error}") from error
    content = read_json(Path(folder) / NAMES[0])
    found: dict[str, Any] = _unpacked(content, arrays)
    return found


def _packed(value: Any, name: str, arrays: dict[str, Any]) -> Any:
    if isinstance(value, dict):
        return {key: _packed(one, f"{name}.{key}", arrays) for key, one in value.items()}
    if isinstance(value, list | tuple) and value and all(isinstance(one, list | tuple) for one in value):
        flat = [one for row in value for one in row]
        if len(flat) > _SHORT and _numbers(flat):
            arrays[name] = _array(flat)
            arrays[f"{name}.lengths"] = np.array([len(row) for row in value], dtype=np.int64)
            return {_ROWS: name}
    if isinstance(value, list | tuple) and len(value) > _SHORT and _numbers(value):
        arrays[name] = _array(value)
        return {_ARRAY: name}
    return value


def _unpacked(value: Any, arrays: dict[str, Any]) -> Any:
    if isinstance(value, list):
        return [_unpacked(one, arrays) for one in value]
    if not isinstance(value, dict):
        return value
    for mark in (_ROWS, _ARRAY):
        if mark in value:
            wanted = [value[mark]] if mark == _ARRAY else [value[mark], f"{value[mark]}.lengths"]
            missing = [one for one in wanted if not isinstance(one, str) or one not in arrays]
            if len(value) > 1 or missing:
                raise ValueError(f"{NAMES[0]} asks for {shorten(missing)}, which {NAMES[1]} does not hold")
            flat = arrays[wanted[0]].tolist()
            if mark == _ARRAY:
                return flat
            ends = np.cumsum(arrays[wanted[1]]).tolist()
            if not ends or ends[-1] != len(flat) or min(arrays[wanted[1]]) < 0:
                raise ValueError(f"{NAMES[1]}: the rows of {shorten(value[mark])} do not add up")
            return [flat[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    return {key: _unpacked(one, arrays) for key, one in value.items()}


def _numbers(values: Any) -> bool:
    return len({type(one) for one in values}) == 1 and isinstance(values[0], bool | int | float)


def _array(values: Any) -> np.ndarray[Any, Any]:
    kind = {bool: np.bool_, int: np.int64, float: np.float64}[type(values[0])]
    return np.array(values, dtype=kind)
