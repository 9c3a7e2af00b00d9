"""Where a model is: embedded, in a folder or on the hub; and whether the hub can be asked, found out at once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id

from vtokens.core.errors import nearest, shorten, unknown

_SECONDS = 5.0
_SHOWN = 8  # folders named in a message

_LONGEST = 4096  # characters of a path, as Linux has it


def locate(name_or_path: str | Path, **hub: Any) -> str:
    """The folder or hub id that a name stands for.

    What is written as a path is a folder: a `Path`, or text that begins with ".", "/" or "~" or has several separators.
    So is "owner/name" where there is a folder "owner", unless the hub's model of that name is in the cache.

    Args:
        name_or_path: an embedded model, a local folder or a hub id.
        hub: as in `from_pretrained`; `revision` and `cache_dir` are read.

    Raises:
        FileNotFoundError: no such folder; names the nearest.
        NotADirectoryError: a file.
        ValueError: none of the three.
    """
    from vtokens.scenes import embedded_models, embedded_path

    name, path = str(name_or_path), Path(os.path.expanduser(name_or_path))
    if len(name) > _LONGEST:
        raise ValueError(f"{shorten(name)} is no model: names and paths have at most {_LONGEST:,} characters")
    if name in embedded_models():
        return str(embedded_path(name))
    if path.is_dir():
        return str(path)
    if path.exists():
        raise NotADirectoryError(f"{name!r} is a file: give the folder that holds the model's config.json")
    written = name.replace("\\", "/")
    if isinstance(name_or_path, Path) or written.startswith((".", "/", "~")) or written.count("/") > 1:
        raise FileNotFoundError(_no_folder(name, path))
    if "/" not in written:
        raise unknown(
            "model (no embedded model or local folder; hub ids look like 'owner/name'):", name, embedded_models()
        )
    if path.parent.is_dir() and not _cached(name, **hub):
        raise FileNotFoundError(
            f"{_no_folder(name, path)} If the hub's model of that name is meant: `hf download {name}` first, "
            f"or start where no folder is called {path.parent.name!r}"
        )
    return name


def _no_folder(name: str, path: Path) -> str:
    """What is there in place of the folder `path`."""
    path = path.absolute()
    there = next(folder for folder in path.parents if folder.is_dir())
    lacks, folders = path.relative_to(there).parts[0], sorted(p.name for p in there.iterdir() if p.is_dir())
    shown = ", ".join(folders[:_SHOWN]) + (", ..." if len(folders) > _SHOWN else "") or "no folders"
    return f"there is no folder {name!r}: {there} has no {lacks!r}.{nearest(lacks, folders)} It holds {shown}."


def _cached(source: str, **hub: Any) -> bool:
    where = {name: hub[name] for name in ("revision", "cache_dir") if hub.get(name) is not None}
    try:
        return isinstance(huggingface_hub.try_to_load_from_cache(source, "config.json", **where), str)
    except HFValidationError:  # no name that the hub could have
        return False


def check_reachable(source: str, **hub: Any) -> None:
    """Return if `source` is a folder, is in the cache, or the hub answers; one request without retries.

    Args:
        source: a local folder or a hub id.
        hub: as in `from_pretrained`; `revision` and `cache_dir` are read.

    Raises:
        OSError: the hub cannot be reached.
    """
    if Path(source).exists() or hub.get("local_files_only") or constants.HF_HUB_OFFLINE:
        return
    try:
        validate_repo_id(source)
        if _cached(source, **hub):
            return
        huggingface_hub.get_session().head(constants.ENDPOINT, timeout=_SECONDS)
    except (HFValidationError, OfflineModeIsEnabled):
        return  # transformers says what is wrong with the name, or that the hub is switched off
    except Exception as error:  # which HTTP library raises differs between releases of huggingface_hub
        raise OSError(
            f"cannot load the model {source!r}: it is no local folder and not in the cache, and {constants.ENDPOINT} "
            f"cannot be reached ({error}). Check the name and the network, or give the path of a downloaded folder"
        ) from error
