"""Colours and marks of strategies, the same on the page and in the PNG files.

The seven hues were searched for the largest distance between any two of them under normal vision, protanopia,
deuteranopia and tritanopia (OKLab after the matrices of Machado et al., 2009), with a contrast of at least 3:1 to the
background. Nothing is told by colour alone: each strategy has its own mark as well.
"""

from __future__ import annotations

from dataclasses import dataclass

from .results import BASELINE

LIGHT = ("#1d4291", "#be4508", "#207e5c", "#9452a2", "#c48208", "#0a97db", "#460207")
DARK = ("#416ccc", "#d36912", "#7dbd8d", "#d486e4", "#fde196", "#8ae1fd", "#9a5666")
LIGHT_BACKGROUND, DARK_BACKGROUND = "#ffffff", "#161a20"
PHASES_LIGHT = {"encode": "#5b6675", "select": "#be4508", "prefill": "#1d4291", "decode": "#7db4dd"}
PHASES_DARK = {"encode": "#8f9bab", "select": "#f08a3c", "prefill": "#4f7fe0", "decode": "#a9d4f2"}

SHAPES = {
    "o": "M-4.2,0a4.2,4.2 0 1,0 8.4,0a4.2,4.2 0 1,0 -8.4,0z",
    "s": "M-3.8,-3.8h7.6v7.6h-7.6z",
    "^": "M0,-4.8L4.7,3.6h-9.4z",
    "D": "M0,-5.2L5.2,0L0,5.2L-5.2,0z",
    "v": "M0,4.8L4.7,-3.6h-9.4z",
    "P": "M-1.8,-5h3.6v3.2h3.2v3.6h-3.2v3.2h-3.6v-3.2h-3.2v-3.6h3.2z",
    "X": "M-5,-2.9L-2.9,-5L0,-2.1L2.9,-5L5,-2.9L2.1,0L5,2.9L2.9,5L0,2.1L-2.9,5L-5,2.9L-2.1,0z",
    "p": "M0,-5L4.8,-1.5L2.9,4.1h-5.8L-4.8,-1.5z",
}
"""SVG paths around the origin, by matplotlib's name for the same mark."""


@dataclass(frozen=True)
class Style:
    """How a strategy is drawn; `colour` is an index into LIGHT and DARK, None for `none`, which has the text's."""

    colour: int | None
    marker: str

    @property
    def path(self) -> str:
        """The mark as an SVG path."""
        return SHAPES[self.marker]


def styles(names: list[str]) -> dict[str, Style]:
    """A style for each strategy, `none` apart; no two of the first 56 are alike."""
    markers = list(SHAPES)
    found, number = {}, 0
    for name in names:
        if name == BASELINE:
            found[name] = Style(None, "o")
            continue
        # Eight marks and seven hues: neither repeats in the first seven, and both together not in the first 56.
        found[name] = Style(number % len(LIGHT), markers[number % len(markers)])
        number += 1
    return found
