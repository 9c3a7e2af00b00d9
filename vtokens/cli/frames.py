"""Frame search and quotas on the command line: `vtokens run film.mp4 ... --recipe aks --quota 0.25`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vtokens.cli.inputs import FRAMES, Visual

if TYPE_CHECKING:
    from vtokens.engine import Handle
    from vtokens.strategies import Strategy


def searched(
    visuals: Sequence[Visual], options: argparse.Namespace, model: Any, processor: Any, question: str
) -> list[Visual]:
    """The inputs, with the frames of each video that the question needs in place of those that were taken evenly."""
    from vtokens.recipes import search_frames

    scorer, question = _scorer(options, model, processor), options.seek or question
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


def with_quotas(
    visuals: Sequence[Visual], options: argparse.Namespace, model: Any, processor: Any, question: str, handle: Handle
) -> Handle:
    """The handle of `quota` before what is attached, each frame's quota by how likely it helps with the question.

    Raises:
        ValueError: the model sees no videos, or what is attached does not go with `quota`; a scorer whose numbers are
            no confidences.
    """
    from vtokens.engine import attach
    from vtokens.recipes import Quota, quota

    if options.timestamps:
        check_timestamps([Quota(options.quota, chances=(1.0,))])
    strategies = handle.strategies
    handle.detach()
    with attach(model, [Quota(options.quota, chances=(1.0,)), *strategies]):
        pass  # what is refused is, before frames are scored
    scorer, question = _scorer(options, model, processor), options.seek or question
    chances = []
    # The processor's own word for how many frames make one of tokens.
    together = int(getattr(getattr(processor, "video_processor", None), "temporal_patch_size", None) or 1)
    with attach(model, strategies):
        for one in visuals:
            if one.clip is not None:
                found = quota(one.clip.images(), question, scorer, options.quota, together)
                each: Any = found.chances  # of one video
                chances.append(tuple(round(float(chance), 4) for chance in each))  # as reports can be read
    return attach(model, [Quota(options.quota, chances=tuple(chances)), *strategies])


def check_timestamps(strategies: Sequence[Strategy]) -> None:
    """Raise `ValueError` if a strategy drops tokens of videos alone, as --timestamps shows frames as images."""
    from vtokens.strategies import VideoPruner

    temporal = next((one.name for one in strategies if isinstance(one, VideoPruner)), None)
    if temporal is not None:
        raise ValueError(
            f"--timestamps shows a film as images, one for each frame, and {temporal!r} drops tokens of videos alone: "
            "strategies for images, as 'todre', prune those; or leave --timestamps out"
        )


def _scorer(options: argparse.Namespace, model: Any, processor: Any) -> Any:
    """Who says how well a frame fits: the model that is named by --scorer, or the one that is asked."""
    from vtokens.recipes import AnswerScorer

    if options.scorer:
        return _clip(options)
    # What is to be sought is asked as it stands, and of a question whether a frame helps to answer it.
    return AnswerScorer(model, processor, "{query}") if options.seek else AnswerScorer(model, processor)


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
