"""The oracle of the `logits` stage: an untouched model, the second prompt fed whole at every step, the formula by hand.

Nothing of the engine takes part. Each step of `generate` a logits processor gives the negative prompt and the tokens so
far to the model without a cache, row by row, and combines what it says with the scores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationMixin, LogitsProcessor, LogitsProcessorList

from tests.engine.compare import DETAILS
from tests.engine.masked import decoder_of, masking
from tests.limits import close_pass

Combine = Callable[[Tensor, Tensor, int], Tensor]
"""From positive and negative logits (V,), and which token is asked for, counted from 1, to contrasted ones."""
Change = Callable[[Tensor, Tensor], Tensor]
"""From the tokens so far of an answer (1, T), and scores (V,) of the next one, to other scores."""


def plausible(positive: Tensor, values: Tensor, beta: float) -> Tensor:
    """`values` without the tokens whose probability is below `beta` times the best."""
    chance = positive.softmax(-1)
    return torch.where(chance >= beta * chance.max() * (1 - 1e-6), values, -torch.inf)


def ruled_out(logits: Tensor) -> Tensor:
    """Logits as the formulas have them: -inf for tokens whose probability is less than single precision can hold."""
    return logits.masked_fill(logits.float().softmax(-1) == 0, -torch.inf)


def contrasted(alpha: float, beta: float) -> Combine:
    """What VCD, AvisC, DAMRO and prompt contrast share."""
    return lambda real, other, step: plausible(real, (1 + alpha) * real - alpha * other, beta)


def guided(gamma: float, beta: float) -> Combine:
    """PAI's refinement."""

    def combine(real: Tensor, other: Tensor, step: int) -> Tensor:
        real, other = real.log_softmax(-1), other.log_softmax(-1)
        return plausible(real, gamma * (real - other) + other, beta)

    return combine


def forgetful(forgetting: float, beta: float) -> Combine:
    """M3ID."""

    def combine(real: Tensor, other: Tensor, step: int) -> Tensor:
        real, other = real.log_softmax(-1), other.log_softmax(-1)
        left = torch.exp(torch.tensor(-forgetting * step))
        return plausible(real, real + (1 - left) / left * (real - other), beta)

    return combine


@dataclass(frozen=True)
class Partly:
    """A prompt of a single row of which the model is to see a part.

    Attributes:
        prompt: its inputs.
        dropped: for each decoder layer bool (1, N), positions that it does not see.
        blank: bool (1, N), visual tokens that are zeros.
        given: (1, N, D), what the decoder is fed at its positions; None for what the model makes of the prompt.
    """

    prompt: dict[str, Any]
    dropped: Sequence[Tensor] = ()
    blank: Tensor | None = None
    given: Tensor | None = None

    def logits(self, model: Any, answer: Tensor) -> Tensor:
        """(V,) behind the tokens (1, T) of an answer."""
        with ExitStack() as stack:
            if self.blank is not None:
                hook = decoder_of(model).register_forward_pre_hook(partial(_zero, self.blank), with_kwargs=True)
                stack.callback(hook.remove)
            if self.given is not None:
                hook = decoder_of(model).register_forward_pre_hook(partial(_feed, self.given), with_kwargs=True)
                stack.callback(hook.remove)
            if hasattr(model.config, "visual_indicator_token_ids"):  # Ovis2 embeds these otherwise, but not in answers
                words = partial(_said, model.get_input_embeddings()(answer))
                stack.callback(decoder_of(model).register_forward_pre_hook(words, with_kwargs=True).remove)
            if self.dropped:
                stack.enter_context(masking(model, self.dropped))
            found: Tensor = model(**extended(self.prompt, answer), use_cache=False).logits[0, -1].float()
        return found


def _zero(blank: Tensor, module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    embeds, changed = kwargs["inputs_embeds"].clone(), {}
    embeds[:, : blank.shape[1]][blank] = 0
    if kwargs.get("deepstack_visual_embeds") is not None:  # nothing is added to them behind layers either
        gone = torch.nn.functional.pad(blank, (0, embeds.shape[1] - blank.shape[1]))[kwargs["visual_pos_masks"]]
        stack = [part.masked_fill(gone[:, None], 0) for part in kwargs["deepstack_visual_embeds"]]
        changed = {"deepstack_visual_embeds": stack}
    return args, {**kwargs, "inputs_embeds": embeds, **changed}


def _feed(given: Tensor, module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    return args, {**kwargs, "inputs_embeds": torch.cat([given, kwargs["inputs_embeds"][:, given.shape[1] :]], 1)}


def _said(words: Tensor, module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    before = kwargs["inputs_embeds"].shape[1] - words.shape[1]
    return args, {**kwargs, "inputs_embeds": torch.cat([kwargs["inputs_embeds"][:, :before], words], 1)}


@dataclass
class ByRow(LogitsProcessor):
    """Changes scores row by row.

    Attributes:
        changes: of each row of the batch, before beams repeat it; None leaves a row alone.
        length: positions of the prompts, padding included.
    """

    changes: Sequence[Change | None]
    length: int

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        repeats, out = len(input_ids) // len(self.changes), scores.clone()
        for row, answer in enumerate(input_ids[:, self.length :]):
            change = self.changes[row // repeats]
            if change is not None:
                changed = change(answer[None], scores[row])
                # Beam search hands in log-probabilities and wants such back.
                out[row] = changed.log_softmax(-1) if repeats > 1 else changed
        return out


@torch.no_grad()
def by_row(model: Any, batch: dict[str, Any], changes: Sequence[Change | None], **options: Any) -> Any:
    """What `generate` gives where the scores of each row are changed; all numbers of the steps are in `scores`."""
    details: dict[str, Any] = {**options, **DETAILS}
    processors = LogitsProcessorList([ByRow(changes, batch["input_ids"].shape[1])])
    # Janus' own `generate` hands no logits processors on to the usual one.
    return GenerationMixin.generate(model, **batch, **details, logits_processor=processors)


def extended(prompt: dict[str, Any], answer: Tensor) -> dict[str, Any]:
    """Inputs of one row with the tokens (1, T) of an answer behind them."""
    more = {
        "input_ids": answer,
        "attention_mask": torch.ones_like(answer),
        "mm_token_type_ids": torch.zeros_like(answer),
    }
    return {k: torch.cat([v, more[k].to(v.dtype)], 1) if k in more else v for k, v in prompt.items()}


def without_pictures(prompt: dict[str, Any], model: Any) -> dict[str, Any] | Partly:
    """The text of a single row; Ovis2 embeds tokens between tiles otherwise if pictures are there, so it gets these."""
    text = prompt["input_ids"][0] != model.config.image_token_id
    ids = prompt["input_ids"][:, text]
    alone = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    kinds = prompt.get("mm_token_type_ids")
    if kinds is not None and bool(kinds[:, text].any()):  # what frames Molmo 2's pictures is of their kind
        alone["mm_token_type_ids"] = kinds[:, text]
    if "token_type_ids" in prompt:
        alone["token_type_ids"] = prompt["token_type_ids"][:, text]
    if not hasattr(model.config, "visual_indicator_token_ids"):
        return alone
    fed: list[Tensor] = []
    decoder = decoder_of(model)
    hook = decoder.register_forward_pre_hook(lambda *call: fed.append(call[2]["inputs_embeds"]), with_kwargs=True)
    model(**prompt)
    hook.remove()
    return Partly(alone, given=fed[0][:, text])


def expect(
    model: Any,
    batch: dict[str, Any],
    prompts: Sequence[dict[str, Any] | Partly | None],
    combine: Combine,
    **options: Any,
) -> Any:
    """What `generate` should give under a contrastive strategy, by an untouched model; other prompts are of one row."""

    def against(prompt: dict[str, Any] | Partly, answer: Tensor, scores: Tensor) -> Tensor:
        other = prompt if isinstance(prompt, Partly) else Partly(prompt)
        return combine(scores, other.logits(model, answer), answer.shape[1] + 1)

    changes = [None if prompt is None else partial(against, prompt) for prompt in prompts]
    return by_row(model, batch, changes, **options)


def check_answers(got: Any, expected: Any, beams: bool = False) -> None:
    """The same tokens, and step by step the same contrasted logits up to a constant."""
    assert torch.equal(got.sequences, expected.sequences)
    if beams:
        close_pass(got.sequences_scores, expected.sequences_scores)
        return
    for mine, theirs in zip(map(ruled_out, got.scores), expected.scores, strict=True):
        assert torch.equal(mine.isinf(), theirs.isinf())
        close_pass(mine.log_softmax(-1), theirs.log_softmax(-1), passes=2)
