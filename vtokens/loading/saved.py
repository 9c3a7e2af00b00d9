"""A strategy kept beside the model it was tuned for, as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from huggingface_hub.errors import HFValidationError
from transformers.utils import cached_file

from vtokens.core.errors import shorten
from vtokens.core.reading import MEBIBYTE, read_json
from vtokens.core.writing import write_json
from vtokens.loading.hub import locate
from vtokens.strategies import Spec, Strategy, parse, to_dict

if TYPE_CHECKING:
    from vtokens.loading.options import HubOptions

FILE = "vtokens.json"
_VERSION = 1


def save_pretrained(strategy: Spec, folder: str | Path) -> Path:
    """Write a strategy to `folder/vtokens.json`, where `vtokens.load(folder)` finds it.

    Returns:
        The file written.

    Raises:
        TypeError, ValueError: what names no strategy; nothing is written.
    """
    content = {"version": _VERSION, "strategies": [to_dict(s) for s in parse(strategy)]}
    path = Path(folder) / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, content)
    return path


def from_pretrained(name_or_path: str | Path, **hub: Unpack[HubOptions]) -> tuple[Strategy, ...]:
    """The strategies saved beside a model, in a folder or on the hub.

    Raises:
        FileNotFoundError: there are none.
        ValueError: the file is not ours, of a later version, or names something unknown.
    """
    found = read(locate(name_or_path, **hub), **hub)
    if found is None:
        raise FileNotFoundError(
            f"{name_or_path} holds no {FILE}: save one with vtokens.save_pretrained(strategy, folder)"
        )
    return parse(found)


def read(source: str, **hub: Any) -> list[dict[str, Any]] | None:
    """The content of `vtokens.json` as a spec, or None where there is no such file."""
    quiet = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    try:
        path = cached_file(source, FILE, **quiet, **hub)
    except OSError as error:
        if not isinstance(error.__cause__, HFValidationError):  # neither a folder nor anything like a hub id
            raise
        return None
    if path is None:
        return None
    try:
        content = read_json(path, MEBIBYTE)
        version, strategies = _fields(content)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is not a strategy saved by vtokens: {error}") from error
    if version != _VERSION or isinstance(version, bool):
        raise ValueError(f"{path} has version {shorten(version)}; this vtokens reads version {_VERSION}")
    for number, strategy in enumerate(strategies):
        try:
            parse(strategy)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: strategies[{number}]: {error}") from error
    return strategies


def _fields(content: Any) -> tuple[Any, list[dict[str, Any]]]:
    """Version and strategies; what these hold is checked by their classes, so that the core needs no schemas."""
    if not isinstance(content, dict) or set(content) != {"version", "strategies"}:
        found = shorten(sorted(content)) if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"an object of 'version' and 'strategies' is needed, got {found}")
    strategies = content["strategies"]
    if not isinstance(strategies, list) or not all(isinstance(s, dict) for s in strategies):
        raise ValueError("'strategies' is no list of objects")
    return content["version"], strategies
