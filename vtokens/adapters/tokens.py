"""Where a token stands in what a multimodal module is given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def holding(token: int, inputs: Mapping[str, Any], multimodal: Any) -> Tensor:
    """bool (B, N): positions of a token, read from `input_ids`, or from `inputs_embeds` where there are none.

    Args:
        token: its id.
        inputs: of the multimodal module.
        multimodal: the module, whose table of embeddings tells tokens in `inputs_embeds`.
    """
    ids: Any = inputs.get("input_ids")
    if ids is not None:
        found: Tensor = ids == token
        return found
    embeds: Any = inputs.get("inputs_embeds")
    table = multimodal.get_input_embeddings()
    same: Tensor = embeds == table(torch.full((), token, dtype=torch.long, device=embeds.device))
    return same.all(-1)
