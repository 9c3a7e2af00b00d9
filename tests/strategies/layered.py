"""An oracle of strategies that read early layers: an untouched model is fed each prompt whole, numpy has the formula.

Each step of `generate` a logits processor feeds prompt and answer of each row, alone and without a cache, catches what
enters every decoder layer at the last position, and computes in float64 what becomes of the scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import vtokens
from tests.engine.cases import MODES, model
from tests.engine.compare import DETAILS
from tests.engine.contrasted import by_row, check_answers, extended
from tests.engine.masked import decoder_layers, decoder_of
from tests.families import ALL, STATEFUL, image, inputs
from vtokens.adapters import adapter_class

Numbers = NDArray[np.float64]
Formula = Callable[[Numbers, list[Numbers], "Ending"], Numbers]
"""From scores (V,), the states (D,) that entered each layer and what ends the model, to other scores."""
Around = Callable[[int], AbstractContextManager[None]]
ABLE = [family for family in (*ALL, *STATEFUL) if "logits" in adapter_class(family).anatomy.stages]
"""Families whose models make logits that strategies may change."""


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


def expect(
    model: Any,
    batch: dict[str, Any],
    prompts: Sequence[dict[str, Any] | None],
    formula: Formula,
    around: Around = lambda row: nullcontext(),
    **options: Any,
) -> Any:
    """What `generate` should give under a strategy that reads early layers, the model of a row run inside `around`.

    None among `prompts` leaves a row alone.
    """
    ending = Ending(model)

    def changed(row: int, prompt: dict[str, Any], answer: Tensor, scores: Tensor) -> Tensor:
        states: list[Numbers] = []
        with around(row), entering(model, states):
            real = model(**extended(prompt, answer), use_cache=False).logits[0, -1]
        return torch.from_numpy(formula(real.double().numpy(), states, ending))

    changes = [None if prompt is None else partial(changed, row, prompt) for row, prompt in enumerate(prompts)]
    return by_row(model, batch, changes, **options)


def check(
    family: str,
    strategy: Any,
    batch: dict[str, Any],
    prompts: Sequence[dict[str, Any] | None],
    formula: Formula,
    around: Around = lambda row: nullcontext(),
    mode: str = "greedy",
) -> None:
    """`generate` in a mode of `MODES` gives under a strategy what `expect` does of the untouched model."""
    options = {**MODES[mode], "max_new_tokens": 2, "eos_token_id": 10**6}
    torch.manual_seed(0)
    expected = expect(model(family, "plain"), batch, prompts, formula, around, **options)
    target = model(family, "pruned")
    with vtokens.attach(target, strategy):
        torch.manual_seed(0)
        got = target.generate(**batch, **options, **DETAILS)
    check_answers(got, expected, mode == "beam")


def samples(family: str) -> tuple[dict[str, Any], list[dict[str, Any] | None]]:
    """A padded batch of samples with one, two and no pictures, and each by itself; None for that without."""
    texts = ["Is there a cat?", "Compare <image> with <image>", "hello there"]
    groups = [[image(100, 60, seed=0)], [image(84, 112, seed=1), image(60, 60, seed=2)], []]
    rows = [dict(inputs(family, [text], [group])) if group else None for text, group in zip(texts, groups, strict=True)]
    return dict(inputs(family, texts, groups)), rows
