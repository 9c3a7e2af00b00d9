"""`vtokens heads relevance`: where in a picture a word is, by the vision tower's patches."""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtokens.cli.loaded import plain_model
from vtokens.cli.options import above_zero, add_placement, check_file, check_picture, whole
from vtokens.cli.output import say
from vtokens.loading.hardware import check_device

if TYPE_CHECKING:
    from vtokens.calibrate.relevance import RelevanceMap


def add_to(parts: Any) -> None:
    """Add the command to those of `vtokens heads`."""
    command = parts.add_parser(
        "relevance",
        help="show where in a picture a word is",
        description="Show where in a picture words are (GEM): patches of the vision tower, by self-self attention in "
        "its last blocks, are held against a text. With --text-model that is done in the space of CLIP's words; "
        "without it, by a stand-in: projected patches against the embeddings of the words in the decoder.",
        epilog="examples:\n  vtokens heads relevance llava-hf/llava-1.5-7b-hf street.jpg dog 'red car' --out where.png"
        " --text-model openai/clip-vit-large-patch14-336\n"
        "  vtokens heads relevance scenes-llava scene.png triangle --out where.json\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("model", help="an embedded model, a folder or a hub id")
    command.add_argument("picture", help="a picture")
    command.add_argument("texts", nargs="+", help="words or phrases; a map is made of each")
    command.add_argument("--out", metavar="FILE", help="a picture of the maps to write, or their numbers (.json)")
    command.add_argument("--text-model", metavar="CLIP", help="the CLIP whose vision tower the model has")
    command.add_argument("--template", metavar="TEXT", help="what CLIP reads, {} for the text (a photo of a {}.)")
    command.add_argument("--depth", type=whole(0), metavar="N", help="last blocks with self-self attention (6 of 12)")
    command.add_argument("--iterations", type=whole(0), default=1, metavar="N", help="of self-self attention (1)")
    command.add_argument("--temperature", type=above_zero, metavar="T", help="of it (adapted to the picture)")
    add_placement(command)
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from vtokens.calibrate.relevance import relevance
    from vtokens.core.images import open_image
    from vtokens.core.terminal import json_text
    from vtokens.core.writing import write_text

    numbers = options.out is not None and Path(options.out).suffix.lower() == ".json"
    if options.out is not None:
        (check_file if numbers else check_picture)(options.out, "--out", options.picture)
    image = open_image(options.picture)
    model, processor = plain_model(options.model, options.dtype, check_device(options.device))
    [maps] = relevance(
        model, processor, image, options.texts, text_model=options.text_model, depth=options.depth,
        iterations=options.iterations, temperature=options.temperature, template=options.template,
    )  # fmt: skip
    if maps[0].stand_in:
        say("a stand-in, by the decoder's embeddings of the words: --text-model names the CLIP that reads them")
    for one in maps:
        say(_told(one))
    if options.out is None:
        return
    if numbers:
        views = range(len(maps[0].picture.grids))
        rows = [{"text": one.text, "views": [one.grid(view).tolist() for view in views]} for one in maps]
        content = {"model": options.model, "text_model": options.text_model, "picture": options.picture, "maps": rows}
        write_text(options.out, json_text(content, indent=1))
    else:
        from vtokens.report.relevance import drawn

        drawn(maps, image, processor).save(options.out)
    say(f"written to {options.out}")


def _told(found: RelevanceMap) -> str:
    grid, (row, column) = found.grid(), found.peak()
    place = f"row {row + 1} of {grid.shape[0]}, column {column + 1} of {grid.shape[1]}"
    if found.picture.tiled:
        place += f" of the last of {len(found.picture.grids)} tiles"
    return f"{found.text}: cosine {grid.max():.3f} at {place} (median {statistics.median(grid.flat):.3f})"
