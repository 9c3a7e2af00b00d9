"""Where the visual tokens of a batch sit, and the per-image view of them that strategies work on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from vtokens.core.columns import columns_of
from vtokens.core.groups import Groups
from vtokens.core.on_device import on_device
from vtokens.core.parts import Parts, parts_of
from vtokens.core.picture import Picture
from vtokens.core.placeholders import expand, owners

Grouping = Literal["image", "view", "frame", "sample"]
T = TypeVar("T")


@dataclass(frozen=True)
class Layout:
    """Where the visual tokens of one batch sit.

    Attributes:
        visual: bool (B, N), True where a position holds an image or video feature.
        image: int64 (B, N), index of the picture over the whole batch, -1 elsewhere.
        cell: int64 (B, N), index of the position inside its picture (newlines included), -1 elsewhere.
        valid: bool (B, N), False on padding.
        pictures: the pictures of the batch, in the order of `image`.
        source: for each of them, which one the tower saw: beams and returned sequences repeat pictures.
        owner: the batch row of each picture.
        counts: visual tokens left of each picture, on the host.
        newlines: positions left of each picture that hold none of its features, on the host.
        lead: padding positions at the start of each row, on the host.
        trail: padding positions at its end, on the host.
        before: real positions before each row's first placeholder (0 where it has none), on the host.
        tail: positions after the last placeholder, the least of any row, on the host.
        padded: whether any position is padding, on the host.
        aside: bool (B, N), positions of a modality that strategies leave alone (audio), and no text; None if none are.
    """

    visual: Tensor
    image: Tensor
    cell: Tensor
    valid: Tensor
    pictures: tuple[Picture, ...]
    source: tuple[int, ...]
    owner: tuple[int, ...]
    counts: tuple[int, ...]
    newlines: tuple[int, ...]
    lead: tuple[int, ...]
    trail: tuple[int, ...]
    before: tuple[int, ...]
    tail: int
    padded: bool
    aside: Tensor | None = None

    @staticmethod
    def build(
        placeholders: dict[str, Tensor],
        pictures: Mapping[str, Sequence[Picture]],
        valid: Tensor,
        aside: Tensor | None = None,
    ) -> Layout:
        """Read a layout.

        Args:
            placeholders: modality -> bool (B, N), the positions the model scatters its features into.
            pictures: modality -> the pictures the tower saw, in the order of their features. Where the batch was
                expanded after the tower (beams), each row's pictures are taken again for each of its copies.
            valid: bool (B, N), the padding mask.
            aside: bool (B, N), positions of a modality that is left alone; None if there is none.

        Raises:
            ValueError: placeholder positions and pictures do not add up.
        """
        length = valid.shape[1]
        anywhere = torch.stack(list(placeholders.values())).any(0)
        last = (anywhere * torch.arange(1, length + 1, device=valid.device)).amax(1)
        # The one host read of a prefill: which rows the pictures fall into, and where padding ends.
        first = (anywhere.cumsum(1) == 0) & valid & anywhere.any(1, keepdim=True)
        sums = [*placeholders.values(), valid.cumsum(1) == 0, valid.flip(1).cumsum(1) == 0, ~valid, first]
        *host, lead, trail, padding, before, ends = torch.stack([*(mask.sum(1) for mask in sums), last]).tolist()
        image = torch.full_like(valid, -1, dtype=torch.long)
        cell, visual = image.clone(), torch.zeros_like(valid)
        ordered: list[Picture] = []
        source: list[int] = []
        owner: list[int] = []
        seen = 0
        for per_row, (modality, mask) in zip(host, placeholders.items(), strict=True):
            given = list(pictures.get(modality, ()))
            which = expand(modality, per_row, [len(p) for p in given])
            part = [given[i] for i in which]
            sizes = [len(p) for p in part]
            owner += owners(per_row, sizes)
            if part:
                rank = (mask.flatten().cumsum(0) - 1).clamp(min=0).view_as(mask)
                flat = [
                    np.repeat(np.arange(len(ordered), len(ordered) + len(part)), sizes),
                    np.concatenate([np.arange(size) for size in sizes]),
                    np.concatenate([p.view >= 0 for p in part]),
                ]
                number, inside, real = (on_device(f, mask.device) for f in flat)
                image = torch.where(mask, number[rank], image)
                cell = torch.where(mask, inside[rank], cell)
                visual = torch.where(mask, real[rank], visual)
            ordered += part
            source += [seen + i for i in which]
            seen += len(given)
        counts = tuple(p.tokens for p in ordered)
        newlines = tuple(len(p) - p.tokens for p in ordered)
        return Layout(
            visual, image, cell, valid, tuple(ordered), tuple(source), tuple(owner), counts, newlines, tuple(lead),
            tuple(trail), tuple(before), length - max(ends), any(padding), aside,
        )  # fmt: skip

    def take(
        self,
        index: Tensor,
        valid: Tensor | None,
        counts: Sequence[int],
        lead: Sequence[int],
        newlines: Sequence[int] | None = None,
    ) -> Layout:
        """The layout after the rows `index` (B, W) were gathered; `valid` (B, W) is False on new padding.

        `counts`, `lead` and `newlines` (None: as before) are those of the result.
        """
        real = torch.ones_like(index, dtype=torch.bool) if valid is None else valid
        return dataclasses.replace(
            self,
            visual=self.visual.gather(1, index) & real,
            image=self.image.gather(1, index).masked_fill(~real, -1),
            cell=self.cell.gather(1, index).masked_fill(~real, -1),
            valid=self.valid.gather(1, index) & real,
            aside=None if self.aside is None else self.aside.gather(1, index) & real,
            counts=tuple(counts),
            newlines=self.newlines if newlines is None else tuple(newlines),
            lead=tuple(lead),
        )

    @property
    def copies(self) -> int:
        """How often each picture stands in the batch: beams and returned sequences repeat rows."""
        return max((self.source.count(number) for number in set(self.source)), default=1)

    def rows(self, rows: Sequence[int]) -> Layout:
        """The layout of some rows of the batch alone, in ascending order; pictures are numbered anew."""
        chosen = [number for number, owner in enumerate(self.owner) if owner in set(rows)]
        numbers = {number: new for new, number in enumerate(chosen)}
        table = [*(numbers.get(number, -1) for number in range(len(self.pictures))), -1]
        at = on_device(rows, self.visual.device)
        image = on_device(table, at.device)[self.image[at]]  # -1 is the last entry
        place = {row: new for new, row in enumerate(rows)}

        def of(values: Sequence[T], which: Sequence[int]) -> tuple[T, ...]:
            return tuple(values[number] for number in which)

        return dataclasses.replace(
            self,
            visual=self.visual[at],
            image=image,
            cell=self.cell[at],
            valid=self.valid[at],
            pictures=of(self.pictures, chosen),
            source=of(self.source, chosen),
            owner=tuple(place[self.owner[number]] for number in chosen),
            counts=of(self.counts, chosen),
            newlines=of(self.newlines, chosen),
            lead=of(self.lead, rows),
            trail=of(self.trail, rows),
            before=of(self.before, rows),
            aside=None if self.aside is None else self.aside[at],
        )

    def with_rows(self, rows: Sequence[int], stay: Tensor, counts: Sequence[int]) -> tuple[Tensor, tuple[int, ...]]:
        """What stays of all rows, bool (B, W), and of all pictures, if `stay` and `counts` are those of `self.rows`."""
        whole, left = self.visual.clone(), list(self.counts)
        whole[on_device(rows, whole.device)] = stay
        chosen = (number for number, owner in enumerate(self.owner) if owner in set(rows))
        for number, count in zip(chosen, counts, strict=True):
            left[number] = count
        return whole, tuple(left)

    def to(self, device: torch.device) -> Layout:
        """The layout on another device."""
        if self.visual.device == device:
            return self
        moved = {name: getattr(self, name).to(device) for name in ("visual", "image", "cell", "valid")}
        return dataclasses.replace(self, **moved, aside=None if self.aside is None else self.aside.to(device))

    def count(self, stay: Tensor) -> tuple[int, ...]:
        """Tokens of each picture where `stay` (B, W) is True; reads the device."""
        image = self.image.masked_fill(~(stay & self.visual), len(self.pictures)).flatten()
        return tuple(torch.bincount(image, minlength=len(self.pictures) + 1)[:-1].tolist())

    def per_sample(self, counts: Sequence[int] | None = None) -> list[int]:
        """Sums of per-picture `counts` (default: the tokens left) for each batch row."""
        totals = [0] * self.visual.shape[0]
        for row, count in zip(self.owner, self.counts if counts is None else counts, strict=True):
            totals[row] += count
        return totals

    def outside(self) -> list[int]:
        """At most how many positions outside pictures each row has: exact if it is not padded on the right."""
        pictures = self.per_sample([tokens + lines for tokens, lines in zip(self.counts, self.newlines, strict=True)])
        return [self.visual.shape[1] - lead - size for lead, size in zip(self.lead, pictures, strict=True)]

    def text_after(self) -> list[int]:
        """At most how many text positions each row has after its first placeholder; 0 in a row without any."""
        return [
            others - before if row in self.owner else 0
            for row, (others, before) in enumerate(zip(self.outside(), self.before, strict=True))
        ]

    def outside_columns(self) -> tuple[Tensor, Tensor | None]:
        """What is left of each row without its pictures: text, and what is left alone.

        Returns:
            int64 (B, T), the positions, behind padding in rows that have fewer; bool (B, T), False on that padding;
            None if there is none.
        """
        counts = self.outside()
        columns, real = columns_of(self.valid & (self.image < 0), max(1, *counts))
        # With padding on the right a row has fewer than was counted.
        return columns, None if min(counts) == columns.shape[1] and not self.padded else real

    @property
    def words(self) -> Tensor:
        """bool (B, N): positions of text. Newline tokens are no features, but they are the picture's, not text."""
        words = self.valid & (self.image < 0)
        return words if self.aside is None else words & ~self.aside

    @property
    def words_after(self) -> Tensor:
        """bool (B, N): positions of text behind the first visual token of their row."""
        return self.words & (self.visual.cumsum(1) > 0)

    @cached_property
    def places(self) -> Tensor:
        """int64 (B, N, 5): picture, view, t, y and x of each visual token; -1 elsewhere."""
        most = max([1, *map(len, self.pictures)])
        table = np.full((len(self.pictures) + 1, most, 4), -1)  # the last one is no picture
        for number, picture in enumerate(self.pictures):
            table[number, : len(picture)] = np.stack([picture.view, picture.t, picture.y, picture.x], 1)
        grid = on_device(table, self.visual.device)[self.image, self.cell.clamp(min=0)]
        return torch.cat([self.image[..., None], grid], 2).masked_fill(~self.visual[..., None], -1)

    @cached_property
    def by_image(self) -> Groups:
        """One group per picture."""
        return Groups.of(self.image.masked_fill(~self.visual, -1), self.counts)

    @cached_property
    def by_sample(self) -> Groups:
        """One group per batch row: all its visual tokens together."""
        rows = torch.arange(self.visual.shape[0], device=self.visual.device)[:, None].expand_as(self.image)
        return Groups.of(rows.masked_fill(~self.visual, -1), self.per_sample())

    def parts(self, grouping: Grouping) -> Parts:
        """One group for each view, or each frame of one, of each picture, in sequence order."""
        if grouping not in self._parts:
            self._parts[grouping] = parts_of(
                self.pictures, self.image, self.cell, self.visual, self.counts, by_view=grouping == "view"
            )
        return self._parts[grouping]

    @cached_property
    def _parts(self) -> dict[str, Parts]:
        return {}

    def groups(self, grouping: Grouping) -> Groups:
        """The visual tokens as groups: one for each picture, view, frame or sample."""
        if grouping in ("view", "frame"):
            return self.parts(grouping).groups
        return self.by_image if grouping == "image" else self.by_sample

    def per_picture(self, grouping: Grouping, counts: Sequence[int] | None) -> tuple[int, ...] | None:
        """Tokens of each picture, from those of each group; None where these do not tell."""
        if counts is None or grouping == "sample":
            return None
        if grouping == "image":
            return tuple(counts)
        totals = [0] * len(self.pictures)
        for owner, count in zip(self.parts(grouping).owners, counts, strict=True):
            totals[owner] += count
        return tuple(totals)
