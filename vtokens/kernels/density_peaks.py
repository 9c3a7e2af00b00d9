"""Density peaks with nearest neighbours (DPC-KNN): which tokens of a set make good cluster centres."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vtokens.core.on_device import on_device
from vtokens.kernels._precision import TIE, as_given

_ROOM = 1 << 26
"""Most distances held at once, in elements: 256 MiB."""


@as_given
def density_peaks(tokens: Tensor, valid: Tensor, neighbours: int | Sequence[int]) -> Tensor:
    """How good a centre each token is: its density times its distance from the nearest denser token.

    Density is exp(-mean squared distance to the nearest `neighbours`, itself among them), distances are divided by
    sqrt(D); the densest token gets the largest distance of the set (Du et al., Knowledge-Based Systems 99, 2016, as
    used in FastVID, PruneVid and HoliTom). Of equally dense tokens the earlier counts as denser; releases add noise.

    Args:
        tokens: (..., M, D), sets of any float dtype.
        valid: bool (..., M), False on what takes no part.
        neighbours: at least 1; all of a set that has fewer. Or, on the host, as many numbers as there are sets.

    Returns:
        float32 (..., M), -inf where not `valid`.
    """
    shape, most = valid.shape, valid.shape[-1]
    sets, real = tokens.reshape(-1, *tokens.shape[-2:]).float(), valid.reshape(-1, most)
    part = max(1, _ROOM // most**2)
    each = [neighbours] * len(sets) if isinstance(neighbours, int) else [max(1, one) for one in neighbours]
    if len(each) != len(sets):
        raise ValueError(f"{len(each)} numbers of neighbours for {len(sets)} sets: one number, or one for each set")
    parts = zip(sets.split(part), real.split(part), range(0, len(sets) + 1, part), strict=False)
    found = [_score(x, ok, each[first : first + part]) for x, ok, first in parts]
    return torch.cat(found).view(shape)


@as_given
def nearest_centre(tokens: Tensor, valid: Tensor, centre: Tensor) -> Tensor:
    """The centre of its set that each token is nearest to.

    Args:
        tokens: (..., M, D), sets of any float dtype.
        valid: bool (..., M), False on what takes no part.
        centre: bool (..., M), which tokens are centres.

    Returns:
        int64 (..., M), places in the set. Of equally near centres the first; a centre is nearest to itself. -1 where
        not `valid`, and in sets without centres.
    """
    shape, most = valid.shape, valid.shape[-1]
    sets, real = tokens.reshape(-1, *tokens.shape[-2:]).float(), valid.reshape(-1, most)
    own, part, found = torch.arange(most, device=real.device), max(1, _ROOM // most**2), []
    chosen = centre.reshape(-1, most) & real
    for x, ok, there in zip(sets.split(part), real.split(part), chosen.split(part), strict=True):
        distance = _distances(x, ok).masked_fill(~there[:, None], torch.inf)
        least = distance.amin(2, keepdim=True)
        first = torch.where(distance == least, own, most).amin(2)
        first = torch.where(there, own, first.masked_fill(~least[..., 0].isfinite(), -1))
        found.append(first.masked_fill(~ok, -1))
    return torch.cat(found).view(shape)


def _distances(tokens: Tensor, valid: Tensor) -> Tensor:
    """float32 (S, M, M): distances divided by sqrt(D) in each of S sets; arbitrary where not `valid`."""
    # Centred, so that little cancels; and what is left of equal tokens by rounding is no distance.
    tokens = (tokens - tokens.masked_fill(~valid[..., None], 0).mean(1, keepdim=True)).masked_fill(~valid[..., None], 0)
    length = tokens.square().sum(2)
    square = length[:, :, None] + length[:, None]
    apart = square - 2 * tokens @ tokens.transpose(1, 2)
    return (apart.masked_fill(apart < TIE * square, 0) / tokens.shape[-1]).sqrt()


def _score(tokens: Tensor, valid: Tensor, neighbours: Sequence[int]) -> Tensor:
    both = valid[:, :, None] & valid[:, None]
    distance = _distances(tokens, valid)
    most = min(max(neighbours, default=1), valid.shape[1])
    near = distance.masked_fill(~both, torch.inf).topk(most, largest=False).values
    there = near.isfinite()
    if min(neighbours, default=most) < most:
        limit = on_device(neighbours, near.device)[:, None, None]
        there = there & (torch.arange(most, device=near.device) < limit)
    mean = near.masked_fill(~there, 0).square().sum(2) / there.sum(2).clamp(min=1)
    density = (-mean).exp()
    order = torch.arange(valid.shape[1], device=valid.device)
    higher = density[:, None] > density[:, :, None]
    denser = (higher | ((density[:, None] == density[:, :, None]) & (order < order[:, None]))) & both
    furthest = distance.masked_fill(~both, 0).amax((1, 2))
    nearest = distance.masked_fill(~denser, torch.inf).amin(2)
    nearest = torch.where(nearest.isfinite(), nearest, furthest[:, None])
    return (density * nearest).masked_fill(~valid, -torch.inf)
