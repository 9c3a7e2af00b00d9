"""Frame search on the command line: `vtokens run film.mp4 ... --recipe aks`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vtokens.cli.inputs import FRAMES, Visual

if TYPE_CHECKING:
    from vtokens.strategies import Strategy


def searched(
    visuals: Sequence[Visual], options: argparse.Namespace, model: Any, processor: Any, question: str
) -> list[Visual]:
    """The inputs, with the frames of each video that the question needs in place of those that were taken evenly."""
    from vtokens.recipes import AnswerScorer, search_frames

    scorer: Any = _clip(options) if options.scorer else AnswerScorer(model, processor)
    return [
        one
        if one.clip is None
        else replace(
            one,
            clip=search_frames(
                one.name, question, scorer, options.frames or FRAMES, options.recipe,
                start=options.start, end=options.end,
            ).clip,
        )
        for one in visuals
    ]  # fmt: skip


def check_timestamps(strategies: Sequence[Strategy]) -> None:
    """Raise `ValueError` if a strategy drops tokens of videos alone, as --timestamps shows frames as images."""
    from vtokens.strategies import VideoPruner

    temporal = next((one.name for one in strategies if isinstance(one, VideoPruner)), None)
    if temporal is not None:
        raise ValueError(
            f"--timestamps shows a film as images, one for each frame, and {temporal!r} drops tokens of videos alone: "
            "strategies for images, as 'todre', prune those; or leave --timestamps out"
        )


def _clip(options: argparse.Namespace) -> Any:
    """The scorer that is named by --scorer.

    Raises:
        OSError, ValueError: no such model, or one that does not embed pictures and texts alike.
    """
    from transformers import AutoModel, AutoProcessor

    from vtokens.recipes import ClipScorer

    model: Any = AutoModel.from_pretrained(options.scorer)
    if not (hasattr(model, "get_text_features") and hasattr(model, "get_image_features")):
        raise ValueError(
            f"--scorer {options.scorer} is a {type(model).__name__}, which does not embed pictures and texts alike: a "
            "CLIP or SigLIP is needed"
        )
    return ClipScorer(model.to(options.device).eval(), AutoProcessor.from_pretrained(options.scorer))
