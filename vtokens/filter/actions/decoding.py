"""The name of a decoding method: numbers calibrated on responses hold for one method only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SAMPLED = ("temperature", "top_k", "top_p", "min_p", "typical_p")


def decoding(model: Any, options: Mapping[str, Any]) -> str:
    """The decoding method of `generate` as text, such as "greedy", "beams(4)" or "sample(temperature=0.7, top_p=0.9)".

    Args:
        model: its generation config says what `options` leave open.
        options: keyword arguments of `model.generate`.
    """
    config = options.get("generation_config") or model.generation_config

    def asked(name: str) -> Any:
        return options[name] if name in options else getattr(config, name, None)

    beams = asked("num_beams") or 1
    name = "greedy" if beams == 1 else f"beams({beams})"
    if asked("do_sample"):
        settings = [f"{key}={asked(key):g}" for key in _SAMPLED if asked(key) is not None]
        sampled = f"sample({', '.join(settings)})" if settings else "sample"
        name = sampled if beams == 1 else f"beams({beams}, sample)"
    return name


def limit(model: Any, options: Mapping[str, Any], prompt: int = 0) -> int | None:
    """Most tokens a response may have; None if nothing says so. `prompt`: tokens that `max_length` counts too."""
    config = options.get("generation_config") or model.generation_config
    for holder in (options, vars(config)):
        if holder.get("max_new_tokens") is not None:
            return int(holder["max_new_tokens"])
        if holder.get("max_length") is not None:
            return max(1, int(holder["max_length"]) - prompt)
    return None
