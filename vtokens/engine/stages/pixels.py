"""The `pixels` stage: a strategy shows the vision tower less of each picture, and features stand where all would.

Where a tower takes pictures of any size, the arguments of its feature call are changed, and what comes back is brought
to all tokens. Others (CLIP, SigLIP) are given other pixels at their own call, and projected rows are: their families
arrange those as squares of one size. Which positions are copies of one token is known later (`TowerRun.copies`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from vtokens.adapters import Adapter
from vtokens.adapters.open_tower import OpenTower
from vtokens.adapters.tower import Tower
from vtokens.core.picture import side
from vtokens.engine.checks.recompute import check_tower_runs_once
from vtokens.engine.stages.tower_call import TowerCall, call_of
from vtokens.engine.state.merging import Merging
from vtokens.engine.state.view import gather
from vtokens.strategies.views.pixel_grid import Fewer, PixelGrid, Repeats, Resized

Grid = tuple[int, int, int]


def show_less(call: TowerCall) -> bool:
    """Ask the strategy of a feature call that begins; whether the call's arguments are others now (`call.inputs`)."""
    adapter, modality, acting = call.adapter, call.modality, call.plan.at_pixels
    if acting is None:
        return False
    if not isinstance(adapter, OpenTower):
        raise TypeError(f"{type(adapter).__name__} declares TowerSpec.fewer, and is no OpenTower: derive it from that")
    adapter.check_pixels(modality, call.given, acting.needs.pixels)
    if call.tower.embeddings is not None:  # `AtTower` asks
        check_tower_runs_once(adapter)
        return False
    grids = [picture.grids[0] for picture in adapter.pictures(modality, call.given)]
    shown = adapter.shown(modality, call.given)
    answers = [_asked(call, values, grid) for values, grid in zip(shown, grids, strict=True)]
    if all(answer is None for answer in answers):
        return False
    if any(isinstance(answer, Repeats) for answer in answers):
        stays, into = zip(*map(_repeats, answers, grids, [values.device for values in shown]), strict=True)
        call.inputs = adapter.without_repeats(modality, call.given, torch.cat(stays))
    else:
        sizes = [_size(answer, grid) for answer, grid in zip(answers, grids, strict=True)]
        smaller = [_resize(values, *pair) for values, *pair in zip(shown, grids, sizes, strict=True)]
        call.inputs = adapter.resized(modality, call.given, smaller)
        into = tuple(_cells(grid, size).to(shown[0].device) for grid, size in zip(grids, sizes, strict=True))
    fewer = [len(picture) for picture in adapter.pictures(modality, call.inputs)]
    real, left = (_padding([*map(len, parts)], shown[0].device) for parts in (into, [range(n) for n in fewer]))
    call.later = Merging.among(real, left, pad_sequence(list(into), batch_first=True), 0)
    return True


def show_all(call: TowerCall, output: Any) -> None:
    """Bring the features of a call with other arguments to all tokens.

    Raises:
        ValueError: the caller asked for a tuple, which could not say that they are copies.
    """
    if isinstance(output, tuple):
        raise ValueError(
            "return_dict=False is not allowed where a strategy shows the vision tower less of a picture: leave it out"
        )
    merging = call.merging = call.later
    if merging is None:
        raise RuntimeError("the tower was shown less, and it is not known what")
    fewer = [len(picture) for picture in call.adapter.pictures(call.modality, call.inputs)]
    whole = [len(picture) for picture in call.adapter.pictures(call.modality, call.given)]
    output.pooler_output = _everywhere(merging, output.pooler_output, fewer, whole)
    stack = call.adapter.anatomy.deepstack
    if stack is not None:
        deeper = [_everywhere(merging, entry, fewer, whole) for entry in getattr(output, stack.features)]
        setattr(output, stack.features, deeper)


class AtTower:
    """Hooks on a tower that is given other pixels at its own call, until `remove()`."""

    def __init__(self, adapter: Adapter, tower: Tower) -> None:
        self._adapter = adapter
        self._handles: list[Any] = [
            tower.module.register_forward_pre_hook(self._before, with_kwargs=True),
            tower.embeddings.register_forward_hook(self._embedded),
        ]

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        call = call_of(self._adapter)
        if call is None or call.plan.at_pixels is None or call.tower.module is not module:
            return None
        pixels, patch = kwargs["pixel_values"] if "pixel_values" in kwargs else args[0], side(module.config.patch_size)
        grid = (1, pixels.shape[-2] // patch, pixels.shape[-1] // patch)
        answers, protect = [_asked(call, tile[None], grid) for tile in pixels], int(call.tower.has_cls)
        if all(answer is None for answer in answers):
            return None
        if any(isinstance(answer, Repeats) for answer in answers):
            stays, into = zip(*(_repeats(answer, grid, pixels.device) for answer in answers), strict=True)
            call.later, call.columns = _some(torch.stack(stays), torch.stack(into), protect)
            return None
        sizes = {_size(answer, grid) for answer in answers}
        if len(sizes) > 1:
            raise ValueError(
                f"pictures that go through a {type(module).__name__} together would become {sorted(sizes)} (frames, "
                "rows and columns of tokens): they are of one size, and one for all is allowed"
            )
        (size,) = sizes
        cells = _behind(protect, _cells(grid, size).to(pixels.device).expand(len(pixels), -1))
        real = torch.ones_like(cells, dtype=torch.bool)
        call.merging = Merging.among(real, real[:, : protect + size[1] * size[2]], cells, protect)
        more = {"pixel_values": _resize(pixels, grid, size), "interpolate_pos_encoding": True}
        return args[1:] if "pixel_values" not in kwargs else args, {**kwargs, **more}

    def _embedded(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Any:
        """Leave out rows that are not shown, behind the embedding of their places."""
        call = call_of(self._adapter)
        if call is None or call.columns is None or call.tower.embeddings is not module:
            return None
        columns, call.columns = call.columns, None
        call.merging, call.later, call.masked = call.later, None, True
        return gather(output, columns, 1)


def _asked(call: TowerCall, values: Tensor, grid: Grid) -> Fewer | None:
    """What the strategy makes of one picture (T, C, H, W).

    Raises:
        TypeError, ValueError: an answer of another kind than it announced, or one that makes no sense.
    """
    acting = call.plan.at_pixels
    if acting is None:
        return None
    answer = acting.strategy.at_pixels(PixelGrid(values, grid, acting.prepared))
    kind = {"resize": Resized, "repeats": Repeats}[acting.needs.pixels]
    if answer is not None and not isinstance(answer, kind):
        raise TypeError(
            f"{acting.strategy.name!r} returned a {type(answer).__name__} at the pixels of a picture: a "
            f"{kind.__name__}, as it said by Needs(pixels={acting.needs.pixels!r}), or None is allowed"
        )
    if isinstance(answer, Resized) and not (1 <= answer.high <= grid[1] and 1 <= answer.wide <= grid[2]):
        raise ValueError(
            f"{acting.strategy.name!r} returned {answer} for a picture of {grid[1]} rows and {grid[2]} columns of "
            "tokens: from 1 to as many are allowed"
        )
    if isinstance(answer, Repeats) and (answer.member.shape != grid or answer.member.dtype != torch.long):
        raise ValueError(
            f"{acting.strategy.name!r} returned members of the shape {tuple(answer.member.shape)} and type "
            f"{answer.member.dtype}: one place for each token is needed, {grid} of torch.int64"
        )
    return answer


def _repeats(answer: Fewer | None, grid: Grid, device: torch.device) -> tuple[Tensor, Tensor]:
    """bool (n,) which of the tokens of a picture are shown, and int64 (n,) which of those each went into."""
    frames, high, wide = grid
    own = torch.arange(frames * high * wide, device=device)
    if not isinstance(answer, Repeats):
        return torch.ones_like(own, dtype=torch.bool), own
    start = own.view(frames, -1)[:, :1]
    member = (answer.member.to(device).flatten(1) + start).flatten()
    stays = member == own
    stays = stays | ~stays[member]  # who goes into one that is not shown is shown
    return stays, (stays.cumsum(0) - 1)[torch.where(stays, own, member)]


def _some(stays: Tensor, into: Tensor, protect: int) -> tuple[Merging, Tensor]:
    """What is shown of (B, N) tokens behind `protect` rows, and int64 (B, N'), which rows these are.

    The most that are shown of a picture set the width, for which the device is read.
    """
    stays, into = nn.functional.pad(stays, (protect, 0), value=True), _behind(protect, into)
    counts = stays.sum(1)
    shown = torch.arange(int(counts.max()), device=stays.device) < counts[:, None]
    columns = (~stays).long().argsort(dim=1, stable=True)[:, : shown.shape[1]]
    return Merging.among(torch.ones_like(stays), shown, into, protect), columns


def _behind(protect: int, into: Tensor) -> Tensor:
    """int64 (B, protect + N): the same, where `protect` rows that stay come before."""
    leading = torch.arange(protect, device=into.device).expand(len(into), -1)
    return torch.cat([leading, into + protect], 1)


def _size(answer: Fewer | None, grid: Grid) -> Grid:
    return (grid[0], answer.high, answer.wide) if isinstance(answer, Resized) else grid


def _resize(values: Tensor, grid: Grid, size: Grid) -> Tensor:
    """Pixels (N, C, H, W) of `size` in place of `grid` tokens, each as many pixels as before: cubic, antialiased."""
    if grid == size:
        return values
    p, q = values.shape[-2] // grid[1], values.shape[-1] // grid[2]
    wanted = (size[1] * p, size[2] * q)
    smaller = nn.functional.interpolate(values.float(), wanted, mode="bicubic", antialias=True)
    return smaller.to(values.dtype)


def _cells(grid: Grid, size: Grid) -> Tensor:
    """int64 (n,): for each token of a picture, the token of the resized one that covers the same place."""
    t, y, x = (torch.arange(n) for n in grid)
    y, x = y * size[1] // grid[1], x * size[2] // grid[2]
    return ((t[:, None, None] * size[1] + y[:, None]) * size[2] + x).flatten()


def _padding(lengths: Sequence[int], device: torch.device) -> Tensor:
    """bool (B, N), False on padding of rows of these lengths."""
    return (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).to(device)


def _everywhere(merging: Merging, features: Any, fewer: Sequence[int], whole: Sequence[int]) -> Any:
    """Features of shown tokens, one (n, D) a picture or all in one, at all tokens."""
    single = isinstance(features, Tensor)
    parts = [features] if single else list(features)
    came = [len(part) for part in parts]
    split = torch.cat(parts).split(list(fewer))
    spread = merging.expand(pad_sequence(list(split), batch_first=True))
    found = [part[:size] for part, size in zip(spread, whole, strict=True)]
    if came == list(fewer) and not single:
        return tuple(found)
    return torch.cat(found)
