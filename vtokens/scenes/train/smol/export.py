"""What ships of a trained run: `python -m vtokens.scenes.train.smol.export --out DIR adapter.safetensors`."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from vtokens.core.writing import append, fresh

from ...smol.folder import digest
from ...smol.package import language_file
from . import saved
from .run import seeing

_PARTS = {"body.updates.": "updates.", "sight.seer.tower.": "tower.", "sight.projector.": "projector."}


def adapter(checkpoint: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint that the model is made of, in bfloat16.

    The updates lose nothing: training computed with them in bfloat16.
    """
    found = {}
    for name, value in saved.tensors(checkpoint).items():
        for before, after in _PARTS.items():
            if name.startswith(before):
                found[after + name.removeprefix(before)] = (
                    value.to(torch.bfloat16) if value.is_floating_point() else value
                )
    return found


def write(checkpoint: Path, path: Path) -> None:
    """Write the adapter of a checkpoint, with the SHA-256 of the language model it fits."""
    data = save(adapter(checkpoint), metadata={"format": "pt", "language_sha256": digest(language_file())})
    with fresh(path) as file:
        append(file, data, path, "what was there is kept")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m vtokens.scenes.train.smol.export", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the folder given to the recipe")
    parser.add_argument("--stage", choices=seeing(), default=seeing()[-1], help="whose checkpoint is taken")
    parser.add_argument("path", type=Path, help="the file to write")
    args = parser.parse_args()
    write(args.out / f"{args.stage}.safetensors", args.path)


if __name__ == "__main__":
    main()
