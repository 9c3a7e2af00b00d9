"""What is asked of the batcher, and the events that answer it.

Events of one job come in this order, all of them from the thread that owns the model:

    Began?  Text*  (End | Failed)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor
from transformers import GenerationConfig

from vtokens.core.kept import KeptPicture
from vtokens.serve.adjust import Adjust
from vtokens.strategies import Strategy

Reason = Literal["stop", "length", "deadline", "cancelled", "drained"]


@dataclass(frozen=True, eq=False)
class Job:
    """One prompt, and what is asked about it.

    Attributes:
        inputs: the prompt as the model's processor made it: a batch of one, on the CPU.
        settings: how to write the answer. What is None takes the model's default, as in `generate(generation_config=)`;
            `max_new_tokens` or `max_length` has to be there.
        program: the strategies that run on it (`vtokens.strategies.parse`), in place of what is attached.
        seed: of sampling: the answer is that of `torch.manual_seed(seed)` and `generate` by itself. None draws one.
        logprobs: None for none, 0 for those of the tokens written, n for the n likeliest too; of the distribution that
            the model gave, before temperature and all else.
        deadline: seconds from its submission after which it ends; None for no limit.
        owner: whose it is: owners take turns.
        adjust: penalties and biases that `settings` have no place for.
    """

    inputs: Mapping[str, Tensor]
    settings: GenerationConfig
    program: tuple[Strategy, ...] = ()
    seed: int | None = None
    logprobs: int | None = None
    deadline: float | None = None
    owner: str = ""
    adjust: Adjust | None = None


@dataclass(frozen=True)
class Did:
    """What strategies did to one prompt.

    Attributes:
        strategy: the strategies as text, "none" if there are none.
        prompt_tokens: positions of the prompt, placeholders among them.
        fed: positions that a decoder layer saw of it, averaged over the layers and rounded.
        image_tokens: its visual tokens.
        kept: those that a decoder layer saw, averaged over the layers and rounded.
        flops, flops_full: decoder FLOPs of its prefill, as run and without strategies.
        pictures: what decoder layers saw of each picture.
        choices: a line for each strategy that was chosen for the model (`auto`): what it stands for, and why.
    """

    strategy: str
    prompt_tokens: int
    fed: int
    image_tokens: int
    kept: int
    flops: int
    flops_full: int
    pictures: tuple[KeptPicture, ...] = field(default=(), repr=False)
    choices: tuple[str, ...] = ()

    @property
    def flops_saved(self) -> float:
        """The share of the prefill's FLOPs that was not spent, 0 to 1."""
        return 1 - self.flops / self.flops_full if self.flops_full else 0.0


@dataclass(frozen=True)
class Token:
    """A token of the answer.

    Attributes:
        id: its number.
        text: the characters that it added; of a character in several tokens the last one has it.
        logprob: the logarithm of its probability; None if it was not asked for.
        top: the likeliest tokens at its place, with theirs, the likeliest first.
    """

    id: int
    text: str
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Began:
    """The prompt was read.

    Attributes:
        waited: seconds from submission until its batch began.
        rows: prompts in that batch.
        did: what strategies did to it.
    """

    waited: float
    rows: int
    did: Did


@dataclass(frozen=True)
class Text:
    """A piece of the answer: whole characters, and no part of a stop string. `text` is that of `tokens`, cut there."""

    text: str
    tokens: tuple[Token, ...]


@dataclass(frozen=True)
class End:
    """The answer is over.

    Attributes:
        reason: "stop" (a stop string or a token that ends answers), "length", "deadline", "cancelled", or "drained".
        ids: the tokens that were written, special ones and the one that ends the answer among them.
        seconds: since its submission.
        did: what strategies did to the prompt; None if it was never read.
    """

    reason: Reason
    ids: tuple[int, ...]
    seconds: float
    did: Did | None = None

    @property
    def tokens(self) -> int:
        """How many were written."""
        return len(self.ids)


@dataclass(frozen=True)
class Failed:
    """There is no answer, or none further.

    Attributes:
        error: why; of this prompt alone.
    """

    error: Exception


Event = Began | Text | End | Failed


class Full(Exception):
    """The queue holds all that it may.

    Attributes:
        queued: jobs in it.
        retry_after: seconds that they will take, by the pace of the last batches.
    """

    def __init__(self, queued: int, retry_after: float) -> None:
        super().__init__(f"{queued} requests are waiting already: try again in about {retry_after:.1f} s")
        self.queued, self.retry_after = queued, retry_after


class Draining(Exception):
    """No more work is taken."""

    def __init__(self) -> None:
        super().__init__("the server is shutting down and takes no more requests")
