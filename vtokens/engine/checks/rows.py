"""Programs per row: whether a batch has the rows that they were given for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vtokens.core.layout import Layout


def check_rows(programs: Sequence[Any] | None, batch: int, layout: Layout | None) -> None:
    """Raise `ValueError` unless a batch has one row for each program, or the beams of one.

    Args:
        programs: what runs on each row; None if all rows run the same.
        batch: rows of the pass.
        layout: of a pass with pictures, which tells how often beams repeat a row; None if it brings none.
    """
    if programs is None:
        return
    copies = batch // len(programs) if layout is None else layout.copies
    if batch != copies * len(programs):
        again = f", each repeated {copies} times by beams or returned sequences" if copies > 1 else ""
        raise ValueError(
            f"{len(programs)} programs were given, and the batch has {batch} rows{again}: one program for each row of "
            "the batch is needed ('none' for a row that is left alone)"
        )
