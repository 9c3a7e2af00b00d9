"""Pictures as rows of patches, as Qwen's towers take them: back to pixels, and some of the rows at their places.

A row is the pixels of one patch in `temporal` frames, colours first; the `merge` x `merge` patches of a token follow
each other, tokens in raster order, then frames, then pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import vision_utils


def pictures(rows: Tensor, grids: Tensor, patch: int, temporal: int, merge: int) -> list[Tensor]:
    """(T, C * temporal, H, W) of each picture.

    Args:
        rows: (patches of all pictures, C * temporal * patch * patch).
        grids: int64 (pictures, 3), frames and patches along both sides of each.
    """
    found = []
    for part, (t, h, w) in zip(rows.split(grids.prod(-1).tolist()), grids.tolist(), strict=True):
        shape = (t, h // merge, w // merge, merge, merge, -1, temporal, patch, patch)
        found.append(part.reshape(shape).permute(0, 5, 6, 1, 3, 7, 2, 4, 8).reshape(t, -1, h * patch, w * patch))
    return found


def rows(shown: Sequence[Tensor], patch: int, temporal: int, merge: int) -> tuple[Tensor, Tensor]:
    """What `pictures` was given: rows, and int64 (pictures, 3) grids on the CPU."""
    found, grids = [], []
    for picture in shown:
        t, _, height, width = picture.shape
        h, w = height // patch, width // patch
        shape = (t, -1, temporal, h // merge, merge, patch, w // merge, merge, patch)
        found.append(picture.reshape(shape).permute(0, 3, 6, 4, 7, 1, 2, 5, 8).reshape(t * h * w, -1))
        grids.append((t, h, w))
    return torch.cat(found), torch.tensor(grids)


def places(visual: Any, grids: Tensor, stay: Tensor, shown: Tensor) -> dict[str, Tensor]:
    """What such a tower works out of its grids, for some tokens of them: arguments that it takes in its place.

    Args:
        visual: the tower.
        grids: int64 (pictures, 3), of all tokens.
        stay: int64 (n,), those that are shown, ascending.
        shown: bool (tokens,), the same.
    """
    merge = visual.spatial_merge_size

    def some(values: Tensor) -> Tensor:
        return values.unflatten(0, (-1, merge**2))[stay.to(values.device)].flatten(0, 1)

    bounds = vision_utils.get_vision_cu_seqlens(grids)
    found = {
        "position_ids": some(vision_utils.get_vision_position_ids(grids, merge)),
        "cu_seqlens": _shrunk(bounds, shown, merge**2),
    }
    if hasattr(visual, "num_grid_per_side"):
        at, weights = vision_utils.get_vision_interpolation_indices_and_weights(
            grids,
            num_grid_per_side=visual.num_grid_per_side,
            mode=visual.interpolation_mode,
            align_corners=visual.interpolation_align_corners,
            spatial_merge_size=merge,
        )
        found |= {"interp_indices": some(at), "interp_weights": some(weights)}
    if hasattr(visual, "window_size"):
        order, bounds = vision_utils.get_vision_window_index(
            grids, spatial_merge_size=merge, window_size=visual.window_size, patch_size=visual.patch_size
        )
        order = order.to(stay.device)
        inside = shown.to(order.device)[order]
        rank = shown.long().cumsum(0) - 1
        bounds = _shrunk(bounds, inside, merge**2)
        # Windows none of whose tokens are shown have no bounds.
        found |= {"window_index": rank[order[inside]], "cu_window_seqlens": torch.unique_consecutive(bounds)}
    return found


def _shrunk(bounds: Tensor, shown: Tensor, unit: int) -> Tensor:
    """Bounds int32 (n + 1,) of sequences of patches, of which only those of `shown` tokens are left."""
    before = torch.nn.functional.pad(shown.long().cumsum(0), (1, 0)).to(bounds.device)
    return (before[bounds.long() // unit] * unit).to(bounds)
