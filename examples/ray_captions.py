"""Captions of many pictures through Ray Data: pictures are opened on any CPU, each worker loads the model once.

python -m examples.ray_captions
python -m examples.ray_captions FOLDER --strategy "cls(keep=0.25)" --workers 2
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import ray

from vtokens import scenes
from vtokens.integrations.ray_data import answer

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp"}


def captions(folder: Path, strategy: str, prompt: str, workers: int = 1, **options: Any) -> list[dict[str, Any]]:
    """A row for each picture of a folder: "image", "answer", "image_tokens", "kept", and "refused" where it fails."""
    pictures = sorted(path.name for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    rows = ray.data.from_items([{"name": name, "image": name, "prompt": prompt} for name in pictures])
    found = answer(rows, strategy=strategy, folder=folder, workers=workers, **options).take_all()
    return sorted(found, key=lambda row: row["name"])


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("folder", nargs="?", type=Path, help="pictures; drawn scenes if not given")
    options.add_argument(
        "--model", default="scenes-llava", help="an embedded model, a folder or a hub id (%(default)s)"
    )
    options.add_argument("--strategy", default="todre(keep=0.1)", help="strategies (%(default)s)")
    options.add_argument("--prompt", default="Describe the image.", help="what is asked (%(default)s)")
    options.add_argument("--workers", type=int, default=1, help="models at work (%(default)s)")
    chosen = options.parse_args()
    ray.init(include_dashboard=False, logging_level="error")
    with tempfile.TemporaryDirectory() as drawn:
        if chosen.folder is None:
            for number, example in enumerate(scenes.examples("test", n=12, kinds=["caption"])):
                example.image.save(Path(drawn) / f"scene-{number:02}.png")
        folder = (chosen.folder or Path(drawn)).absolute()
        for row in captions(folder, chosen.strategy, chosen.prompt, chosen.workers, model=chosen.model):
            print(
                f"{row['name']}: {row['refused'] or row['answer']} ({row['kept']:.0f} of {row['image_tokens']} tokens)"
            )
    ray.shutdown()


if __name__ == "__main__":
    main()
