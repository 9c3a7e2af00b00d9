"""Regeneration: the response is cut where a flagged sentence begins, and the model writes on with other settings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from vtokens.engine.attach import joined
from vtokens.filter.actions.action import Edit, Outcome
from vtokens.filter.actions.mend import pieces, text_of
from vtokens.filter.mentions.base import Span
from vtokens.filter.report import ResponseReport
from vtokens.loading.media import Medium
from vtokens.strategies import parse

RETRIES = ("ban",)
"""How a sentence is written again, one way after the other."""


class JudgedResponse(NamedTuple):
    """A response: what was found in it, its tokens, and the characters of each."""

    report: ResponseReport
    ids: list[int]
    spans: list[Span]


class Generation(Protocol):
    """What regeneration needs of a model: continuing given responses, and judging the results."""

    def write(
        self,
        images: Sequence[Sequence[Medium]],
        prompts: Sequence[str],
        begun: Sequence[Sequence[int]],
        banned: Sequence[Sequence[Sequence[int]]] | None = None,
        **generate_kwargs: Any,
    ) -> list[list[int]]:
        """Whole responses as token ids, each beginning with what was `begun`, without the sequences `banned` for it."""
        ...

    def read(
        self, images: Sequence[Sequence[Medium]], prompts: Sequence[str], responses: Sequence[Sequence[int]]
    ) -> list[JudgedResponse]:
        """Judge given responses."""
        ...


@dataclass
class _Draft:
    """A response under way.

    Attributes:
        first: the answer as it came.
        now: as it is.
        at: the first sentence that is not settled.
        tries: ways tried on it.
        dropped: settled sentences that are to be left out.
        banned: token sequences of the mentions that were rejected.
    """

    first: JudgedResponse
    now: JudgedResponse
    at: int = 0
    tries: int = 0
    dropped: set[int] = field(default_factory=set)
    banned: list[list[int]] = field(default_factory=list)
    edits: list[Edit] = field(default_factory=list)
    passes: int = 1

    def find(self, ways: int) -> bool:
        """Go to the next flagged sentence that has ways left; False if there is none."""
        bad = self.now.report.bad()
        while self.at < len(bad):
            if bad[self.at] and self.tries < ways:
                return True
            if bad[self.at]:
                sentence = self.now.report.sentences[self.at]
                self.dropped.add(self.at)
                self.edits.append(Edit("redacted", sentence.text, "", sentence.p, sentence=self.at))
            self.at, self.tries = self.at + 1, 0
        return False

    def begun(self) -> list[int]:
        """Tokens up to the end of the sentence before."""
        if not self.at:
            return []
        end = self.now.report.spans[self.at - 1][1]
        return self.now.ids[: next(i for i, span in enumerate(self.now.spans) if span[1] > end)]

    def reject(self) -> list[list[int]]:
        """Tokens of each mention flagged in the sentence, and in those written again before."""
        flagged = [one.mention for one in self.now.report.flagged if one.mention.sentence == self.at]
        self.banned += [[self.now.ids[i] for i in mention.tokens] for mention in flagged]
        return self.banned

    def offer(self, new: JudgedResponse, way: str) -> None:
        """Take a new version if its sentence is not flagged, and does not continue the one before, as "A dog.jpg"."""
        self.passes += 1
        bad = new.report.bad()
        settled = [report.spans[: self.at] for report in (self.now.report, new.report)]
        if settled[0] != settled[1] or (self.at < len(bad) and bad[self.at]):
            self.tries += 1
            return
        old = self.now.report.sentences[self.at]
        text, place = (new.report.sentences[self.at].text, self.at) if self.at < len(bad) else ("", None)
        self.edits.append(Edit("regenerated", old.text, text, old.p, way, place))
        self.now, self.at, self.tries = new, self.at + 1, 0

    def outcome(self) -> Outcome:
        report = self.now.report
        drop = [i in self.dropped for i in range(len(report.spans))]
        shown, end = pieces(report.response, report.spans, drop) if any(drop) else ([], report.response)
        for number, one in enumerate(shown):
            if one is None and not drop[number]:  # what cannot stand without a clause that was dropped
                sentence = report.sentences[number]
                self.edits.append(Edit("redacted", sentence.text, "", sentence.p, sentence=number))
        text = text_of(shown, end).strip()
        return Outcome(text, self.first.report.response, report, tuple(self.edits), self.passes)


def regenerate(
    model: Any,
    generation: Generation,
    drafts: Sequence[JudgedResponse],
    images: Sequence[Sequence[Medium]],
    prompts: Sequence[str],
    retries: Sequence[str] = RETRIES,
    most: int = 8,
    **generate_kwargs: Any,
) -> list[Outcome]:
    """Write again from the start of each sentence that is flagged; drop the sentence if no way helps.

    Samples that need it the same way are written again together. A retry costs a prefill, what it writes, and a pass
    that reads the new response: it is judged as the draft was, without what helped to write it.

    Args:
        model: the model.
        generation: writes and reads.
        drafts: the answers as they came.
        images, prompts: one entry a sample.
        retries: ways to write again, tried in order: "ban" (the rejected words are made impossible), "resample"
            (drawn at temperature 0.7), or a strategy such as "vhr", "var" or "vcd" that joins those attached.
        most: retries of one response; what is flagged after them is dropped.
        generate_kwargs: as of `model.generate`.

    Raises:
        TypeError, ValueError: an unknown way.
    """
    ways = check_retries(retries)
    states = [_Draft(draft, draft) for draft in drafts]
    while True:
        waiting: dict[str, list[int]] = {}
        for number, state in enumerate(states):
            if state.find(len(ways) if state.passes <= most else 0):
                waiting.setdefault(ways[state.tries], []).append(number)
        if not waiting:
            return [state.outcome() for state in states]
        for way, numbers in waiting.items():
            some, asked = [states[i] for i in numbers], [prompts[i] for i in numbers]
            shown = [images[i] for i in numbers]
            with _way(model, way, some, generate_kwargs) as options:
                written = generation.write(shown, asked, [state.begun() for state in some], **options)
            for state, new in zip(some, generation.read(shown, asked, written), strict=True):
                state.offer(new, way)


def check_retries(retries: Iterable[str]) -> tuple[str, ...]:
    """Return ways to write again as they are tried.

    Raises:
        TypeError: a single text. ValueError: none, or one that is neither "ban", "resample" nor a strategy.
    """
    if isinstance(retries, str):
        raise TypeError(f"retries={retries!r} is text: a list such as [{retries!r}] is allowed")
    ways = tuple(retries)
    if not ways:
        raise ValueError("retries is empty: name at least one way, such as 'ban'")
    for way in ways:
        if way not in ("ban", "resample"):
            parse(way)
    return ways


@contextmanager
def _way(model: Any, way: str, drafts: Sequence[_Draft], options: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What a retry changes: options of `generate`, and the strategies attached meanwhile."""
    changed = dict(options)
    if way == "ban":
        changed["banned"] = [draft.reject() for draft in drafts]
    elif way == "resample":
        changed |= {"do_sample": True, "temperature": 0.7}
    with joined(model, *parse(way)) if way not in ("ban", "resample") else nullcontext():
        yield changed
