"""The oracle of the `attend` stage: attention matrices of whole sequences, edited entry by entry as the papers do.

Nothing of the engine takes part. The decoder of an untouched model gets an attention function that builds the matrix in
float32, changes it by VAR's formula, and scales heads by VHR's. It decides from full-length states, so tokens dropped
by a pruner only have to be masked (`masked.masking`): what gets no attention has no mass to give or to take.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface

from tests.engine.masked import decoder_layers
from vtokens import Report
from vtokens.strategies.attend.var import Var
from vtokens.strategies.attend.vhr import Vhr
from vtokens.tables.sinks import Sinks

CLOSE = 2e-5
"""How near to its threshold a decision may lie before rounding could turn it."""


@dataclass
class Dense:
    """What the oracle applies, and what it remembers of a prompt.

    Attributes:
        visual, text: bool (B, N), visual tokens of the prompt, and its text positions (newline tokens are neither).
        valid: (B, N), the padding mask.
        depth: decoder layers.
        order: "var" and "vhr" as written.
        var, sinks: VAR's settings.
        vhr, vhr_layers: VHR's settings, and the layers it acts in.
        close: decisions so near to their threshold that rounding could turn them.
    """

    visual: Tensor
    text: Tensor
    valid: Tensor
    depth: int
    order: tuple[str, ...]
    var: Var | None = None
    sinks: Sinks | None = None
    vhr: Vhr | None = None
    vhr_layers: Sequence[int] = ()
    close: int = 0
    hidden: dict[int, Tensor] = field(default_factory=dict)
    sink: dict[int, Tensor] = field(default_factory=dict)
    heads: dict[int, Tensor] = field(default_factory=dict)

    def near(self, distance: Tensor) -> None:
        """Count decisions that rounding could turn."""
        self.close += int((distance.abs() < CLOSE).sum())

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float, mask: Any) -> Tensor:
        """(B, W, H, D)."""
        shared = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(shared, 1).float(), value.repeat_interleave(shared, 1).float()
        scores = query.float() @ key.mT * scaling
        width, total = scores.shape[-2:]
        if mask is None:
            mask = torch.ones(width, total, dtype=torch.bool).tril(total - width)
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask[..., :total]
        matrix = scores.softmax(-1).nan_to_num(0.0)
        fresh = width == total
        grow = (0, total - self.visual.shape[1])
        visual = torch.nn.functional.pad(self.visual, grow)[:, None, None]
        for name in self.order:
            if name == "var" and self.var is not None and self.var.first_layer <= layer < self.depth - 1:
                matrix = self._redistribute(layer, matrix, visual, fresh, grow)
            if name == "vhr" and layer in self.vhr_layers and fresh:
                self._choose(layer, scores, value, matrix @ value, visual)
        output = matrix @ value
        if layer in self.heads and self.vhr is not None:
            output = output * torch.where(self.heads[layer], self.vhr.alpha, 1.0)[:, :, None, None]
        return output.transpose(1, 2)

    def _redistribute(self, layer: int, matrix: Tensor, visual: Tensor, fresh: bool, grow: Any) -> Tensor:
        assert self.var is not None
        assert self.sinks is not None
        if fresh:
            phi = self.sinks.phi(self.hidden[layer])
            self.near(phi - self.sinks.tau)
            self.sink[layer] = phi > self.sinks.tau
        sink = torch.nn.functional.pad(self.sink[layer], grow)[:, None, None]
        there = (matrix * visual).sum(-1)
        free = (matrix * (visual & ~sink)).sum(-1)
        rows = self.text & (self.visual.cumsum(1) > 0) if fresh else self.visual.any(1, keepdim=True)
        rows = rows[:, None].expand_as(there)
        self.near((there - self.var.min_visual)[rows & (there > 0)])
        self.near((free - self.var.min_nonsink_ratio * there)[rows & (there > free)])
        qualified = rows & (there >= self.var.min_visual) & (free >= self.var.min_nonsink_ratio * there)
        qualified &= (there > free) & (free > 0) & (visual & sink).any(-1)
        p = self.var.recycle_fraction
        given = p * (matrix * sink).sum(-1, keepdim=True)
        edited = torch.where(sink, (1 - p) * matrix, matrix)
        edited = edited + (visual & ~sink) * given * matrix / free.clamp(min=1e-30)[..., None]
        return torch.where(qualified[..., None], edited, matrix)

    def _choose(self, layer: int, scores: Tensor, value: Tensor, output: Tensor, visual: Tensor) -> None:
        last = (self.valid * torch.arange(self.valid.shape[1])).amax(1)[:, None, None, None]
        row = last.expand(-1, output.shape[1], 1, output.shape[3])
        only = scores.masked_fill(visual, -torch.inf).softmax(-1).nan_to_num(0.0) @ value
        with_image, without = (part.gather(2, row)[:, :, 0] for part in (output, only))
        mass = scores.softmax(-1).nan_to_num(0.0).mul(visual).sum(-1).gather(2, row[..., 0])[..., 0]
        distance = (with_image - without).norm(dim=-1) * (mass.sum(1, keepdim=True) > 0)
        outlier = self._above(distance) & self._above(without.square().sum(-1))
        distance = distance.masked_fill(outlier, 0.0)
        ordered, heads = distance.sort(1).values, distance.shape[1]
        median = (ordered[:, (heads - 1) // 2] + ordered[:, heads // 2])[:, None] / 2
        self.near((distance - median)[distance > 0])
        self.heads[layer] = distance > median

    def _above(self, values: Tensor) -> Tensor:
        mean = values.mean(1, keepdim=True)
        limit = mean + (values - mean).square().mean(1, keepdim=True).sqrt()
        self.near((values - limit)[values > 0])
        return values > limit


def layout(report: Report, placeholder: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """bool (B, N) each: visual tokens and text, from placeholder positions (B, N) and the report's pictures."""
    visual = torch.zeros_like(placeholder)
    for row, sample in enumerate(report.samples):
        if sample.pictures:
            real = torch.cat([torch.from_numpy(kept.picture.view >= 0) for kept in sample.pictures])
            visual[row, placeholder[row]] = real
    return visual, valid.bool() & ~placeholder


@contextmanager
def attending(model: Any, dense: Dense) -> Iterator[Any]:
    """Let the decoder of `model` compute its attention by `dense`."""
    AttentionInterface.register("dense_oracle", _attend)
    layers = decoder_layers(model)
    configs = [layer.self_attn.config for layer in layers]
    hooks = []
    for index, layer in enumerate(layers):
        config = copy.copy(configs[index])
        config._attn_implementation_internal = "dense_oracle"
        config._dense_oracle = dense
        layer.self_attn.config = config

        def note(module: Any, args: Any, kwargs: Any, index: int = index) -> None:
            dense.hidden[index] = args[0] if args else kwargs["hidden_states"]

        hooks.append(layer.register_forward_pre_hook(note, with_kwargs=True))
    try:
        yield model
    finally:
        for layer, config in zip(layers, configs, strict=True):
            layer.self_attn.config = config
        for hook in hooks:
            hook.remove()


def _attend(module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **kwargs: Any) -> Any:
    dense: Dense = module.config._dense_oracle
    return dense.attend(module.layer_idx, query, key, value, kwargs["scaling"], attention_mask), None
