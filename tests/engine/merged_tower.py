"""The reference for merging in the tower: every patch computed at full length, merged ones as equal copies.

Attention over copies is attention in proportion to sizes, so nothing here knows of sizes inside attention, of maps, or
of rows that disappear.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def best_partner(metric: Tensor, sources: list[int], targets: list[int]) -> dict[int, tuple[int, float]]:
    """For each source row of metric (N, d) the target of the highest cosine, the earliest among equals."""
    found = {}
    for source in sources:
        scores = [float(torch.nn.functional.cosine_similarity(metric[source], metric[t], dim=0)) for t in targets]
        best = max(range(len(targets)), key=lambda i: scores[i])
        found[source] = (targets[best], scores[best])
    return found


def merge_round(
    groups: dict[int, list[int]],
    metric: dict[int, Tensor],
    hidden: Tensor,
    threshold: float,
    protect: int,
    release: bool = False,
) -> dict[int, list[int]]:
    """One round: groups is row -> its patches, hidden (N, C) is changed in place so that members stay equal.

    The order of the dict is that of the next round: rows as they were, or sources that were not merged first.
    """
    rows = list(groups)
    table = torch.stack([metric[row] for row in rows]).double()
    sources, targets = ([i for i in range(protect, len(rows)) if i % 2 == side] for side in (0, 1))
    partners = best_partner(table, sources, targets) if targets else {}
    if len(partners) > (len(rows) - protect) // 2:
        del partners[min(reversed(partners), key=lambda source: partners[source][1])]
    joined = {row: [row] for row in groups}
    for source, (target, score) in partners.items():
        if score > threshold:
            joined[rows[target]].append(rows[source])
            del joined[rows[source]]
    out = {}
    for row, parts in joined.items():
        members = sorted(patch for part in parts for patch in groups[part])
        hidden[members] = hidden[members].double().mean(0).to(hidden.dtype)  # one vote a patch is weighting by size
        out[row] = members
    unmerged = [rows[source] for source in [*range(protect), *sources] if rows[source] in out]
    return {row: out[row] for row in sorted(out, key=lambda row: row not in unmerged if release else 0)}


@torch.no_grad()
def merged_states(
    tower: Any, pixels: Tensor, thresholds: tuple[float, ...], last: int, release: bool = False
) -> tuple[Tensor, list[Any]]:
    """States (pictures, patches, C) behind block `last`, and for each picture its groups of patches."""
    protect = int(hasattr(tower.embeddings, "class_embedding"))
    states, grouped = [], []
    for picture in pixels:
        hidden = tower.embeddings(picture[None])
        if hasattr(tower, "pre_layrnorm"):
            hidden = tower.pre_layrnorm(hidden)
        groups = {row: [row] for row in range(hidden.shape[1])}
        for index, block in enumerate(tower.encoder.layers[: last + 1]):
            normed = block.layer_norm1(hidden)
            hidden = hidden + block.self_attn(normed, attention_mask=None)[0]
            if index < len(thresholds):
                heads = block.self_attn.num_heads
                keys = block.self_attn.k_proj(normed)[0].view(hidden.shape[1], heads, -1).mean(1)
                metric = {row: keys[members[0]] for row, members in groups.items()}
                groups = merge_round(groups, metric, hidden[0], thresholds[index], protect, release)
            hidden = hidden + block.mlp(block.layer_norm2(hidden))
        states.append(hidden[0])
        grouped.append(groups)
    return torch.stack(states), grouped
