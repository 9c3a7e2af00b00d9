"""Heat maps: the attention from a mention's tokens to the patches of the pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from vtokens.core.overlay import cells, enlarged
from vtokens.core.warmth import captioned, side_by_side, warmed
from vtokens.filter.signals.base import Spanned
from vtokens.filter.trace.trace import Trace
from vtokens.loading.media import Medium
from vtokens.video import Clip


def heat(trace: Trace, mention: Spanned, picture: int = 0, relative: bool = True) -> list[np.ndarray]:
    """The attention of the rows that predicted a mention, cell by cell.

    Args:
        trace: with at least one recorded layer.
        mention: with its tokens.
        picture: which of the sample's.
        relative: by how much each cell got more than on average over the other tokens of the response, 0 where it got
            less, so that sinks, which all rows attend to, do not outshine the rest. Otherwise the attention itself. A
            mention that is the whole response has nothing to be compared with.

    Returns:
        One float (t, h, w) array a view of the picture, in shares of all attention; 0 where a pruner dropped the token
        before the first recorded layer.

    Raises:
        ValueError: a mention without tokens, a trace without attention, no such picture.
    """
    if not trace.layers:
        raise ValueError("this trace holds no attention: record some layers")
    if not mention.tokens:
        raise ValueError(f"mention {mention.text!r} has no tokens: give it some with mention.with_tokens(spans)")
    if not 0 <= picture < len(trace.pictures):
        raise ValueError(f"picture {picture} does not exist: the prompt has {len(trace.pictures)}")
    gaze = trace.gaze[list(mention.tokens)].mean(0)
    others = sorted(set(range(len(trace))) - set(mention.tokens))
    if relative and others:
        gaze = (gaze - trace.gaze[others].mean(0)).clamp(min=0)
    inside = (trace.picture == picture).cpu().numpy()
    shown, values, cell = trace.pictures[picture], gaze.cpu().numpy()[inside], trace.cell.cpu().numpy()[inside]
    maps = [np.zeros(grid) for grid in shown.grids]
    for number, grid in enumerate(maps):
        here = shown.view[cell] == number
        at = cell[here]
        grid[shown.t[at], shown.y[at], shown.x[at]] = values[here]
    return maps


def density(views: Sequence[np.ndarray], pixels: np.ndarray, frame: int = 0, top: float | None = None) -> np.ndarray:
    """float (h, w): views (t, rows, columns) of one picture laid over its pixels and added, in shares of the largest.

    top: in shares of this, as of `strongest`, in place of the largest here.

    A cell counts by what falls on each of its pixels, so that a thumbnail of few large cells and a tiled view of many
    small ones weigh the same.
    """
    total = np.zeros(pixels.shape[:2])
    for view in views:
        row, column = cells(view.shape[1:], pixels)
        total += view[min(frame, len(view) - 1)][row][:, column] * view[0].size
    top = float(total.max()) if top is None else top
    return (total / top).clip(0, 1) if top > 0 else total


def heatmap(
    trace: Trace,
    mention: Spanned,
    images: Sequence[Medium],
    relative: bool = True,
    frame: int | None = None,
    scale: int | None = None,
    seen: Callable[[Image.Image], Image.Image] | None = None,
    top: float | None = None,
    caption: str = "",
) -> Image.Image:
    """Draw attention over the pictures of a prompt: side by side, in grey, warm where attention is high.

    Args:
        trace, mention, relative: as in `heat`.
        images: the pictures and videos, in order; in what is drawn videos come last.
        frame: of a video as the model saw it, where several frames may be one; None for the one that got the most.
        scale: enlarge by this factor; default so that the longer side has about 480 pixels.
        seen: what the model is given of a picture or frame (`vtokens.core.overlay.seen_image`); None: all of it.
        top: the attention that is drawn hottest, such as the `strongest` of several mentions, so that their maps can be
            held beside each other; None for the most of each picture.
        caption: is written below.

    Raises:
        ValueError: another number of images than the prompt had; what `heat` raises.
    """
    shown = _in_order(trace, images)
    if len(shown) != len(trace.pictures):
        raise ValueError(
            f"got {len(images)} images for a prompt with {len(trace.pictures)} pictures; where a processor cuts images "
            "into tiles, the model is not told where in them these lay: let it cut none (do_image_splitting=False, "
            "do_pan_and_scan=False)"
        )
    drawn = []
    for number, one in enumerate(shown):
        trace.pictures[number].check_drawn()
        maps = heat(trace, mention, number, relative)
        at = int(sum(view.sum((1, 2)) for view in maps).argmax()) if frame is None else frame
        image = _frame(one, at, len(maps[0])) if isinstance(one, Clip) else one
        pixels = enlarged(image if seen is None else seen(image), scale)
        drawn.append(warmed(pixels, density(maps, pixels, at, top)))
    drawn_sheet = side_by_side(drawn)
    return captioned(drawn_sheet, caption) if caption else drawn_sheet


def strongest(trace: Trace, mentions: Sequence[Spanned], relative: bool = True) -> float:
    """The most attention that any place gets from any of these mentions, as `density` counts it: a scale for all."""
    most = 0.0
    for mention in mentions:
        for picture in range(len(trace.pictures)):
            maps = heat(trace, mention, picture, relative)
            # Where views overlap their sum is at most this.
            most = max(most, sum(float(view.max()) * view[0].size for view in maps))
    return most


def _in_order(trace: Trace, images: Sequence[Medium]) -> list[Medium]:
    """What was shown, as a trace counts it: videos behind images, or frames as the images that they were shown as."""
    if any(picture.modality == "video" for picture in trace.pictures):
        return sorted(images, key=lambda one: isinstance(one, Clip))
    return [still for one in images for still in (one.images() if isinstance(one, Clip) else [one])]


def _frame(clip: Clip, at: int, steps: int) -> Image.Image:
    """The frame that step `at` of `steps` begins with; a tower may take two frames for one step."""
    return Image.fromarray(clip.frames[min(at * len(clip.frames) // steps, len(clip.frames) - 1)])
