"""Export of a trained chain as a Hugging Face folder: `python -m vtokens.scenes.train.qwen.export`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ...qwen.model import save
from ..smol import saved
from .course import COURSE
from .pupil import Pupil

SEEING = [stage.name for stage in COURSE if stage.name not in ("look", "symbols")]
"""The stages that leave a whole model."""


def export(chain: Path, folder: Path, stage: str = SEEING[-1]) -> None:
    """Write the weights that `stage` left in `chain` as model, tokenizer and processor into `folder`."""
    pupil = Pupil(0)
    saved.load(chain / f"{stage}.safetensors", pupil)
    save(pupil.qwen, folder)
    # Readable for everybody: the folder travels inside the package.
    for file in folder.iterdir():
        file.chmod(0o644)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m vtokens.scenes.train.qwen.export", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the folder given to vtokens.scenes.train qwen")
    parser.add_argument("--folder", type=Path, required=True, help="where the model is written")
    parser.add_argument("--stage", choices=SEEING, default=SEEING[-1], help="the stage whose weights are exported")
    args = parser.parse_args(arguments)
    export(args.out, args.folder, args.stage)


if __name__ == "__main__":
    main()
