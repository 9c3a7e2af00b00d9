"""How much text the filter takes at once: no model's context holds more, and finding mentions would take minutes."""

from __future__ import annotations

from vtokens.core.reading import MEBIBYTE

TEXT = 50_000  #: characters of a prompt or a response
LINE = 16 * MEBIBYTE  #: bytes of a row of a data set


def check_length(what: str, text: str) -> None:
    """Raise `ValueError` for a text that is too long to be judged, naming `what` it is."""
    if len(text) > TEXT:
        raise ValueError(
            f"{what} is too long: it has {len(text):,} characters, and {TEXT:,} are allowed; give it in parts"
        )
