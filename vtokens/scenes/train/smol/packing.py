"""Many lines behind one picture: each sees the picture and itself; and what the language model loses on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .body import Body
from .drills import Line, Speaker

NONE = -100


@dataclass
class Packed:
    """Lines of B pictures, padded on the right to T tokens.

    ids, labels: int (B, T); a label is the next token where it is in the loss, else NONE. offsets: int (B, T),
    positions counted from the end of the picture. line: int (B, T), the number of each token's line, -1 for padding.
    """

    ids: Tensor
    labels: Tensor
    offsets: Tensor
    line: Tensor


def pack(asked: Sequence[Sequence[Line]], pad: int) -> Packed:
    """Put the lines of each picture behind each other."""
    size, length = len(asked), max(sum(len(one.ids) for one in lines) for lines in asked)
    ids, labels = torch.full((size, length), pad), torch.full((size, length), NONE)
    offsets, line = torch.zeros(size, length, dtype=torch.long), torch.full((size, length), -1)
    for row, lines in enumerate(asked):
        start = 0
        for number, one in enumerate(lines):
            part, count = slice(start, start + len(one.ids)), len(one.ids)
            ids[row, part] = torch.tensor(one.ids)
            after = [t if said else NONE for t, said in zip(one.ids[1:], one.answers[1:], strict=True)]
            labels[row, part] = torch.tensor([*after, NONE])
            offsets[row, part] = torch.arange(count)
            line[row, part] = number
            start += count
    return Packed(ids, labels, offsets, line)


def allowed(line: Tensor, prefix: int) -> Tensor:
    """Which positions see which, bool (B, prefix + T, prefix + T): the prefix causally, every line it and itself."""
    size, length = line.shape
    whole = torch.cat((torch.full((size, prefix), -2), line), 1)
    same = (whole[:, :, None] == whole[:, None, :]) | (whole == -2)[:, None, :]
    return same & torch.ones(prefix + length, prefix + length, dtype=torch.bool).tril()


def answered(
    body: Body, speaker: Speaker, visual: Tensor, where: Tensor, end: int, asked: Sequence[Sequence[Line]]
) -> tuple[Tensor, list[tuple[str, bool]]]:
    """The mean loss over all answer tokens, and what was right, teacher-forced: (kind, right) of every answer.

    visual: (B, N, hidden) float32 or working dtype; where: int (B, N), positions counted from the picture's start;
    end: the first position behind the picture.
    """
    front = torch.tensor(speaker.encode(speaker.front))
    packed = pack(asked, int(speaker.encode(speaker.end)[0]))
    size, prefix = len(visual), len(front) + visual.shape[1]
    x = torch.cat((body.embed(front).expand(size, -1, -1), visual.to(body.dtype), body.embed(packed.ids)), 1)
    first = torch.arange(len(front)).expand(size, -1)
    positions = torch.cat((first, where + len(front), packed.offsets + end + len(front)), 1)
    states = body(x, positions, allowed(packed.line, prefix))[:, prefix:]
    kept = packed.labels != NONE
    logits, wanted = body.logits(states[kept]), packed.labels[kept]
    loss = F.cross_entropy(logits, wanted)
    right = torch.ones(kept.shape, dtype=torch.bool)
    right[kept] = logits.argmax(-1) == wanted
    return loss, _judged(asked, packed, kept, right)


def _judged(asked: Sequence[Sequence[Line]], packed: Packed, kept: Tensor, right: Tensor) -> list[tuple[str, bool]]:
    found: list[tuple[str, bool]] = []
    for row, lines in enumerate(asked):
        for number, one in enumerate(lines):
            mine = kept[row] & (packed.line[row] == number)
            hits = right[row][mine].tolist()
            found += [(one.kind, all(hits))] if one.whole else [(one.kind, hit) for hit in hits]
    return found
