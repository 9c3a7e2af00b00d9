"""The ideal speed of a strategy: the same model fed only the tokens that it kept, without scoring any of them."""

from __future__ import annotations

import inspect
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from vtokens.adapters import adapter_for
from vtokens.adapters.output import features_of
from vtokens.engine import Report
from vtokens.engine.checks.outside import check_inside
from vtokens.engine.checks.window import cutting_windows
from vtokens.eval.cuts import Cut, Cuts


class Ideal:
    """Runs `model` on exactly the positions that `report` says each decoder layer saw of `batch`.

    The tower sees the whole picture, its features are cut to those kept before layer 0, and the prompt holds that
    many placeholders; where a strategy drops more inside the decoder, `Cuts` cuts there. Which rows stay is worked out
    here, before any clock runs. Windows and chunks of layers count what the model is fed, as its own do.

    Raises:
        ValueError: visual tokens stand outside the sequence; `generate` of this class takes no embeddings, or its
            pictures see what comes after them, or a window cuts, and tokens are dropped inside the decoder.
    """

    def __init__(self, model: PreTrainedModel, batch: dict[str, Tensor], report: Report) -> None:
        self.model: Any = model
        self.adapter = adapter_for(model)
        check_inside(self.adapter, "the ideal that a strategy is held against")
        _check_fed(model)
        device, ids = model.device, batch["input_ids"]
        wanted = inspect.signature(self.adapter.multimodal.get_image_features).parameters
        self.pixels = {name: value for name, value in batch.items() if name in wanted}
        before = fed = [sample.positions[0] for sample in report.samples]
        rows, real = _padded(before, device)
        self.ids = ids.gather(1, rows).where(real, torch.zeros_like(rows))
        self.mask = real.long()
        holds = ids == self.adapter.placeholder_ids["image"]
        self.placeholder = (holds.gather(1, rows) & real)[..., None]
        number = (holds.flatten().cumsum(0) - 1).view_as(ids).gather(1, rows)
        self.features = number[self.placeholder[..., 0]]
        sees = self.adapter.anatomy.visibility
        self.kinds = {name: batch[name].gather(1, rows) for name in (sees.kinds if sees else "",) if name in batch}
        cuts = {}
        for layer in range(1, len(report.samples[0].positions)):
            now = [sample.positions[layer] for sample in report.samples]
            if any(len(a) != len(b) for a, b in zip(now, before, strict=True)):
                (entering, real), (columns, _) = (_padded(_found(now, there), device) for there in (before, fed))
                cuts[layer] = Cut(entering, columns, None if all(len(a) == len(now[0]) for a in now) else real)
                before = now
        self.cuts = Cuts(self.adapter, cuts) if cuts else None
        self._check_cuts(0)

    def generate(self, **options: Any) -> Tensor:
        """Pixels in, tokens out: `model.generate` on the shortened prompt.

        Raises:
            ValueError: a window would cut into prompt and answer, and tokens are dropped inside the decoder.
        """
        self._check_cuts(options.get("max_new_tokens") or 0)
        inner = self.adapter.multimodal
        with torch.no_grad():
            output = inner.get_image_features(**self.pixels, return_dict=True)
            features = torch.cat(list(features_of(self.adapter, output)))
            embeds = inner.get_input_embeddings()(self.ids)
            given = features[self.features].to(embeds.dtype)
            given = given + embeds[self.placeholder[..., 0]] if self.adapter.anatomy.added else given
            embeds = embeds.masked_scatter(self.placeholder, given)
        with nullcontext() if self.cuts is None else self.cuts.on():
            found: Tensor = self.model.generate(inputs_embeds=embeds, attention_mask=self.mask, **self.kinds, **options)
        return found

    def _check_cuts(self, new_tokens: int) -> None:
        """Raise `ValueError` if tokens are dropped inside of a decoder whose layers see less, or more, than what came
        before them."""
        if self.cuts is None:
            return
        why, positions = None, self.ids.shape[1] + new_tokens
        if self.adapter.anatomy.visibility is not None:
            why = "pictures see what comes after them"
        elif windows := cutting_windows(self.adapter.specs, positions):
            why = f"a window or a chunk of {max(windows.values())} cuts into the {positions} positions"
        if why is not None:
            raise ValueError(
                f"in a {type(self.model).__name__} {why}, and the ideal that a strategy is held against does not work "
                "out what its layers see once tokens are dropped inside the decoder: strategies that drop them before "
                "it, as 'cls' and 'uniform', are measured"
            )


def _check_fed(model: Any) -> None:
    """Raise `ValueError` if `generate` of a model takes no embeddings, which the ideal's shorter prompt is made of."""
    if "inputs_embeds" not in inspect.signature(model.prepare_inputs_for_generation).parameters:
        raise ValueError(
            f"`generate` of a {type(model).__name__} takes no embeddings in place of token ids, of which the ideal "
            "that a strategy is held against makes its shorter prompt: compare with the unpruned model alone"
        )


def _found(rows: list[np.ndarray], among: list[np.ndarray]) -> list[np.ndarray]:
    """Where the positions of each sample stand among others of it, which are padded on the left to one width."""
    width = max(map(len, among))
    return [np.searchsorted(there, one) + width - len(there) for one, there in zip(rows, among, strict=True)]


def _padded(rows: list[np.ndarray], device: torch.device) -> tuple[Tensor, Tensor]:
    """Row numbers as int64 (B, W), padded on the left with 0, and bool (B, W), False on that padding."""
    width = max(map(len, rows))
    index = np.stack([np.pad(row, (width - len(row), 0)) for row in rows])
    real = np.stack([np.arange(width) >= width - len(row) for row in rows])
    return torch.from_numpy(index.astype(np.int64)).to(device), torch.from_numpy(real).to(device)
