"""The scenes tasks for lmms-eval: ordinary YAML tasks over documents that are drawn here, without a download.

    lmms-eval eval --include_path "$(python -m vtokens.eval tasks-path)" --tasks scenes_vqa,scenes_pope ...

`scenes_vqa` asks what is where, of which colour and shape, and how many; `scenes_pope` whether something is there, in
POPE's three settings; `scenes_caption` names all objects (CHAIR); `scenes_ocr` reads handwritten digits;
`scenes_needle` shows four pictures and asks for the one object that is in only one of them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path

from vtokens.eval.tasks.documents import TASKS, draw, save
from vtokens.scenes.world import check_split

__all__ = ["TASKS", "build", "tasks_path"]

_HERE = Path(__file__).parent
_FILE = "scenes.json"
#: The modules of `vtokens.scenes` that documents follow from: `sampling`, and all that it imports.
_DRAWING = (
    "additions", "claims", "compare", "glyphs", "kinds", "letters", "lexicon", "lots", "photographs", "questions",
    "relations", "render", "sampling", "sentences", "signs", "stories", "world", "worlds",
)  # fmt: skip


def tasks_path(n: int = 500, seed: int = 0) -> Path:
    """A folder for lmms-eval's `--include_path`, in the cache of the Hugging Face libraries (`HF_HOME`).

    It is built on first use, and anew when the code that draws the documents has changed.

    Args:
        n: documents of each task.
        seed: another seed draws other scenes; none of them was used in training.

    Raises:
        OSError: the cache cannot be written.
        TypeError, ValueError: n < 1 or a negative seed.
    """
    from huggingface_hub import cached_assets_path

    return build(cached_assets_path("vtokens", "scenes-tasks", f"n{n}-seed{seed}-{_source()[:12]}"), n, seed)


def build(folder: str | Path, n: int = 500, seed: int = 0, split: str = "test") -> Path:
    """Write the tasks with their documents to a folder of their own.

    Args:
        folder: new or empty; left as it is where it holds these very tasks.
        n, seed: as in `tasks_path`.
        split: one of `vtokens.scenes.SPLITS`.

    Returns:
        The folder's absolute path. The same arguments write the same documents everywhere.

    Raises:
        OSError: the folder cannot be written.
        TypeError, ValueError: an argument out of range, or a folder that holds something else.
    """
    check_split(split)
    for name, value, least in (("n", n, 1), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name}={value!r} is not allowed: an int of at least {least}")
    folder = Path(folder).absolute()
    wanted = {"folder": str(folder), "n": n, "seed": seed, "split": split, "source": _source()}
    if _held(folder) == wanted:
        return folder
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} holds other tasks or other files: give a new or empty folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Several processes may build at once: each writes a folder of its own, and the first to finish is kept.
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        for task in TASKS:
            save(draw(task, n, seed, split), scratch / "documents" / task)
            (scratch / f"{task}.yaml").write_text(_yaml(task, folder / "documents" / task), encoding="utf-8")
        (scratch / "scenes_pope.yaml").write_text(_yaml("scenes_pope"), encoding="utf-8")
        (scratch / _FILE).write_text(json.dumps(wanted) + "\n", encoding="utf-8")
        scratch.chmod(0o755)
        try:
            os.replace(scratch, folder)
        except OSError:
            if _held(folder) != wanted:
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def _yaml(task: str, documents: Path | None = None) -> str:
    """The configuration shipped beside this file, and where the documents are; JSON strings are YAML."""
    lines = [f"include: {json.dumps(str(_HERE / f'{task}.yaml'))}"]
    if documents is not None:
        lines.append(f"dataset_path: {json.dumps(str(documents))}")
    return "\n".join([*lines, ""])


def _held(folder: Path) -> object:
    try:
        return json.loads((folder / _FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _source() -> str:
    """SHA-256 of the code that documents are drawn with, and of where the configurations are that the tasks include."""
    import vtokens.scenes

    scenes = Path(vtokens.scenes.__file__).parent
    digest = hashlib.sha256(str(_HERE).encode())
    for name in _DRAWING:
        digest.update((scenes / f"{name}.py").read_bytes())
    digest.update((_HERE / "documents.py").read_bytes())
    return digest.hexdigest()
