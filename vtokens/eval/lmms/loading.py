"""What lmms-eval's `--model_args` mean: a loaded model, its processor, and the strategies to attach."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from vtokens.core.budget import Keep
from vtokens.core.errors import unknown
from vtokens.engine import attachment, detach
from vtokens.loading.hardware import check_device, check_dtype
from vtokens.loading.load import load as load_pruned
from vtokens.strategies import Strategy, parse

ARGUMENTS = (
    "pretrained",
    "strategy",
    "keep",
    "device",
    "dtype",
    "attn_implementation",
    "revision",
    "device_map",
    "max_new_tokens",
    "max_frames_num",
    "seed",
    "batch_size",
)


def load(
    pretrained: str,
    strategy: str | None,
    keep: Keep | None,
    options: Mapping[str, Any],
    *,
    device: str | None = None,
    dtype: str = "auto",
    device_map: str | None = None,
    **more: Any,
) -> tuple[Any, Any, tuple[Strategy, ...]]:
    """Load a model for evaluation; strategies are read first, so that a wrong name costs no download.

    Args:
        pretrained, strategy, keep, device, dtype, device_map: see `VTokens`.
        options: fields of the strategy.
        more: for `from_pretrained`; None is left out.

    Returns:
        (model, processor, strategies), with nothing attached.
    """
    number = check_dtype(dtype)
    if device is not None and device_map is None:
        check_device(device)
    if options and strategy in (None, "none"):
        raise unknown("model argument (and no strategy to take it as its field):", next(iter(options)), ARGUMENTS)
    drafted = None if strategy is None else read_strategy(strategy, keep, options)
    more |= {"device_map": device_map, "dtype": number}
    passed = {name: value for name, value in more.items() if value is not None}
    model: Any
    model, processor = load_pruned(pretrained, drafted, keep if drafted is None else None, **passed)
    handle = attachment(model)
    strategies = () if handle is None else handle.strategies
    detach(model)
    if device_map is None:
        model.to(device or default_device())
    return model, processor, strategies


def read_strategy(strategy: str, keep: Keep | None, options: Mapping[str, Any]) -> tuple[Strategy, ...]:
    """The strategies that model arguments name.

    lmms-eval splits its arguments at commas outside quotes, keeps the quotes, and reads -1 as a float.
    """
    text = str(strategy).strip().strip("\"'")
    if text.count("(") != text.count(")"):
        raise ValueError(
            f"cannot read the strategy {text!r}: lmms-eval splits model arguments at commas, so write "
            "strategy=fastv,keep=0.25,layer=3, or quote it: strategy='fastv(keep=0.25, layer=3)'"
        )
    read: dict[str, Any] = {
        name: int(v) if isinstance(v, float) and v < 0 and v == int(v) else v for name, v in options.items()
    }
    return parse(text, keep, **read)


def seeded(strategies: Sequence[Strategy], seed: int) -> tuple[Strategy, ...]:
    """Give the run's seed to strategies that draw, unless they were given one of their own."""
    found = []
    for strategy in strategies:
        fields = {field.name: field.default for field in dataclasses.fields(strategy)}
        drawn = "seed" in fields and getattr(strategy, "seed") == fields["seed"]  # noqa: B009
        found.append(dataclasses.replace(strategy, seed=seed) if drawn else strategy)  # type: ignore[call-arg]
    return tuple(found)


def whole(name: str, value: Any, least: int = 1) -> int:
    """`value` as an int of at least `least`, from a number or the text of one.

    Raises:
        ValueError: it is none.
    """
    try:
        number = float(value)
        if not isinstance(value, bool) and number == int(number) and number >= least:
            return int(number)
    except (TypeError, ValueError, OverflowError):
        pass
    raise ValueError(f"{name}={value!r} is not allowed: an int of at least {least}")


def default_device() -> str:
    """The GPU of this process, by its local rank; the CPU where there is none."""
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
