"""Streaming: each sentence is handed out as soon as it is judged, while the model writes on."""

from __future__ import annotations

import contextvars
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from vtokens.filter.actions.action import ABSTENTION, Outcome
from vtokens.filter.actions.regenerate import JudgedResponse
from vtokens.filter.judged import Judged
from vtokens.filter.report import ResponseReport

_END = object()


@dataclass(frozen=True)
class Event:
    """A sentence whose fate is decided.

    Attributes:
        what: "kept", "flagged", "redacted", "regenerated" or "abstained".
        text: what to show now, behind all texts before: the sentence and what joins it to them. Empty if it is dropped.
        before: the sentence as the model wrote it; empty for the end of the text.
        p: the probability that something in it is unsupported.
        mentions: what it says, judged.
    """

    what: str
    text: str
    before: str = ""
    p: float = 0.0
    mentions: tuple[Judged, ...] = ()


class SentenceEvents:
    """Turns judged sentences into events, joining what is kept as `actions.without` does."""

    def __init__(self) -> None:
        self._join: str | None = None

    def event(self, report: ResponseReport, number: int, what: str, before: str = "") -> Event:
        """The event of sentence `number`; `before` if it was written again."""
        sentence = report.sentences[number]
        mentions = tuple(report.mentions[i] for i in sentence.mentions)
        if what == "redacted":
            return Event(what, "", sentence.text, sentence.p, mentions)
        # Sentences may have been left out before the first that is shown.
        text = (report.response[: report.spans[0][0]] if self._join is None else self._join) + sentence.text
        after = report.spans[number + 1][0] if number + 1 < len(report.spans) else sentence.end
        self._join = report.response[sentence.end : after]
        return Event(what, text, before or sentence.text, sentence.p, mentions)

    def end(self, report: ResponseReport) -> Iterator[Event]:
        """What stands behind the last sentence, if anything does and a sentence was handed out."""
        tail = report.response[report.spans[-1][1] :].rstrip() if report.spans else ""
        if tail and self._join is not None:
            yield Event("kept", tail)


def live(
    write: Callable[[Callable[[JudgedResponse, int], bool]], JudgedResponse],
    finish: Callable[[JudgedResponse, bool], Outcome],
    action: str,
) -> Iterator[Event]:
    """Hand out sentences while `write` runs in a thread of its own.

    The model is busy until the iterator is exhausted or closed.

    Args:
        write: lets the model answer; calls what it is given with the response so far and how many sentences of it are
            complete, and stops if that says so; returns all that was written.
        finish: for "regenerate", once a sentence is flagged: the outcome of the whole response, from what was written
            and whether it was stopped before its end.
        action: what to do about flagged sentences.
    """
    decided: queue.Queue[Any] = queue.Queue()
    left, stopped = threading.Event(), threading.Event()

    def heard(written: JudgedResponse, complete: int) -> bool:
        decided.put((written, complete))
        if left.is_set() or (action in ("abstain", "regenerate") and any(written.report.bad()[:complete])):
            stopped.set()
        return stopped.is_set()

    def work() -> None:
        try:
            written = write(heard)
            decided.put((written, len(written.report.spans)))
        except BaseException as error:  # handed to whoever listens
            decided.put(error)
        decided.put(_END)

    # A thread has an empty context of its own: blocks that the caller is inside go along.
    thread = threading.Thread(target=contextvars.copy_context().run, args=(work,), daemon=True)
    thread.start()
    try:
        yield from _events(iter(decided.get, _END), lambda written: finish(written, stopped.is_set()), action)
    finally:
        left.set()
        thread.join()


def _events(decided: Iterator[Any], finish: Callable[[JudgedResponse], Outcome], action: str) -> Iterator[Event]:
    sentences, done, report = SentenceEvents(), 0, None
    for item in decided:
        if isinstance(item, BaseException):
            raise item
        written, complete = item
        report = written.report
        bad = report.bad()
        for number in range(done, complete):
            if bad[number] and action == "abstain":
                sentence = report.sentences[number]
                yield Event("abstained", f" {ABSTENTION}" if done else ABSTENTION, sentence.text, sentence.p)
                return
            if bad[number] and action == "regenerate":
                for item in decided:
                    if isinstance(item, BaseException):
                        raise item
                    written, _ = item
                yield from _rewritten(sentences, number, finish(written))
                return
            what = {"flag": "flagged", "redact": "redacted"}[action] if bad[number] else "kept"
            yield sentences.event(report, number, what)
            done = number + 1
    if report is not None:
        yield from sentences.end(report)


def _rewritten(sentences: SentenceEvents, first: int, outcome: Outcome) -> Iterator[Event]:
    edits = {edit.sentence: edit for edit in outcome.edits}
    for number in range(first, len(outcome.report.spans)):
        edit = edits.get(number)
        yield sentences.event(outcome.report, number, edit.what if edit else "kept", edit.before if edit else "")
    yield from sentences.end(outcome.report)
