"""Task vectors: what some heads put out behind many examples, put in their place where a question has none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from vtokens.adapters import adapter_for
from vtokens.calibrate.tensors import read_tensors
from vtokens.calibrate.vectors import head_outputs
from vtokens.core.facts import Facts
from vtokens.core.kept_logits import last_alone
from vtokens.engine.attach import joined
from vtokens.strategies.base import Strategy
from vtokens.strategies.needs import Needs
from vtokens.strategies.views.heads import Heads

RATE, LEAST, START = 0.1, 1e-3, -1.0
"""Of the release: Adam's step, the least probability of either choice, and where its logarithm's odds begin."""


@dataclass(frozen=True)
class _Pressed(Strategy):
    """Puts means of other prompts in the place of what some heads put out, in the rows that write the answer."""

    name: ClassVar[str] = "task vector"
    chosen: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict, compare=False)

    def needs(self, facts: Facts) -> Needs:
        return Needs(attend=tuple(self.chosen), minds_sizes=True)

    def at_attend(self, heads: Heads) -> None:
        which, means = (one.to(heads.query.device) for one in self.chosen[heads.layer])
        values = heads.at(heads.writing).clone()
        values[:, which] = means[None, :, None].to(values.dtype)
        heads.replace(heads.writing, values)


@dataclass(frozen=True)
class TaskVector:
    """A task, pressed into what some heads put out at the end of a prompt.

    While an answer is written, outputs of these heads are replaced by their mean over prompts that held examples of the
    task (Multimodal Task Vectors, Huang et al., arXiv:2406.15334): the examples are not in the prompt any more. Prompts
    without pictures are left alone.

    Attributes:
        heads: int64 (K, 2), layer (counted among those with attention) and head.
        means: float32 (K, D), what each puts out.
        decoder: the decoder that they are of, as tables name it.
    """

    heads: Tensor
    means: Tensor
    decoder: str

    @contextmanager
    def on(self, model: PreTrainedModel) -> Iterator[None]:
        """Let `model` answer so inside a `with` block, beside whatever is attached to it.

        Raises:
            ValueError: the model has another decoder, or something is attached that this cannot run beside.
        """
        facts = adapter_for(model).facts
        if facts.decoder != self.decoder:
            raise ValueError(
                f"this task vector is of the decoder {self.decoder!r}, and the model's is {facts.decoder!r}: press its "
                "own"
            )
        with joined(model, pressed(facts, self.heads, self.means)):
            yield

    def save(self, path: str | Path) -> None:
        """Write a safetensors file."""
        save_file({"heads": self.heads.contiguous(), "means": self.means.contiguous()}, path, {"decoder": self.decoder})

    @classmethod
    def load(cls, path: str | Path) -> TaskVector:
        """Read what `save` wrote.

        Raises:
            OSError: there is no such file.
            ValueError: it is something else.
        """
        (heads, means), (decoder,) = read_tensors(path, ("heads", "means"), ("decoder",), "task vector")
        return cls(heads, means, decoder)


def pressed(facts: Facts, heads: Tensor, means: Tensor) -> _Pressed:
    """The strategy that puts `means` (K, D) in the place of what `heads` (K, 2) put out."""
    chosen = {}
    for number, layer in enumerate(facts.attending):
        own = heads[:, 0] == number
        if own.any():
            chosen[layer] = heads[own, 1], means[own]
    return _Pressed(chosen)


def press(
    model: PreTrainedModel,
    shown: Sequence[dict[str, Any]],
    asked: Sequence[tuple[dict[str, Any], int]],
    rounds: int = 600,
    samples: int = 8,
    seed: int = 0,
) -> TaskVector:
    """Find the heads that carry a task, and what they put out.

    Outputs are averaged over prompts with examples. Which heads are replaced by that is found by REINFORCE, as in the
    release: in each round `samples` choices are drawn, each head with a probability of its own, and held against each
    other by the cross-entropy of the first token of an answer to a prompt without examples. It costs a pass for each
    prompt with examples, and rounds * samples of those without. Heads that are likelier than not stay.

    Args:
        model: of a supported family; strategies attached to it act.
        shown: processor outputs of prompts that hold examples and end in a question, a row or more each.
        asked: of prompts without examples, a row each, and the id of the first token of the answer.
        rounds, samples: how long, and how many choices are compared; the defaults are the release's.
        seed: of what is drawn.

    Raises:
        ValueError: nothing is shown or asked, fewer than two samples, a prompt without pictures, or no head that
            carries it.
    """
    for name, least, value in (("shown", 1, len(shown)), ("asked", 1, len(asked)), ("rounds", 1, rounds)):
        if value < least:
            raise ValueError(f"{name} has {value}: at least {least} is needed")
    if samples < 2:
        raise ValueError(f"samples={samples} cannot be held against each other: at least 2 are needed")
    for name, batch in (("shown", shown[0]), *(("asked", one) for one, _ in asked)):
        if not any(bool(places.any()) for places in adapter_for(model).placeholders(batch).values()):
            raise ValueError(f"a prompt that is {name} has no picture: heads are replaced behind pictures alone")
    facts = adapter_for(model).facts
    means = torch.cat([head_outputs(model, batch) for batch in shown]).mean(0).cpu()
    odds = torch.full(means.shape[:2], START, requires_grad=True)
    adam, random = torch.optim.Adam([odds], lr=RATE), torch.Generator().manual_seed(seed)
    for _ in range(rounds):
        batch, token = asked[int(torch.randint(len(asked), (1,), generator=random))]
        likely = odds.sigmoid().clamp(LEAST, 1 - LEAST)
        drawn = torch.rand(samples, *odds.shape, generator=random) < likely.detach()
        choices = [one.nonzero() for one in drawn]
        losses = torch.tensor(
            [surprise(model, facts, batch, token, one, means[one[:, 0], one[:, 1]]) for one in choices]
        )
        worth = (losses - losses.mean()) / (losses.std() + LEAST)
        chance = torch.where(drawn, likely, 1 - likely).log().sum((1, 2))
        adam.zero_grad()
        (chance * worth).sum().backward()
        adam.step()
    heads = (odds.detach() > 0).nonzero()
    if not len(heads):
        raise ValueError(
            f"no head is likelier than not to carry this task after {rounds} rounds: more rounds, or other examples"
        )
    return TaskVector(heads, means[heads[:, 0], heads[:, 1]], facts.decoder)


@torch.no_grad()
def surprise(
    model: PreTrainedModel, facts: Facts, batch: dict[str, Any], token: int, heads: Tensor, means: Tensor
) -> float:
    """The cross-entropy of a token behind a prompt where heads, int64 (K, 2), put out `means` (K, D)."""
    with joined(model, pressed(facts, heads, means)):
        logits = model(**batch, **last_alone(model)).logits[:1, -1].float()
    return float(torch.nn.functional.cross_entropy(logits, torch.tensor([token], device=logits.device)))
