"""An oracle of strategies that read early layers: an untouched model is fed each prompt whole, numpy has the formula.

Each step of `generate` a logits processor feeds prompt and answer of each row, alone and without a cache, catches what
enters every decoder layer at the last position, and computes in float64 what becomes of the scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import GenerationMixin, LogitsProcessor, LogitsProcessorList

from tests.engine.compare import DETAILS
from tests.engine.contrasted import extended
from tests.engine.masked import decoder_layers, decoder_of

Numbers = NDArray[np.float64]
Formula = Callable[[Numbers, list[Numbers], "Ending"], Numbers]
"""From scores (V,), the states (D,) that entered each layer and what ends the model, to other scores."""


class Ending:
    """The norm behind the last layer and the output layer of a model, in float64."""

    def __init__(self, model: Any) -> None:
        decoder, self._config = decoder_of(model), model.config.get_text_config()
        norm = decoder.norm if hasattr(decoder, "norm") else decoder.embedding_norm
        kind = type(norm).__name__
        self._centred = "LayerNorm" in kind  # of Cohere
        self._scale = norm.weight.detach().double().numpy() + (
            ("Gemma" in kind and "4" not in kind) or "Qwen3_5" in kind
        )
        self._eps = next(getattr(norm, name) for name in ("variance_epsilon", "eps") if hasattr(norm, name))
        head = model.get_output_embeddings()
        self._weight = head.weight.detach().double().numpy()
        self._bias = 0.0 if head.bias is None else head.bias.detach().double().numpy()
        self._cap = getattr(self._config, "final_logit_softcapping", None)

    def logits(self, states: Numbers, normed: bool) -> Numbers:
        """(V,) of states (D,)."""
        if normed:
            states = states - states.mean() * self._centred
            states = states / np.sqrt(np.mean(states**2) + self._eps) * self._scale
        made = self._weight @ states + self._bias
        return made if self._cap is None else self._cap * np.tanh(made / self._cap)


def log_softmax(values: Numbers) -> Numbers:
    """Logarithms of probabilities."""
    shifted: Numbers = values - values.max()
    return shifted - np.log(np.exp(shifted).sum())


@contextmanager
def entering(model: Any, found: list[Numbers]) -> Iterator[None]:
    """Catch the states (D,) at the last position that enter each decoder layer."""

    def note(module: Any, args: Any, kwargs: Any) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        found.append(hidden[0, -1].detach().double().numpy())

    handles = [layer.register_forward_pre_hook(note, with_kwargs=True) for layer in decoder_layers(model)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@dataclass
class ByLayers(LogitsProcessor):
    """Changes the scores of rows that show pictures; None among `prompts` leaves a row alone."""

    model: Any
    prompts: Sequence[dict[str, Any] | None]
    formula: Formula
    length: int
    around: Callable[[int], AbstractContextManager[None]] = lambda row: nullcontext()

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        repeats, out, ending = len(input_ids) // len(self.prompts), scores.clone(), Ending(self.model)
        for row, answer in enumerate(input_ids[:, self.length :]):
            prompt = self.prompts[row // repeats]
            if prompt is None:
                continue
            states: list[Numbers] = []
            with self.around(row // repeats), entering(self.model, states):
                real = self.model(**extended(prompt, answer[None]), use_cache=False).logits[0, -1]
            changed = self.formula(real.double().numpy(), states, ending)
            out[row] = torch.from_numpy(log_softmax(changed) if repeats > 1 else changed).to(scores)
        return out


@torch.no_grad()
def expect(
    model: Any,
    batch: dict[str, Any],
    prompts: Sequence[dict[str, Any] | None],
    formula: Formula,
    around: Callable[[int], AbstractContextManager[None]] = lambda row: nullcontext(),
    **options: Any,
) -> Any:
    """What `generate` should give under a strategy that reads early layers, the model of a row run inside `around`."""
    details: dict[str, Any] = {**options, **DETAILS}
    whole = ByLayers(model, prompts, formula, batch["input_ids"].shape[1], around)
    return GenerationMixin.generate(model, **batch, **details, logits_processor=LogitsProcessorList([whole]))
