"""Stretches of a sequence whose positions see each other both ways: one image in Gemma 3, the prompt in PaliGemma.

A picture: v0 to v2 are one image, and v1 was dropped. A column sees all columns up to the last one of its stretch.

    fed position        0   1   2   3   4
    fed                 t0  v0  v1  v2  t1
    stretch              -1   0   0   0  -1        BothWays.ids
    seen                t0  v0  v2  t1           view.index = [0, 1, 3, 4]
    sees up to column   0   2   2   3            BothWays.until
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from vtokens.adapters import Adapter
from vtokens.core.compat import given_cache
from vtokens.engine.state.view import View, gather


@dataclass(frozen=True, eq=False)
class BothWays:
    """The stretches of what is fed in one pass; what was fed before sees nothing of it.

    Attributes:
        ids: int64 (B, N), the number of the stretch that each fed position is in, below 0 where it is in none. The
            positions of a stretch follow each other, unless they are `apart`.
        made: the masks that the decoder was given have the stretches already.
        whole: no window cuts a stretch.
        windows: only layers with a window have them.
        apart: what stands between the positions of a stretch is in none, and is seen as all else is.
    """

    ids: Tensor
    made: bool
    whole: bool = False
    windows: bool = False
    apart: bool = False

    def at(self, columns: Tensor, real: Tensor | None) -> BothWays:
        """The stretches of a sequence made of positions (B, W) of this one, where they are `real`; no mask has them."""
        ids = gather(self.ids, columns, 1)
        return replace(self, ids=ids if real is None else ids.masked_fill(~real.to(ids.device), -1), made=False)

    def seen(self, view: View | None, device: torch.device) -> Tensor:
        """int64 (B, W): the stretches of the columns that a view sees."""
        ids = self.ids if view is None else self.at(view.index, view.real).ids
        return ids.to(device)

    def until(self, view: View | None, device: torch.device) -> Tensor:
        """int64 (B, W): the last column that each column sees, if not all before where stretches are apart."""
        ids = self.seen(view, device)
        place = torch.arange(ids.shape[1], device=device).expand_as(ids)
        # There are no more stretches than positions; those of no stretch share the first entry, which nobody reads.
        last = torch.zeros_like(self.ids, device=device)
        last = torch.nn.functional.pad(last, (1, 0)).scatter_reduce(1, ids + 1, place, "amax")
        return torch.where(ids < 0, place, last.gather(1, ids + 1))


def stretches(
    adapter: Adapter, inputs: Mapping[str, Any], past: int, length: int, made: bool = True
) -> BothWays | None:
    """The stretches of a pass, as the multimodal module finds them; None if everything in it is causal.

    Args:
        inputs: arguments of the multimodal module, or what a processor made of a prompt.
        past: positions fed before.
        length: positions fed now.
        made: the decoder's masks have them already.
    """
    visibility = adapter.anatomy.visibility
    kinds = None if visibility is None else inputs.get(visibility.kinds)
    if visibility is None or kinds is None or (visibility.prefix and not _begins(inputs)):
        return None
    config = adapter.language_model.config
    if visibility.setting is not None and config.use_bidirectional_attention != visibility.setting:
        return None
    inside = torch.stack([kinds == kind for kind in visibility.kind]).any(0)
    mask = inputs.get("attention_mask")
    if visibility.prefix and isinstance(mask, Tensor) and mask.dim() == 2:
        mask = mask[:, : inside.shape[1]].to(inside.device).bool()
        # Processors call padding a prompt's kind, on the right too, behind text of another.
        inside = inside & torch.nn.functional.pad(mask, (0, inside.shape[1] - mask.shape[1]))
    begins = inside & ~torch.nn.functional.pad(inside, (1, 0))[:, :-1]
    ids = torch.where(inside, begins.long().cumsum(1) - 1, -1)
    ids = ids.clamp(max=0) if visibility.joined else ids
    # The module reads them by position, from the start of the sequence on; what they do not reach is in no stretch.
    ids = torch.nn.functional.pad(ids, (0, max(0, past + length - ids.shape[1])), value=-1)
    return BothWays(ids[:, past : past + length], made, visibility.prefix, visibility.windows, visibility.joined)


def _begins(inputs: Mapping[str, Any]) -> bool:
    """Whether a pass begins a sequence, or is itself given pixels."""
    cache = given_cache(inputs)
    return cache is None or not cache.is_initialized or inputs.get("pixel_values") is not None
