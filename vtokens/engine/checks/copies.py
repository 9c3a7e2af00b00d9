"""Whether the copies of a row (beams, returned sequences) see their own pictures."""

from __future__ import annotations

from vtokens.adapters import Adapter
from vtokens.core.layout import Layout


def check_copies(adapter: Adapter, layout: Layout) -> None:
    """Raise `ValueError` where transformers gives copies of a row with several pictures features in the wrong order."""
    if not adapter.mixes_copies or layout.copies == 1 or len({*layout.owner}) == len(layout.owner):
        return
    raise ValueError(
        f"a sample has several pictures and {layout.copies} beams or returned sequences: for a "
        f"{type(adapter.model).__name__} transformers gives these features of the wrong pictures, with strategies or "
        "without. Generate with a single sequence per sample, or one picture in each"
    )
