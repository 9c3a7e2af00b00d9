"""Prompts whose answers are written together, token by token: those that are done leave, others join."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer
from transformers.generation import utils

from vtokens.engine.state.sequences import chosen_rows, joined, splits, with_room
from vtokens.serve.rows import Row
from vtokens.serve.steps import Choose, Watch

_ONCE = frozenset(getattr(utils, "MULTIMODAL_INPUTS_TO_DROP_OUTSIDE_PREFILL", ()))
"""What `generate` is given and shows the model with the prompt alone."""
_BY_POSITION = ("position_ids", "token_type_ids", "mm_token_type_ids")
"""What it keeps for each position (..., B, N), beside the mask: the last one says what follows."""


def opens(model: Any, kwargs: dict[str, Any]) -> bool:
    """Whether prompts can be written by a `Run`, from what the loop of `generate` is given with them.

    Their cache has to grow, and nothing else may be kept for them that is not known here.
    """
    cache, mask = kwargs.get("past_key_values"), kwargs.get("attention_mask")
    if type(cache) is not DynamicCache or not (mask is None or (isinstance(mask, Tensor) and mask.dim() == 2)):
        return False
    growing = all(type(layer) is DynamicLayer for layer in cache.layers)
    if not growing or (not cache.layers and cache.layer_class_to_replicate is not DynamicLayer):
        return False
    known = {*_ONCE, *_BY_POSITION, "attention_mask", "past_key_values"}
    others = [value for name, value in kwargs.items() if name not in known]
    plain = all(value is None or isinstance(value, bool | int | float | str) for value in others)
    return plain and kwargs.get("position_ids") is not None and bool(kwargs.get("use_cache")) and _PREFILLS


_PREFILLS = bool(_ONCE) and "is_first_iteration" in inspect.signature(utils.GenerationMixin._prefill).parameters


class Run:
    """Prompts that were read, and their answers so far.

    Args:
        model: the model, under what the rows' strategies leave to be done in a step: to see fewer keys.
        rows: a prompt each.
        ids: int64 (B, N), the prompts, padded on the left.
        kwargs: what `generate` keeps for them (`opens`).
        config: its settings.
        first: called once, when the prompts have been read.

    Attributes:
        rows: those in the batch, of which some may have ended.
        splits: whether rows can leave, and others join.
    """

    def __init__(
        self,
        model: Any,
        rows: Sequence[Row],
        ids: Tensor,
        kwargs: dict[str, Any],
        config: Any,
        first: Callable[[], None],
    ) -> None:
        self._model, self._ids, self.rows = model, ids, list(rows)
        outputs = model._prefill(ids, config, kwargs, is_first_iteration=True)
        self._kwargs = {name: value for name, value in kwargs.items() if name not in _ONCE}
        self.splits = splits(self._cache)
        if self.splits:
            with_room(self._cache)
        self._settle(first)
        self._take(outputs)

    @property
    def live(self) -> list[Row]:
        """The rows whose answers are not over."""
        return [row for row in self.rows if not row.ended]

    @property
    def _cache(self) -> Any:
        return self._kwargs["past_key_values"]

    @property
    def _mask(self) -> Tensor:
        """int64 (B, N), 0 on padding; `generate` keeps none where there is no padding."""
        mask: Tensor | None = self._kwargs.get("attention_mask")
        return torch.ones_like(self._ids) if mask is None else mask

    def step(self) -> None:
        """Write the next token of each row."""
        inputs = self._model.prepare_inputs_for_generation(self._ids, next_sequence_length=1, **self._kwargs)
        self._take(self._model(**inputs, return_dict=True))

    def leave(self) -> None:
        """Take rows that have ended out, once they are half of the batch: those that stay are copied."""
        if self.splits and self.live and 2 * len(self.live) <= len(self.rows):
            self._choose()

    def join(self, other: Run) -> bool:
        """Let the rows of another run go on in this one; returns whether they can. The other is not to be used then."""
        if not (self.splits and other.splits and self.live and other.live and self._alike(other)):
            return False
        for run in (self, other):
            if len(run.live) < len(run.rows):
                run._choose()
        before, theirs = self._kwargs, other._kwargs
        mask = joined(self._cache, self._mask, other._cache, other._mask)
        after = {**before, "attention_mask": _or_none(mask)}
        for name in _BY_POSITION:
            if before.get(name) is not None:
                after[name] = _beside(before[name], theirs[name])
        self._kwargs, self._ids = after, _beside(self._ids, other._ids)
        self.rows += other.rows
        self._settle()
        return True

    def _alike(self, other: Run) -> bool:
        """Whether the same things are kept for both."""
        kept = [{name: value for name, value in run._kwargs.items() if value is not None} for run in (self, other)]
        mine, theirs = kept
        if {*mine} - {"attention_mask"} != {*theirs} - {"attention_mask"}:
            return False
        named = {*_BY_POSITION, "attention_mask", "past_key_values"}
        shapes = all(mine[name].shape[:-2] == theirs[name].shape[:-2] for name in _BY_POSITION if name in mine)
        return shapes and all(mine[name] == theirs[name] for name in mine if name not in named)

    def _choose(self) -> None:
        """Leave those rows that have not ended."""
        rows = [number for number, row in enumerate(self.rows) if not row.ended]
        mask, gone = chosen_rows(self._cache, self._mask, rows)
        index = torch.tensor(rows, device=self._ids.device)
        self._kwargs = {**self._kwargs, "attention_mask": _or_none(mask)}
        for name in _BY_POSITION:
            if (value := self._kwargs.get(name)) is not None:
                self._kwargs[name] = value.index_select(-2, index.to(value.device))[..., gone:]
        self._ids = self._ids[index, gone:]
        self.rows = [self.rows[number] for number in rows]
        self._settle()

    def _settle(self, first: Callable[[], None] | None = None) -> None:
        self._chooses = Choose(self.rows)
        self._watch = Watch(self.rows, self._chooses, first)

    def _take(self, outputs: Any) -> None:
        """Choose a token for each row by what the model gave, and hand it on."""
        self._kwargs = self._model._update_model_kwargs_for_generation(outputs, self._kwargs, is_encoder_decoder=False)
        logits = outputs.logits[:, -1].to(copy=True, dtype=torch.float32, device=self._ids.device)
        tokens = self._chooses(self._ids, logits).argmax(-1)
        self._ids = torch.cat([self._ids, tokens[:, None]], 1)
        self._watch(self._ids, None)


def _or_none(mask: Tensor) -> Tensor | None:
    """A mask, or none where there is no padding: attention is faster so."""
    return None if bool(mask.all()) else mask


def _beside(one: Tensor, other: Tensor) -> Tensor:
    """(..., B1 + B2, N) of (..., B1, N1) and (..., B2, N2), with zeros in front of what is shorter."""
    most = max(one.shape[-1], other.shape[-1])
    parts = [torch.nn.functional.pad(part, (most - part.shape[-1], 0)) for part in (one, other)]
    return torch.cat(parts, -2)
