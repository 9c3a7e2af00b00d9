"""Whether strategies can act in a pass in which positions see what comes after them."""

from __future__ import annotations

from vtokens.adapters import Adapter
from vtokens.engine.checks.window import cutting_windows
from vtokens.engine.state.both_ways import BothWays
from vtokens.engine.state.request import Request


def check_both_ways(request: Request, adapter: Adapter, both_ways: BothWays | None, past: int, length: int) -> None:
    """Raise `ValueError` if a prompt that is to see itself both ways does not say where it ends, or is in pieces.

    Args:
        both_ways: what sees itself both ways; None if nothing does.
        past: positions fed before.
        length: positions fed now.
    """
    visibility = adapter.anatomy.visibility
    if not request.runs or visibility is None or not visibility.prefix:
        return
    kinds, model = visibility.kinds, type(adapter.model).__name__
    if both_ways is None:
        if past == 0 and request.inputs.get(kinds) is None:
            raise ValueError(
                f"a {model} without {kinds} sees all that comes after a position, answers too, or none of it, as "
                f"padding and attention implementation have it: pass {kinds} as the processor makes them "
                f"({visibility.kind[0]} for the prompt, {visibility.text} for an answer)"
            )
        return
    if int(both_ways.ids.max()) > 0:
        raise ValueError(
            f"{kinds} have positions of the prompt ({visibility.kind[0]}) behind some of an answer "
            f"({visibility.text}): a prompt is one stretch, and its answer follows"
        )
    if past and cutting_windows(adapter.specs, past + length):
        raise ValueError(
            f"this decoder has sliding windows, and {past + length} positions come to one: pictures behind other text "
            "would see more of it than the window leaves in the cache: begin with the pictures, or keep all of it "
            "shorter than the window"
        )
