"""Whether the copies of a row (beams, returned sequences) see their own pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vtokens.adapters import Adapter
from vtokens.core.layout import Layout
from vtokens.engine.state.aside import several_aside


def check_copies(adapter: Adapter, layout: Layout, inputs: Mapping[str, Any]) -> None:
    """Raise `ValueError` where transformers gives copies of a row with several pictures features in the wrong order.

    Args:
        inputs: of the multimodal module.
    """
    if layout.copies == 1:
        return
    several = "pictures" if adapter.mixes_copies and len({*layout.owner}) < len(layout.owner) else None
    several = several_aside(adapter, inputs) if several is None else several
    if several is None:
        return
    raise ValueError(
        f"a sample has several {several} and {layout.copies} beams or returned sequences: for a "
        f"{type(adapter.model).__name__} transformers gives these features of the wrong {several}, with "
        "strategies or without. Generate with a single sequence per sample, or a single one of them in each"
    )
