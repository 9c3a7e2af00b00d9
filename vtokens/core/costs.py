"""What a call costs: one FLOPs formula and one definition of KV bytes, used everywhere; docs/costs.md says why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vtokens.core.decoder_shape import attends, cached_numbers, caches, pair_products, window_of
from vtokens.core.layer_costs import entering_flops, layer_flops, state_layer_flops

BUDGET = (
    "keep is a share of each picture's visual tokens, rounded half up and at least one token, or a count per picture; "
    "kept_tokens is the number of visual tokens a decoder layer sees at prefill, averaged over all decoder layers; "
    "newline, class and text tokens are not counted"
)
"""The definition of the token budget, as results carry it."""


@dataclass(frozen=True)
class Encoding:
    """The work of a vision tower and its projector on the pictures of one call, as shapes.

    Attributes:
        width: channels of a tower block; its heads share them.
        inner: channels inside its MLP.
        gated: whether that MLP has three matrices instead of two.
        blocks: for each block, the lengths of the sequences within which it attends; they add up to the rows it sees.
        embedding: (rows, inputs, outputs) of the patch embedding.
        projector: (rows, inputs, outputs) of the matrices after the last block.
        counted: operations of a tower, or a part of one, that is not built of such blocks, as torch counts them.
    """

    width: int
    inner: int
    gated: bool
    blocks: tuple[tuple[int, ...], ...]
    embedding: tuple[int, int, int]
    projector: tuple[tuple[int, int, int], ...]
    counted: int = 0


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of a whole call, by part.

    Attributes:
        tower: patch embedding and blocks of the vision tower.
        projector: what turns its features into visual tokens.
        prefill: decoder layers on the prompt (`prefill_flops`).
        decode: decoder layers on the new tokens that are fed back (`decode_flops`).
        head: the vocabulary head, one position for each new token.
    """

    tower: int
    projector: int
    prefill: int
    decode: int
    head: int

    @property
    def first_token(self) -> int:
        """Operations before the first new token; the head, whose part is tiny, is left out."""
        return self.tower + self.projector + self.prefill

    @property
    def total(self) -> int:
        """Operations of the whole call, the head included."""
        return self.tower + self.projector + self.prefill + self.decode + self.head


def call_flops(
    config: Any, encoding: Encoding | None, lengths: Sequence[int], new_tokens: int, batch: int = 1
) -> Flops:
    """Operations of a call that answers `batch` prompts of equal length with `new_tokens` each.

    Args:
        config: the decoder's config.
        encoding: the pictures of the whole batch; None if there are none.
        lengths: positions of one prompt that each decoder layer sees.
        new_tokens: at least 1.
        batch: prompts.
    """
    return Flops(
        0 if encoding is None else tower_flops(encoding),
        0 if encoding is None else projector_flops(encoding),
        batch * prefill_flops(config, lengths),
        batch * decode_flops(config, lengths, new_tokens - 1),
        batch * new_tokens * 2 * config.hidden_size * config.vocab_size,
    )


def tower_flops(encoding: Encoding) -> int:
    """Operations of the patch embedding and the blocks: 4 n d^2 + 2 n^2 d + 2 or 3 n d m a block, times two."""
    width, matrices = encoding.width, 2 + encoding.gated
    dense = 4 * width * width + matrices * width * encoding.inner
    lengths = [length for block in encoding.blocks for length in block]
    return (
        2 * sum(n * dense + 2 * n * n * width for n in lengths) + _matrix_flops(encoding.embedding) + encoding.counted
    )


def projector_flops(encoding: Encoding) -> int:
    """Operations of the matrices between the tower's last block and the decoder."""
    return sum(map(_matrix_flops, encoding.projector))


def _matrix_flops(shape: tuple[int, int, int]) -> int:
    rows, inputs, outputs = shape
    return 2 * rows * inputs * outputs


def prefill_flops(config: Any, lengths: Sequence[int], attended: Sequence[int] | None = None) -> int:
    """Decoder FLOPs of a prefill in which layer i sees `lengths[i]` positions; tower and vocabulary head excluded.

    Args:
        config: the decoder's config.
        lengths: rows that each layer computes.
        attended: positions its attention works on, where merged tokens stand at several; default the same.
    """
    attended = lengths if attended is None else attended
    total = lengths[0] * entering_flops(config, len(lengths)) if lengths else 0
    for index, (rows, seen) in enumerate(zip(lengths, attended, strict=True)):
        if not attends(config, index):
            total += state_layer_flops(config, rows)
            continue
        total += layer_flops(config, rows, index=index) + 2 * (seen * seen - rows * rows) * pair_products(config, index)
    return total


def decode_flops(config: Any, lengths: Sequence[int], steps: int) -> int:
    """Decoder FLOPs of `steps` tokens fed back one at a time, layer i having cached `lengths[i]`; head excluded.

    A layer with a sliding window, or with chunks, has no more keys than these are long.
    """
    total = steps * entering_flops(config, len(lengths))
    for index, length in enumerate(lengths):
        if not attends(config, index):
            total += steps * state_layer_flops(config, 1)
            continue
        idle, window = layer_flops(config, 1, 0, index), window_of(config, index)
        growing = steps if window is None else min(steps, max(0, window - length))
        keys = growing * length + growing * (growing + 1) // 2 + (steps - growing) * (window or 0)
        total += steps * idle + keys * (layer_flops(config, 1, 1, index) - idle)
    return total


def kv_bytes(config: Any, lengths: Sequence[int], itemsize: int) -> int:
    """Bytes of keys and values for one sequence when layer i caches `lengths[i]` positions of `itemsize` bytes.

    Layers that keep a state in place of keys count nothing: it has one size, whatever the length. Nor do those that
    attend to keys of earlier ones. Latent attention caches one latent and one rotated key for all heads. A layer with a
    sliding window, or with chunks, lets go of what the next token does not see: one position less than these are long.
    """
    total = 0
    for index, length in enumerate(lengths):
        if caches(config, index):
            window = window_of(config, index)
            total += cached_numbers(config, index) * (length if window is None else min(length, window - 1))
    return itemsize * total
