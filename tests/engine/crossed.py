"""The oracle where visual tokens stand outside the sequence: an untouched model whose cross-attention masks are closed.

Nothing of the engine takes part. The reference makes keys of all features; forward pre-hooks on its cross-attention
layers close the columns of those that the pruned model did not keep.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from vtokens import Report


def closed_columns(report: Report, batch: dict[str, Any], tokens: int) -> Tensor:
    """bool (B, K): the columns that no key of the pruned model stands for.

    Args:
        report: of the pruned call; its rows may be beams of the batch's.
        batch: what the processor made.
        tokens: of a tile.
    """
    images, tiles = batch["aspect_ratio_mask"].shape[1:]
    copies = len(report.samples) // len(batch["input_ids"])
    ids, mask = (batch[f"aspect_ratio_{name}"].repeat_interleave(copies, 0) for name in ("ids", "mask"))
    real = (mask.bool() & (ids > 0)[..., None]).repeat_interleave(tokens, 2).flatten(1)
    closed = torch.ones(len(report.samples), images * tiles * tokens, dtype=torch.bool)
    for row, sample in enumerate(report.samples):
        kept = torch.from_numpy(sample.positions[-1])
        closed[row, kept] = False
        if len(kept) == real[row].sum():  # a row that lost nothing is as it was, padding included
            closed[row] = len(kept) == 0
    return closed


@contextmanager
def closing(model: Any, closed: Tensor) -> Iterator[Any]:
    """Let the cross-attention layers of `model` ignore the first columns that are `closed`, bool (B, K)."""

    def close(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        mask = kwargs["cross_attention_mask"]
        columns = nn.functional.pad(closed, (0, mask.shape[-1] - closed.shape[1]))
        return args, {
            **kwargs,
            "cross_attention_mask": mask.masked_fill(columns[:, None, None], torch.finfo(mask.dtype).min),
        }

    decoder = model.model.language_model
    hooks = [
        decoder.layers[number].register_forward_pre_hook(close, with_kwargs=True)
        for number in decoder.config.cross_attention_layers
    ]
    try:
        yield model
    finally:
        for hook in hooks:
            hook.remove()
