"""The oracle of strategies that change attention weights: whole matrices in float64, edited as the papers write it.

Nothing of the engine takes part. The decoder of an untouched model gets an attention function that builds the matrix
of all rows and keys, edits scores before the softmax or weights behind it, in some rows, and multiplies with the
values. Tokens that a pruner dropped only have to be masked (`masked.masking`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import vtokens
from tests.engine.cases import model
from tests.engine.dense import attending, layout
from tests.engine.masked import dropped_keys, masking
from vtokens.adapters import adapter_for


def scored(query: Tensor, key: Tensor, value: Tensor, scaling: float, mask: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Scores float64 (B, H, W, K), values float64 (B, H, K, D), and bool (.., W, K) which keys each row sees."""
    shared = query.shape[1] // key.shape[1]
    key, value = (part.repeat_interleave(shared, 1).double() for part in (key, value))
    scores = query.double() @ key.mT * scaling
    width, total = scores.shape[-2:]
    if mask is None:
        mask = torch.ones(width, total, dtype=torch.bool).tril(total - width)
    return scores, value, mask if mask.dtype == torch.bool else mask[..., :total] > -1e30


@dataclass(frozen=True)
class Matrix:
    """What an edit is told of one attention call.

    Attributes:
        layer: decoder layer.
        scores: float64 (B, H, W, K), -inf where masked; an edit may return others.
        bias: float64 (B, 1, 1, K), what is added to scores behind the edit.
        visual, leading: bool (B, 1, 1, K), visual keys, and keys before the first of them.
        fresh: it is the prompt's pass.
        rows: bool (B, W), those that are edited.
    """

    layer: int
    scores: Tensor
    visual: Tensor
    leading: Tensor
    fresh: bool
    rows: Tensor
    bias: Tensor


@dataclass
class Edited:
    """Edits attention of some rows of some layers.

    Attributes:
        visual, text, valid: bool (B, N), as in `dense.Dense`.
        layers: those whose attention is edited.
        rows: "last", the end of each prompt and all that is generated, or "text", all text behind the picture.
        edit: from a matrix to its new weights, float64 (B, H, W, K); they are taken at the chosen rows.
        bias: float64 (B, N), logarithms of how many tokens each position counts for; None if each is one.
    """

    visual: Tensor
    text: Tensor
    valid: Tensor
    layers: Collection[int]
    rows: str
    edit: Callable[[Matrix], Tensor]
    bias: Tensor | None = None
    hidden: dict[int, Tensor] = field(default_factory=dict)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float, mask: Any) -> Tensor:
        """(B, W, H, D)."""
        scores, value, seen = scored(query, key, value, scaling, mask)
        width, total = scores.shape[-2:]
        scores = scores.masked_fill(~seen, -torch.inf)
        bias = torch.zeros(1, 1, dtype=torch.float64) if self.bias is None else self.bias
        bias = torch.nn.functional.pad(bias, (0, total - bias.shape[1]))[:, None, None]
        weights, fresh = (scores + bias).softmax(-1).nan_to_num(0.0), width == total
        if layer in self.layers:
            visual = torch.nn.functional.pad(self.visual, (0, total - self.visual.shape[1]))
            leading = (visual.cumsum(1) == 0) & visual.any(1, keepdim=True)
            rows = self._rows(width, fresh)
            new = self.edit(Matrix(layer, scores, visual[:, None, None], leading[:, None, None], fresh, rows, bias))
            weights = torch.where(rows[:, None, :, None], new.nan_to_num(0.0), weights)
        return (weights @ value).to(query.dtype).transpose(1, 2)

    def _rows(self, width: int, fresh: bool) -> Tensor:
        """bool (B, W)."""
        shown = self.visual.any(1, keepdim=True)
        if not fresh:
            return shown.expand(-1, width)
        if self.rows == "text":
            return self.text & (self.visual.cumsum(1) > 0)
        place = torch.arange(width)
        return shown & (place == (self.valid.long() * place).amax(1, keepdim=True))


def generated(target: Any, batch: dict[str, Any], new: int, **options: Any) -> Any:
    """Tokens and logits of `generate`."""
    torch.manual_seed(0)
    options = {"min_new_tokens": new, **options}
    return target.generate(
        **batch, max_new_tokens=new, return_dict_in_generate=True, output_logits=True, output_scores=True, **options
    )


def both(
    family: str, spec: str, batch: dict[str, Any], layers: Collection[int], rows: str, edit: Callable[[Matrix], Tensor],
    new: int = 3, bias: Callable[[Tensor], Tensor] | None = None, **options: Any,
) -> tuple[Any, Any]:  # fmt: skip
    """What a model generates under `spec`, and what an untouched one generates whose attention is edited."""
    pruned, reference = model(family, "pruned"), model(family, "plain")
    with vtokens.attach(pruned, spec) as handle:
        got = generated(pruned, batch, new, **options)
        report = handle.report()
    copies = len(report.samples) // len(batch["attention_mask"])
    ids, valid = (batch[name].repeat_interleave(copies, dim=0) for name in ("input_ids", "attention_mask"))
    placeholder = torch.stack([ids == token for token in adapter_for(reference).placeholder_ids.values()]).any(0)
    dense: Any = Edited(*layout(report, placeholder, valid), valid.bool(), layers, rows, edit)
    dense.bias = None if bias is None else bias(dense.visual)
    with attending(reference, dense), masking(reference, dropped_keys(report, valid)):
        return got, generated(reference, batch, new, **options)
