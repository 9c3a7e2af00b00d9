"""What a pattern keeps of an attention matrix, as lines; the tiles that cover them are `cover`'s business."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

from torch import Tensor


@dataclass(frozen=True)
class Ranks:
    """An order of rows and keys other than that of the sequence: by rank, and by place within a rank.

    Attributes:
        row: int64 (B, P, M), rank of each row in [0, size).
        key: int64 (B, P, N).
        size: how many ranks there are.
        most: at most how many keys have one rank.
    """

    row: Tensor
    key: Tensor
    size: int
    most: int


@dataclass(frozen=True)
class Lines:
    """What P plans keep for each sample of a batch.

    Attributes:
        columns: bool (B, P, N), keys that all rows of the plan see.
        rows: bool (B, P, M), rows that see every key.
        bands: int64 (B, P, G, n), diagonals for each group of keys: entry d is keys 64 d to 64 d + 63 before the row;
            below 0 is none.
        window: keys up to the row, itself included, that each row sees.
        most: at most how many columns a plan has, on the host.
        ranks: rows see the keys of their own rank instead of a window; None if there is no such order.
    """

    columns: Tensor
    rows: Tensor
    bands: Tensor
    window: int
    most: int
    ranks: Ranks | None = None

    def part(self, plans: slice) -> Lines:
        """Some of the plans."""
        ranks = self.ranks
        if ranks is not None:
            ranks = replace(ranks, row=ranks.row[:, plans], key=ranks.key[:, plans])
        return replace(
            self, columns=self.columns[:, plans], rows=self.rows[:, plans], bands=self.bands[:, plans], ranks=ranks
        )


@dataclass(frozen=True)
class Ground:
    """The rows and keys that plans stand on.

    Attributes:
        row: bool (B, M), the rows that the plans compute.
        group: int64 (B, N), the group of each key in [0, groups), -1 on padding.
        groups: how many there are.
        place: int64 (B, N), where on the grid a key stands, counted without gaps; -1 if it stands on none.
        offset: the key position of row 0.
        block: (BLOCK_M, BLOCK_N).
    """

    row: Tensor
    group: Tensor
    groups: int
    place: Tensor
    offset: int
    block: tuple[int, int]


class Sums(NamedTuple):
    """What `attention_sums` gives for some plans: (B, P, N) by key and (B, P, groups, ceil(N / 64)) by distance."""

    column: Tensor
    band: Tensor

    def part(self, plans: Sequence[int]) -> Sums:
        """Those of some plans."""
        return Sums(self.column[:, plans], self.band[:, plans])


class Size(NamedTuple):
    """How much a pattern keeps of N keys, in one group of keys, on the host.

    Attributes:
        columns, window: keys.
        diagonals: bands of 64 keys.
        rows: share of the rows that see every key.
    """

    columns: int
    window: int
    diagonals: int = 0
    rows: float = 0.0


@dataclass(frozen=True)
class Pattern:
    """Base of the patterns inside one modality; fields are what patterns files call `params`."""

    intra: ClassVar[str] = ""
    estimated: ClassVar[bool] = True
    """Whether `lines` reads sums."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, int) and not isinstance(value, bool) and value < 0:
                raise ValueError(f"{name}={value} of {self.intra!r} is out of range: 0 and above is allowed")

    def lines(self, ground: Ground, plans: int, sums: Sums | None, strides: Sequence[int]) -> Lines:
        """What `plans` plans keep.

        Args:
            ground: what they stand on.
            plans: how many.
            sums: of each plan, where `estimated`.
            strides: of the pictures, for patterns that name none.
        """
        raise NotImplementedError

    def size(self, keys: int, strides: Sequence[int]) -> Size:
        """How much of `keys` keys is kept; `strides` as in `lines`."""
        raise NotImplementedError

    def for_text(self) -> Pattern:
        """What text rows run where rows are split by modality."""
        return self
