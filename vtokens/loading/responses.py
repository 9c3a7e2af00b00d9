"""Where a response ends in the rows that `generate` returns."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_ENDS = ("eos_token_id", "pad_token_id")


def response_lengths(model: Any, said: Tensor, options: dict[str, Any], *, end: bool = False) -> list[int]:
    """How many tokens of each row are the response.

    Args:
        model: the one that wrote.
        said: int64 (B, n), what was written behind the prompts.
        options: as given to `generate`.
        end: count the token that ends a response, too.
    """
    over, padding = (torch.tensor(sorted(_tokens(model, options, name)), device=said.device) for name in _ENDS)
    ends = torch.isin(said, over)
    ended = ends.cumsum(1) > 0
    # A stop string ends a response without an end token; padding follows it all the same, to the end of the row.
    padded = torch.isin(said, padding).flip(1).long().cumprod(1).flip(1) > 0
    count = (~(ended | padded)).sum(1)
    if end:
        count += ended.any(1)
    found: list[int] = count.tolist()
    return found


def _tokens(model: Any, options: dict[str, Any], name: str) -> set[int]:
    config = options.get("generation_config") or model.generation_config
    token = options.get(name, getattr(config, name, None))
    return set() if token is None else set(torch.as_tensor(token).flatten().tolist())
