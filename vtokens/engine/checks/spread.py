"""Models whose decoder heads are spread over processes (tensor parallelism): what looks at heads sees some of them.

A process has the queries and keys of its own heads, while states between layers, embeddings and logits are whole in
each. What is averaged or ranked over heads would come out otherwise in each process, and tokens would be dropped here
that stay there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.distributed as dist
from torch import nn

from vtokens.adapters import Adapter
from vtokens.strategies import Needs, Strategy
from vtokens.strategies.signals import Attention, LayerKeys, Neurons

_BY_HEAD = ("attend", "cache", "rows", "shortcut")


def check_spread(adapter: Adapter, active: Sequence[tuple[Strategy, Needs]]) -> None:
    """Raise `ValueError` for a strategy that looks at decoder heads, keys or neurons where these are spread.

    Args:
        active: strategies, and what they need.
    """
    by_head = [strategy.name for strategy, needs in active if _looks_at_heads(needs)]
    if not by_head:
        return
    processes = spread(adapter.model)
    if processes > 1:
        raise ValueError(
            f"{by_head[0]!r} looks at the decoder's heads, of which each of {processes} processes has some in a "
            "tensor-parallel model, so that processes would disagree: what chooses before the decoder is allowed, such "
            "as 'census', 'divprune' and 'cls', or spread whole layers instead, with device_map='auto'"
        )


def _looks_at_heads(needs: Needs) -> bool:
    split = any(isinstance(signal, Attention | LayerKeys | Neurons) for signal in needs.signals)
    return split or needs.computes or any(getattr(needs, name) for name in _BY_HEAD)


def spread(model: Any) -> int:
    """The processes over which a model's heads are spread; 1 where each has them all.

    transformers says so of what it spread. What was spread by `parallelize_module` is told by weights in shards in a
    model that FSDP2 has not sharded: that puts them together while a layer runs.
    """
    if not (dist.is_available() and dist.is_initialized()):  # asked at every attachment, so weights are left alone
        return 1
    told = getattr(model, "tp_size", None)
    if isinstance(told, int):
        return told
    if any(type(module).__name__.startswith("FSDP") for module in model.modules()):
        return 1
    return max((_shards(weight) for weight in model.parameters() if in_shards(weight)), default=1)


def in_shards(weight: nn.Parameter) -> bool:
    """Whether a weight is a DTensor, told by its name: that part of torch takes its time to import."""
    return any(one.__name__ == "DTensor" for one in type(weight).__mro__)


def _shards(weight: Any) -> int:
    """In how many parts a DTensor lies."""
    sizes = (weight.device_mesh.size(dim) for dim, part in enumerate(weight.placements) if part.is_shard())
    return max(sizes, default=1)
