"""An answer that the hallucination filter judges while it is written, on the model's thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from vtokens.engine import Handle
from vtokens.filter.actions.stream import Event as Sentence
from vtokens.filter.filter import HallucinationFilter
from vtokens.filter.signals import parts_for
from vtokens.loading.media import Medium
from vtokens.serve.answers import Mark, Verdict
from vtokens.serve.asked import ChatRequest, FilterAsked
from vtokens.serve.jobs import Began, Did, End, Failed, Reason, Text
from vtokens.serve.marks import changed, mark, marks_of, verdict
from vtokens.strategies import Strategy, format_spec


def options(asked: ChatRequest, most: int) -> dict[str, Any]:
    """What `generate` is told of a request: how tokens are chosen, and how many at most."""
    found: dict[str, Any] = {"max_new_tokens": most}
    if asked.cold:
        return found | {"do_sample": False}
    given = {name: getattr(asked, name) for name in ("temperature", "top_p") if getattr(asked, name) is not None}
    return found | given | ({"do_sample": True} if given else {})


@dataclass(frozen=True)
class Judged:
    """The filter's verdict; comes before the end."""

    verdict: Verdict


class _Watch(StoppingCriteria):
    """Counts tokens, and ends what nobody waits for."""

    def __init__(self, until: float) -> None:
        self.count, self.until, self.left = 0, until, threading.Event()

    @property
    def reason(self) -> Reason:
        """Why it ended, were it now."""
        return "cancelled" if self.left.is_set() else "deadline" if time.monotonic() > self.until else "stop"

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        self.count += len(input_ids)
        return torch.full((len(input_ids),), self.reason != "stop", dtype=torch.bool, device=input_ids.device)


@dataclass
class Filtering:
    """One answer; called on the model's thread with nothing beside it.

    Attributes:
        hf, handle: the filter, and the model's attachment.
        asked: what the filter is to do.
        program: the strategies.
        prompt: as text, with the places of its pictures.
        media: in their order.
        length: tokens of the prompt.
        options: of `generate`: a config of them would be in the way of what is written again.
        seed: of sampling; None draws one.
        streamed: whether each sentence is told when it is judged.
        seconds: until it ends.
        on: gets its events.
        submitted: when it was.
    """

    hf: HallucinationFilter
    handle: Handle
    asked: FilterAsked
    program: tuple[Strategy, ...]
    prompt: str
    media: Sequence[Medium]
    length: int
    options: Mapping[str, Any]
    seed: int | None
    streamed: bool
    seconds: float
    on: Callable[[Began | Text | Judged | End | Failed], None]
    submitted: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self._watch = _Watch(self.submitted + self.seconds)
        self._marks: list[Mark] = []
        self._said = ""

    def cancel(self) -> None:
        """End it at the next token."""
        self._watch.left.set()

    def over(self, future: Future[None]) -> None:
        """Say that it never began, where its time or the server's was over before."""
        if future.cancelled():
            self.on(End("drained", (), time.monotonic() - self.submitted))
        elif (error := future.exception()) is not None:
            self.on(Failed(error if isinstance(error, Exception) else RuntimeError(str(error))))

    def __call__(self) -> None:
        """Write it."""
        self._waited, self._before = time.monotonic() - self.submitted, self.handle.record
        self._did: Did | None = None
        try:
            with self.handle.running(*self.program), torch.random.fork_rng():
                torch.seed() if self.seed is None else torch.manual_seed(self.seed)
                self._write()
            if self._watch.reason == "stop":
                self.on(Judged(verdict(self.hf, self.asked, self.media, self._marks)))
            reason = self._watch.reason
            most = self.options.get("max_new_tokens")
            if (
                reason == "stop"
                and most is not None
                and self._watch.count >= most
                and self.asked.action != "regenerate"
            ):
                reason = "length"
            ids = (0,) * self._watch.count  # as many as were written; which they were, the filter does not say
            self.on(End(reason, ids, time.monotonic() - self.submitted, self._did))
        except Exception as error:
            self.on(Failed(error))

    def _write(self) -> None:
        how: dict[str, Any] = {
            "risk": self.asked.risk,
            "threshold": self.asked.threshold,
            "stopping_criteria": StoppingCriteriaList([self._watch]),
            **self.options,
        }
        depth = self.hf.model.config.get_text_config().num_hidden_layers
        whole = parts_for(self.hf.judge.signals, depth).passes or (self.asked.action == "abstain" and not self.streamed)
        if not whole:
            for sentence in self.hf.stream(list(self.media), self.prompt, self.asked.action, **how):
                self._begin()
                self._note(sentence)
                self._say(sentence.text)
        else:
            outcome = self.hf.generate(list(self.media), self.prompt, self.asked.action, **how)
            self._begin()
            self._marks = list(marks_of(outcome))
            self._say(outcome.text)
        self._begin()

    def _begin(self) -> None:
        """Tell what the strategies did, once the prompt was read."""
        if self._did is None:
            [report] = self.handle.row_reports([self.length], self._before)
            sample = report.sample
            tokens = sum(kept.picture.tokens for kept in sample.pictures)
            counts = (report.length, round(report.fed), tokens, round(sample.average_tokens))
            name = format_spec(self.program)
            self._did = Did(name, *counts, report.flops, report.flops_full, sample.pictures)
            self.on(Began(self._waited, 1, self._did))

    def _say(self, text: str) -> None:
        self._said += text
        if text:
            self.on(Text(text, ()))

    def _note(self, sentence: Sentence) -> None:
        start = len(self._said)
        if sentence.what == "flagged":
            self._marks += [mark(one) for one in sentence.mentions if one.flagged]
        elif sentence.what in ("redacted", "regenerated", "abstained"):
            self._marks.append(changed(start, sentence.text, sentence.before, sentence.p, sentence.what))
