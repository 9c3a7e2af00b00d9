"""Files of tensors with a few words about them, as what is found in heads is kept."""

from __future__ import annotations

from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from vtokens.core.errors import shorten
from vtokens.core.reading import regular


def read_tensors(
    path: str | Path, names: tuple[str, ...], words: tuple[str, ...], what: str
) -> tuple[list[Tensor], list[str]]:
    """Tensors and words of a safetensors file, in the order asked for.

    Args:
        path: the file.
        names: of the tensors.
        words: of the entries of its metadata.
        what: what the file should hold, as the message calls it: "task vector".

    Raises:
        OSError: there is no such file.
        ValueError: it is something else.
    """
    regular(path)
    try:
        with safe_open(path, "pt") as file:
            facts = file.metadata() or {}
            return [file.get_tensor(name) for name in names], [facts[word] for word in words]
    except Exception as error:
        raise ValueError(f"{shorten(str(path))} holds no {what}: {error}") from None
