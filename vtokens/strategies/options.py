"""The fields of strategies, as keyword arguments of `attach`, `load` and `parse`.

Written by `python tools/options.py`. A checker holds calls against it; nothing reads it at run time.
"""

from __future__ import annotations

from os import PathLike
from typing import Literal, TypedDict


class StrategyOptions(TypedDict, total=False):
    """The fields that strategies of the package have, `keep` apart: which of them has which is seen at run time.

    A strategy of another package has fields of its own: write them into the spec, `mine(width=3)`, or give
    the strategy itself, `Mine(width=3)`, which a checker knows.
    """

    alike: float
    alpha: float | None
    average: float
    basis: int
    before: list[float] | tuple[float, ...] | None
    beta: float
    block: int | None
    branch: str | PathLike[str] | None
    budget: Literal["per_image", "per_frame", "global"]
    by: Literal["rank", "row"]
    context: float
    contextual: float
    directions: int
    distance: bool
    divergence: Literal["single_pass", "two_branch"]
    down: float
    epsilon: float
    even: bool
    exit_depth: float
    exit_threshold: float | None
    falling: float
    features: Literal["tower", "projected"]
    first: int
    first_layer: int
    forgetting: float
    forward: bool
    gamma: float
    guarded: float
    heads: float
    high: float
    horizon: float
    important: float
    k: int
    lam: float
    last: float
    late: float | None
    layer: float | None
    layers: (
        list[int]
        | tuple[int, ...]
        | list[float]
        | tuple[float, float]
        | tuple[float, ...]
        | Literal["low", "high"]
        | None
    )
    level: bool
    local: float
    max_cost: float
    merge: bool
    merged: float
    metric: Literal["max", "mae", "rmse"]
    middle: float
    min_length: int
    min_nonsink_ratio: float
    min_visual: float
    most: float
    negated: bool
    normed: bool
    objective: Literal["maxsum", "kcenter"]
    of: Literal["left", "original"]
    order: Literal["raster", "release"]
    others: Literal["zero", "drop"]
    own: float
    parts: int
    patience: int
    patterns: str | PathLike[str] | None
    period: int
    places: Literal["own", "released"]
    plus: bool
    pool: Literal["image", "sample"]
    positions: Literal["original", "compact"]
    primary: float
    query: Literal["question", "last"]
    query_scope: Literal["last", "all_text"]
    ranked: str | PathLike[str]
    reach: float
    recycle: bool
    recycle_fraction: float
    reference: int
    relevance: (
        list[list[list[float] | tuple[float, ...]] | tuple[list[float] | tuple[float, ...], ...]]
        | tuple[list[list[float] | tuple[float, ...]] | tuple[list[float] | tuple[float, ...], ...], ...]
        | None
    )
    rotary: bool
    rounds: int
    rows: Literal["cls", "all"]
    scale: float
    seed: int
    segments: float
    shallow: float
    share: float
    side: int
    sigma: float
    sinks: str | PathLike[str] | None
    std: float
    step: float
    steps: int
    stop: float | str | PathLike[str] | None
    stride: int
    summary: float
    system: float
    target: str | PathLike[str] | float | None
    task: Literal["ocr", "grounding", "counting", "caption", "yes_no", "video", "general"]
    text: float
    text_model: str | PathLike[str] | None
    text_pivots: int
    text_temperature: float
    theta: float | None
    threshold: float
    thresholds: str | PathLike[str] | list[float] | tuple[float, ...] | None
    tokenizer: str | PathLike[str] | None
    unmerge: bool
    up: float
    visual: float
    visual_pivots: int
    visual_temperature: float
    weight: float
    window: int | None
