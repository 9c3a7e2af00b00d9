"""The ideal speed of a strategy: the same model fed only the tokens that it kept, without hooks and without scoring."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPast

from vtokens.adapters import adapter_for
from vtokens.adapters.output import features_of
from vtokens.core.compat import given_cache, swap_cache
from vtokens.engine import Report
from vtokens.engine.checks.outside import check_inside


class CuttingDecoder(nn.Module):
    """A genuine decoder whose layers are run by a loop that cuts the sequence at given layers.

    Attributes:
        decoder: transformers' own decoder, whose layers do the work.
        cuts: layer -> int64 (B, W), rows to gather before it runs at prefill.
    """

    def __init__(self, decoder: nn.Module, cuts: dict[int, Tensor]) -> None:
        super().__init__()
        self.decoder: Any = decoder
        self.cuts, self.config = cuts, self.decoder.config

    def get_input_embeddings(self) -> nn.Module:
        """The decoder's table, which the model around it asks for."""
        return self.decoder.get_input_embeddings()

    def forward(
        self,
        inputs_embeds: Tensor,
        position_ids: Tensor,
        attention_mask: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """As the decoder's own; `cuts` are left alone once the cache holds something."""
        decoder, cache = self.decoder, given_cache(kwargs)
        hidden, fresh = inputs_embeds, cache.get_seq_length() == 0
        # M-RoPE models hand on the plain numbering in front of the three rotary ones.
        rotary = position_ids[1:] if position_ids.dim() == 3 and len(position_ids) == 4 else position_ids
        rotated = decoder.rotary_emb(hidden, rotary)
        mask = self._mask(hidden, attention_mask) if fresh else None
        for number, layer in enumerate(decoder.layers):
            if fresh and number in self.cuts:
                rows = self.cuts[number]
                hidden = _gather(hidden, rows)
                rotated = tuple(_gather(part, rows) for part in rotated)
                attention_mask = None if attention_mask is None else attention_mask.gather(1, rows)
                mask = self._mask(hidden, attention_mask)
            hidden = layer(
                hidden,
                attention_mask=mask,
                position_embeddings=rotated,
                position_ids=None,
                use_cache=use_cache,
                **swap_cache(layer, kwargs, cache),
            )
        return BaseModelOutputWithPast(decoder.norm(hidden), cache)

    def _mask(self, hidden: Tensor, attention_mask: Tensor | None) -> Any:
        if attention_mask is None:
            return None
        return create_causal_mask(self.decoder.config, hidden, attention_mask, None)


class Ideal:
    """Runs `model` on exactly the positions that `report` says each decoder layer saw of `batch`.

    The tower sees the whole picture, its features are cut to those kept before layer 0, and the prompt holds that
    many placeholders; where a strategy drops more inside the decoder, `CuttingDecoder` cuts there. Which rows stay is
    worked out here, before any clock runs.
    """

    def __init__(self, model: PreTrainedModel, batch: dict[str, Tensor], report: Report) -> None:
        self.model: Any = model
        self.adapter = adapter_for(model)
        check_inside(self.adapter, "the ideal that a strategy is held against")
        device, ids = model.device, batch["input_ids"]
        wanted = inspect.signature(self.adapter.multimodal.get_image_features).parameters
        self.pixels = {name: value for name, value in batch.items() if name in wanted}
        before = [sample.positions[0] for sample in report.samples]
        rows, real = _padded(before, device)
        self.ids = ids.gather(1, rows).where(real, torch.zeros_like(rows))
        self.mask = real.long()
        holds = ids == self.adapter.placeholder_ids["image"]
        self.placeholder = (holds.gather(1, rows) & real)[..., None]
        number = (holds.flatten().cumsum(0) - 1).view_as(ids).gather(1, rows)
        self.features = number[self.placeholder[..., 0]]
        cuts = {}
        for layer in range(1, len(report.samples[0].positions)):
            now = [sample.positions[layer] for sample in report.samples]
            if any(len(a) != len(b) for a, b in zip(now, before, strict=True)):
                width = max(map(len, before))
                at = [np.searchsorted(b, n) + width - len(b) for n, b in zip(now, before, strict=True)]
                cuts[layer], _ = _padded(at, device)
                before = now
        if cuts and self.adapter.anatomy.complex_angles:
            raise ValueError(
                f"the decoder of a {type(model).__name__} turns complex numbers and attends in chunks, which the ideal "
                "that a strategy is held against does not write anew where tokens are dropped inside the decoder: "
                "strategies that drop them before it, as 'cls' and 'uniform', are measured"
            )
        self.written = CuttingDecoder(self.adapter.language_model, cuts) if cuts else None

    def generate(self, **options: Any) -> Tensor:
        """Pixels in, tokens out: `model.generate` on the shortened prompt."""
        inner, decoder = self.adapter.multimodal, self.adapter.language_model
        with torch.no_grad():
            output = inner.get_image_features(**self.pixels, return_dict=True)
            features = torch.cat(list(features_of(self.adapter, output)))
            embeds = inner.get_input_embeddings()(self.ids)
            given = features[self.features].to(embeds.dtype)
            given = given + embeds[self.placeholder[..., 0]] if self.adapter.anatomy.added else given
            embeds = embeds.masked_scatter(self.placeholder, given)
        try:
            if self.written is not None:
                inner.language_model = self.written
            return self.model.generate(inputs_embeds=embeds, attention_mask=self.mask, **options)
        finally:
            if self.written is not None:
                inner.language_model = decoder


def _padded(rows: list[np.ndarray], device: torch.device) -> tuple[Tensor, Tensor]:
    """Row numbers as int64 (B, W), padded on the left with 0, and bool (B, W), False on that padding."""
    width = max(map(len, rows))
    index = np.stack([np.pad(row, (width - len(row), 0)) for row in rows])
    real = np.stack([np.arange(width) >= width - len(row) for row in rows])
    return torch.from_numpy(index.astype(np.int64)).to(device), torch.from_numpy(real).to(device)


def _gather(values: Tensor, rows: Tensor) -> Tensor:
    """Rows (B, W) of `values` (B or 1, N, D)."""
    if len(rows) == 1:
        return values.index_select(1, rows[0])
    return values.expand(len(rows), -1, -1).gather(1, rows[..., None].expand(-1, -1, values.shape[-1]))
