"""What recipes take by name.

Written by `python tools/options.py`. A checker holds calls against it; nothing reads it at run time.
"""

from __future__ import annotations

from os import PathLike
from typing import Literal

from vtokens.core.generate_options import GenerateOptions


class RecipeOptions(GenerateOptions, total=False):
    """The settings that recipes by name have, and options of `generate`."""

    alpha: float
    beta: float
    check_by: str | PathLike[str]
    columns: int
    count: int
    describe: str | PathLike[str]
    draft: int
    explore: float
    first: int | None
    folder: str | PathLike[str]
    general: str | PathLike[str]
    last: int | None
    layer: int | None
    layers: list[int] | tuple[int, ...] | None
    least: float
    method: Literal["relative", "gradient"]
    most: int
    rollouts: int
    rows: int
    share: float
    show: Literal["captions", "pictures"]
    size: int | None
    tau: float
    threshold: float
    tokens: int
    when: float
    width: int
    words: int
    zoom: float
