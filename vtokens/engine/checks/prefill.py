"""Whether a pass that brings pictures can lose some of their tokens."""

from __future__ import annotations

from typing import Any

from vtokens.adapters import Adapter
from vtokens.core.compat import given_cache
from vtokens.engine.checks.arguments import check_mask
from vtokens.engine.checks.caches import check_cache, check_evictable
from vtokens.engine.checks.recompute import check_decoder_runs_once
from vtokens.engine.state.request import Request


def check_prefill(request: Request, adapter: Adapter, past: int, kwargs: dict[str, Any]) -> None:
    """Raise `ValueError` if a pass cannot be pruned; says why and the way out.

    Args:
        past: positions fed before.
    """
    if not request.runs:
        if request.inputs.get("inputs_embeds") is not None and past == 0:
            raise ValueError(
                "inputs_embeds without pixel_values do not tell where their visual tokens are: pass input_ids and "
                "pixel_values, or inputs_embeds with placeholder embeddings and pixel_values, or detach() first"
            )
        return
    language_model = adapter.language_model
    if kwargs.get("output_attentions") or getattr(language_model.config, "output_attentions", False):
        raise ValueError(
            "output_attentions=True cannot be met under strategies: attention is computed without its maps, and layers "
            "see different lengths once tokens are dropped. Use handle.report() for what was kept, or detach() first"
        )
    check_decoder_runs_once(adapter)
    check_cache(given_cache(kwargs), language_model.config, past + kwargs["inputs_embeds"].shape[1])
    if request.plan.at_cache:
        check_evictable(given_cache(kwargs))
    check_mask(kwargs.get("attention_mask"))
