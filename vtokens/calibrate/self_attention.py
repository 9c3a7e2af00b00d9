"""GEM's path beside a vision tower: tokens attend to what is like themselves, and no MLP acts (arXiv:2312.00878)."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize, scaled_dot_product_attention

from vtokens.adapters.tower import Tower

KINDS = ("clip_vision_model", "siglip_vision_model")
"""Towers whose blocks compute x + attention(norm(x)) over a whole picture, with projections of q, k and v apart."""


def self_self(query: Tensor, key: Tensor, value: Tensor, sharpness: Tensor, iterations: int = 1) -> Tensor:
    """Values averaged by what is alike: the mean of q-q, k-k and v-v attention (GEM, arXiv:2312.00878).

    Of each of the three, rows p of length 1 become softmax(sharpness p p^T) p, `iterations` times; then, of length 1
    again, they weigh the values: softmax(sharpness p p^T) v.

    Args:
        query, key, value: float32 (B, H, N, d).
        sharpness: float32 (B,), what cosines are multiplied by.
        iterations: 0 or more.

    Returns:
        float32 (B, H, N, d).
    """
    scale, rows = sharpness.repeat(3)[:, None, None, None], torch.cat([query, key, value])
    for _ in range(iterations):
        unit = normalize(rows, dim=-1)
        rows = scaled_dot_product_attention(unit * scale, unit, unit, scale=1.0)
    unit = normalize(rows, dim=-1)
    found = scaled_dot_product_attention(unit * scale, unit, value.repeat(3, 1, 1, 1), scale=1.0)
    return found.view(3, *value.shape).mean(0)


@dataclass
class SelfSelfPath:
    """What runs beside some blocks of a tower: x' += out_proj(self-self attention), with q, k, v of the tower's own x.

    Attributes:
        iterations: as in `self_self`.
        temperature: cosines are divided by it; None is sqrt(d) / the mean length of the picture's rows as they enter
            the attention, class token included, as in the release.
        replaces: hand x' on in the place of what the last block puts out.
        found: float32 (B, N, C), x' behind the last block, class token included; one a call of the tower.
    """

    iterations: int = 1
    temperature: float | None = None
    replaces: bool = False
    found: list[Tensor] = field(default_factory=list)
    _rows: Tensor | None = None
    _thread: int = field(default_factory=threading.get_ident)

    @contextmanager
    def beside(self, tower: Tower, last: int, depth: int) -> Iterator[SelfSelfPath]:
        """Run beside `depth` blocks up to `last` (0-based), inside a `with` block; with depth 0 note what `last` makes.

        Calls that other threads make of the model in the meantime are left alone.

        Raises:
            ValueError: in a call, where attention has a mask.
        """
        blocks, attentions = tower.blocks, tower.attentions
        with ExitStack() as stack:
            for number in range(last - depth + 1, last + 1):
                if number == last - depth + 1:
                    stack.callback(blocks[number].register_forward_pre_hook(self._begin, with_kwargs=True).remove)
                stack.callback(attentions[number].register_forward_pre_hook(self._add, with_kwargs=True).remove)
            # Before others, so that what records hidden states sees what is handed on.
            stack.callback(blocks[last].register_forward_hook(self._end, prepend=True).remove)
            yield self

    def _begin(self, block: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if threading.get_ident() == self._thread:
            self._rows = _states(args, kwargs).float()

    def _add(self, attention: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if threading.get_ident() != self._thread:
            return
        if kwargs.get("attention_mask") is not None or any(isinstance(one, Tensor) for one in args[1:]):
            raise ValueError(
                "self-self attention is between all patches of a picture, and this tower's has a mask: pictures of one "
                "size, each in a row of its own, are needed"
            )
        states, heads = _states(args, kwargs), attention.num_heads
        projected = (attention.q_proj(states), attention.k_proj(states), attention.v_proj(states))
        query, key, value = (part.float().unflatten(-1, (heads, -1)).transpose(1, 2) for part in projected)
        if self.temperature is None:
            sharpness = states.float().norm(dim=-1).mean(1) * query.shape[-1] ** -0.5
        else:
            sharpness = states.new_full((len(states),), 1 / self.temperature, dtype=torch.float32)
        with torch.autocast(states.device.type, enabled=False):
            mixed = self_self(query, key, value, sharpness, self.iterations).transpose(1, 2).flatten(2)
        assert self._rows is not None
        self._rows = self._rows.to(states.device) + attention.out_proj(mixed.to(states.dtype)).float()

    def _end(self, block: Any, args: tuple[Any, ...], output: Any) -> Any:
        if threading.get_ident() != self._thread:
            return None
        first: Tensor = output[0] if isinstance(output, tuple) else output
        beside, rows = self._rows is not None, first.float() if self._rows is None else self._rows
        self.found.append(rows)
        self._rows = None
        if not (beside and self.replaces):
            return None
        handed = rows.to(first.dtype)
        return (handed, *output[1:]) if isinstance(output, tuple) else handed


def _states(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    states: Tensor = args[0] if args else kwargs["hidden_states"]
    return states
