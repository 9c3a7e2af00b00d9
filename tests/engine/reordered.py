"""The oracle of `pine`: each row's prompt is written out anew, its pictures in the row's own order, in float64.

Nothing of the engine takes part. The decoder of an untouched model gets an attention function that turns queries and
keys back by the positions they were given, and then goes from row to row: it measures the pictures, lines all tokens up
as that row has them, numbers them from the start, turns them by these numbers, and attends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.engine.masked import decoder_of

Turns = list[list[list[int]]]
"""The pictures of a sample: for each turn that brought any, the columns of each of them."""


@dataclass
class Reordered:
    """Attention in which every row has the pictures of its prompt in its own order.

    Attributes:
        pictures: of each sample.
        valid: bool (B, N), False on padding of the prompt.
        config: of the decoder.
        positions: int64 (C, B, N), those that the decoder was given so far (`noting`).
        width: of a head.
    """

    pictures: Sequence[Turns]
    valid: Tensor
    config: Any
    positions: np.ndarray | None = None
    width: int = 0
    hidden: dict[int, Tensor] = field(default_factory=dict)

    def noting(self, model: Any) -> Any:
        """A hook on the decoder that notes positions; a pass that starts at 0 begins anew."""

        def note(module: Any, args: Any, kwargs: Any) -> None:
            cache, given = kwargs.get("past_key_values"), kwargs.get("position_ids")
            past, fed = 0 if cache is None else int(cache.get_seq_length()), kwargs["inputs_embeds"]
            given = torch.arange(past, past + fed.shape[1])[None] if given is None else given
            there = (given[None] if given.dim() == 2 else given[-3:]).numpy()
            fresh = not past or self.positions is None
            self.positions = there if fresh else np.concatenate([self.positions, there], 2)

        return decoder_of(model).register_forward_pre_hook(note, with_kwargs=True)

    def turns(self, at: np.ndarray) -> np.ndarray:
        """complex (K, D / 2): by how much positions (C, K) turn each pair of dimensions."""
        parameters, width = self.config.rope_parameters, self.width
        half = np.arange(width // 2)
        sections = parameters.get("mrope_section", [width // 2])
        axis = np.repeat(np.arange(len(sections)), sections)
        return np.exp(1j * at[axis].T * parameters["rope_theta"] ** (-2.0 * half / width))

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float, mask: Any) -> Tensor:
        """(B, W, H, D)."""
        assert self.positions is not None
        self.width = query.shape[-1]
        (batch, heads, width, size), total = query.shape, key.shape[2]
        shared, output = heads // key.shape[1], np.zeros((batch, width, heads, size))
        for sample in range(batch):
            own = sample // (batch // len(self.pictures))
            at = self.positions[:, sample * self.positions.shape[1] // batch]
            seen = np.tril(np.ones((total, total), bool))[total - width :]
            if mask is not None:
                shown = mask[sample, 0, :, :total]
                seen = (shown if shown.dtype == torch.bool else shown > -1e30).numpy()
            real = [column for column in range(total) if column >= self.valid.shape[1] or self.valid[own, column]]
            back = self.turns(at).conj()
            turns = [turn for turn in self.pictures[own] if max(map(max, turn)) < total]
            prompt = Prompt(self, turns, at, real, {*np.flatnonzero(seen[-1]).tolist()}, total - width)
            for head in range(heads):
                keys = pairs(key[sample, head // shared]) * back
                queries = pairs(query[sample, head]) * back[total - width :]
                values = value[sample, head // shared].double().numpy()
                output[sample, :, head] = prompt.rows(queries, keys, values, scaling)
        return torch.from_numpy(output).to(query.dtype)


@dataclass
class Prompt:
    """A sample in one decoder layer.

    Attributes:
        oracle: whose it is.
        pictures: by turn.
        at: (C, K), positions.
        real: the columns that are no padding.
        kept: those of them that the layer sees.
        past: columns before the first row.
        known: what was lined up before.
    """

    oracle: Reordered
    pictures: Turns
    at: np.ndarray
    real: list[int]
    kept: set[int]
    past: int
    known: dict[Any, tuple[list[int], np.ndarray]] = field(default_factory=dict)

    def rows(self, queries: np.ndarray, keys: np.ndarray, values: np.ndarray, scaling: float) -> np.ndarray:
        """(W, D): what every row attends to, from queries and keys that are not turned."""
        every = [[column for column in picture if column in self.kept] for turn in self.pictures for picture in turn]
        own = {column: number for number, picture in enumerate(every) for column in picture}
        powers = np.exp((queries @ keys.conj().T).real * scaling)
        worth, together = {}, {number: np.zeros(len(every)) for number in range(len(every))}
        for row in range(len(queries)):
            means = np.array([powers[row, picture].mean() if picture else 0.0 for picture in every])
            worth[row], mine = means, own.get(row + self.past)
            if mine is not None:
                means[mine] = 0.0
                whole = sum(mean * len(picture) for mean, picture in zip(means, every, strict=True))
                together[mine] += means / whole if whole else means
        output = np.zeros((len(queries), values.shape[1]))
        for row in range(len(queries)):
            column = row + self.past
            if column in self.kept:
                mine = own.get(column)
                line, turned = self.lined_up(worth[row] if mine is None else together[mine], column, mine)
                scores = ((queries[row] * turned[-1]) @ (keys[line] * turned).conj().T).real * scaling
                weights = np.exp(scores - scores.max())
                output[row] = weights @ values[line] / weights.sum()
        return output

    def lined_up(self, worth: np.ndarray, column: int, mine: int | None) -> tuple[list[int], np.ndarray]:
        """The columns that a row sees, itself last, and by how much each is turned where it stands."""
        orders, first = list[list[int]](), 0
        for turn in self.pictures:
            numbers = range(first, first + len(turn))
            orders.append(sorted(numbers, key=lambda number: (number == mine, worth[number], -number)))
            first += len(turn)
        name = (str(orders), column)
        if name not in self.known:
            line, places = self.numbered(orders, column)
            self.known[name] = line, self.oracle.turns(places)
        return self.known[name]

    def numbered(self, orders: list[list[int]], column: int) -> tuple[list[int], np.ndarray]:
        """The columns that a row sees where pictures stand in these orders, and their positions (C, K)."""
        blocks, done, first = list[tuple[bool, list[int]]](), -1, 0
        for turn, order in zip(self.pictures, orders, strict=True):
            begin, end = min(map(min, turn)), max(map(max, turn))
            inside = {column for picture in turn for column in picture}
            blocks.append((False, [c for c in self.real if done < c < begin]))
            blocks += [(True, turn[number - first]) for number in order]
            blocks.append((False, [c for c in self.real if begin < c < end and c not in inside]))
            first, done = first + len(turn), end
        blocks.append((False, [c for c in self.real if c > done]))
        line, places, next_one = list[int](), list[np.ndarray](), int(self.at[:, self.real[0]].min())
        for shows, columns in blocks:
            spots = np.tile(next_one + np.arange(len(columns)), (len(self.at), 1))
            if shows:
                spots = self.at[:, columns] - self.at[:, columns].min() + next_one
            for one, spot in zip(columns, spots.T, strict=True):
                if one in self.kept:
                    line.append(one)
                    places.append(spot)
                if one == column:
                    return line, np.stack(places, 1)
            next_one = int(spots.max()) + 1 if columns else next_one
        raise AssertionError(f"column {column} stands nowhere")


def pairs(states: Tensor) -> np.ndarray:
    """complex (W, D / 2): dimension d is the real part of what dimension d + D / 2 is the imaginary one of."""
    real, imaginary = states.double().chunk(2, -1)
    return (real + 1j * imaginary).numpy()
