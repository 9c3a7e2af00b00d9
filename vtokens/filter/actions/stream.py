"""Streaming: each sentence is handed out as soon as it is judged, while the model writes on."""

from __future__ import annotations

import contextvars
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from vtokens.filter.actions.action import ABSTENTION, Outcome
from vtokens.filter.actions.mend import pieces, waits_for
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
    """Turns judged sentences into events, joining and mending what is kept as `actions.without` does.

    A clause of which something has to go, and that others in its sentence may depend on, waits for the sentence's end.
    """

    def __init__(self) -> None:
        self._what: list[tuple[str, str]] = []
        self._out = 0

    @property
    def known(self) -> int:
        """How many sentences were decided about."""
        return len(self._what)

    def events(self, report: ResponseReport, what: str, before: str = "", done: bool = False) -> Iterator[Event]:
        """What the fate of the next sentence lets out; `before` if it was written again, `done` if none follows."""
        self._what.append((what, before))
        known, spans = len(self._what), report.spans
        drop = [one == "redacted" for one, _ in self._what] + [False] * (len(spans) - known)
        while self._out < known:
            last = waits_for(report.response, spans, self._out)
            # Where the text ends for now, its sentence may go on.
            if last is not None and (last >= known or (last == len(spans) - 1 and not done)):
                return
            shown, _ = pieces(report.response, spans, drop)
            yield self._event(report, self._out, shown[self._out])
            self._out += 1

    def _event(self, report: ResponseReport, number: int, text: str | None) -> Event:
        what, before = self._what[number]
        sentence = report.sentences[number]
        mentions = tuple(report.mentions[i] for i in sentence.mentions)
        if text is None:
            return Event("redacted", "", sentence.text, sentence.p, mentions)
        return Event(what, text, before or sentence.text, sentence.p, mentions)

    def end(self, report: ResponseReport) -> Iterator[Event]:
        """What stands behind the last sentence, if anything does and a sentence was handed out."""
        if report.spans:
            _, end = pieces(report.response, report.spans, [what == "redacted" for what, _ in self._what])
            if end.rstrip():
                yield Event("kept", end.rstrip())


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
                yield from _rewritten(sentences, finish(written))
                return
            what = {"flag": "flagged", "redact": "redacted"}[action] if bad[number] else "kept"
            last = complete == len(report.spans) and number + 1 == complete
            yield from sentences.events(report, what, done=last)
            done = number + 1
    if report is not None:
        yield from sentences.end(report)


def _rewritten(sentences: SentenceEvents, outcome: Outcome) -> Iterator[Event]:
    edits = {edit.sentence: edit for edit in outcome.edits}
    count = len(outcome.report.spans)
    for number in range(sentences.known, count):
        edit = edits.get(number)
        what, before = (edit.what, edit.before) if edit else ("kept", "")
        yield from sentences.events(outcome.report, what, before, number + 1 == count)
    yield from sentences.end(outcome.report)
