"""Which picture stands at which placeholders of a prompt, and in which row of the batch."""

from __future__ import annotations

from collections.abc import Sequence


def expand(modality: str, per_row: Sequence[int], sizes: Sequence[int]) -> list[int]:
    """Which picture stands where: 0..n-1, or each row's pictures once per copy of the row."""
    placeholders, features = sum(per_row), sum(sizes)
    copies = max(1, placeholders // features) if features else 1
    if placeholders != copies * features or (copies > 1 and len(per_row) % copies):
        raise ValueError(
            f"the prompt holds {placeholders} {modality} placeholder positions, "
            f"but its {len(sizes)} {modality}(s) need {features}"
        )
    if copies == 1:
        return list(range(len(sizes)))
    groups: list[list[int]] = [[] for _ in per_row[::copies]]
    for number, row in enumerate(owners(per_row[::copies], sizes)):
        groups[row].append(number)
    return [number for group in groups for _ in range(copies) for number in group]


def owners(per_row: Sequence[int], sizes: Sequence[int]) -> list[int]:
    """The batch row of each picture, given placeholder counts per row and the pictures' sizes."""
    found, row, room = [], 0, list(per_row)
    for number, size in enumerate(sizes):
        while row < len(room) and room[row] == 0:
            row += 1
        if row == len(room) or room[row] < size:
            left = room[row] if row < len(room) else 0
            raise ValueError(f"picture {number} needs {size} placeholder positions, but its sample has {left} left")
        room[row] -= size
        found.append(row)
    return found
