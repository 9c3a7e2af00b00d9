"""Judging a response: its mentions, their signals from a trace, and the probability of each being unsupported."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from vtokens.filter import signals
from vtokens.filter.calibrators.calibrator import Calibrator
from vtokens.filter.guarantees.risk import Certificate
from vtokens.filter.guarantees.setting import CalibrationSetting
from vtokens.filter.judged import Judged
from vtokens.filter.mentions.base import Extractor, Mention, Span
from vtokens.filter.mentions.registry import get_extractor
from vtokens.filter.report import ResponseReport, article
from vtokens.filter.trace.trace import Trace
from vtokens.loading.media import Medium

_WORD = re.compile(r"\w+")
Found = tuple[list[Mention], list[Mention]]
Values = dict[str, list[float]]
DOUBT = "its probabilities may be off, since the calibrator was fitted under other conditions"


@dataclass(frozen=True)
class Threshold:
    """The threshold above which mentions are flagged, and its certificate.

    Attributes:
        value: the highest number that is not flagged; None flags nothing.
        certificate: its guarantee; the value is then one of scores and not of probabilities. An infeasible one flags
            everything.
    """

    value: float | None = None
    certificate: Certificate | None = None

    def flags(self, p: float, score: float) -> bool:
        """Whether a mention is flagged."""
        if self.certificate is not None:
            return not bool(self.certificate.keeps([score])[0])
        return self.value is not None and p > self.value


@dataclass(frozen=True)
class Judge:
    """Judges responses from their traces.

    Attributes:
        signals: what is computed of each mention.
        extractor: finds mentions.
        calibrator: makes probabilities of signals; without one the score is the probability, in [0, 1], that the model
            would have written something else, and `ResponseReport.calibrated` is False.
        seen: goes into reports.
        single: the calibrator is right for responses about one picture alone; others are judged without it.
    """

    signals: tuple[signals.Signal, ...]
    extractor: Extractor
    calibrator: Calibrator | None = None
    seen: Callable[[Image.Image], Image.Image] | None = None
    single: bool = False

    def sort(self, prompt: str, text: str, spans: Sequence[Span]) -> Found:
        """The mentions of a response that can be judged, with their tokens, and those that cannot.

        Those are the ones with a word that no token wrote, and those of a kind that the calibrator was not fitted on.
        """
        found = [mention.with_tokens(spans) for mention in self.extractor(text, prompt)]
        kinds = None if self.calibrator is None else self.calibrator.kinds
        known = _written(text, spans)
        fits = [
            bool(m.tokens) and all(known.find(1, *w.span()) >= 0 for w in _WORD.finditer(text, m.start, m.end))
            and (kinds is None or m.kind in kinds)
            for m in found
        ]  # fmt: skip
        judged, others = ([m for m, fit in zip(found, fits, strict=True) if fit is want] for want in (True, False))
        return judged, others

    def features(self, trace: Trace, mentions: Sequence[Mention]) -> Values:
        """The signals of each mention, by name."""
        return self.features_of([trace], [mentions])[0]

    def features_of(self, traces: Sequence[Trace], mentions: Sequence[Sequence[Mention]]) -> list[Values]:
        """The same of several answers of one batch."""
        asked = [number for number, some in enumerate(mentions) if some]
        found = signals.features_of([traces[i] for i in asked], [mentions[i] for i in asked], self.signals)
        by_number = dict(zip(asked, found, strict=True))
        return [by_number.get(number, {}) for number in range(len(traces))]

    def report(
        self,
        images: Sequence[Medium],
        prompt: str,
        text: str,
        spans: Sequence[Span],
        trace: Trace | None,
        threshold: Threshold,
        setting: CalibrationSetting | None = None,
        found: Found | None = None,
        values: Values | None = None,
    ) -> ResponseReport:
        """Judge one response.

        Args:
            images, prompt: what was shown and asked.
            text, spans: the response, and the characters of each of its tokens.
            trace: of the same tokens; None if the response has no mentions, so that no pass was needed.
            threshold: what is to be flagged.
            setting: goes into the report.
            found: what `sort` gave of the same response, if it was asked already.
            values: what `features` gave of it, if they were computed already.
        """
        judge = self.about(images)
        if judge is not self:
            return judge.report(images, prompt, text, spans, trace, threshold, setting, found, values)
        mentions, others = found or self.sort(prompt, text, spans)
        mentions = mentions if trace is not None else []
        judged: tuple[Judged, ...] = ()
        if trace is not None and mentions:
            values = self.features(trace, mentions) if values is None else values
            found_p, found_scores = self.judge(trace, mentions, values)
            p, scores, rows = found_p.tolist(), found_scores.tolist(), zip(*values.values(), strict=True)
            judged = tuple(
                Judged(mention, a, b, dict(zip(values, row, strict=True)), threshold.flags(a, b))
                for mention, a, b, row in zip(mentions, p, scores, rows if values else [()] * len(p), strict=True)
            )
        notes = (*self._notes(setting, judged, others), *left_out(trace))
        sentences = tuple(self.extractor.sentences(text))
        rest = unjudged(text, spans, sentences, judged, others)
        return self._made(
            images, prompt, text, threshold, setting, sentences, judged, trace=trace, unjudged=rest, notes=notes
        )

    def unchecked(
        self,
        images: Sequence[Medium],
        prompt: str,
        text: str,
        threshold: Threshold,
        setting: CalibrationSetting | None,
        note: str,
    ) -> ResponseReport:
        """The report of a response in which no mention is looked for; `note` says why. Others are as of `report`."""
        sentences = tuple(self.extractor.sentences(text))
        return self.about(images)._made(
            images, prompt, text, threshold, setting, sentences, notes=(note,), checked=False
        )

    def about(self, images: Sequence[Medium]) -> Judge:
        """The judge of responses about these pictures: without a calibrator that is not right for them."""
        return replace(self, calibrator=None, single=False) if self.single and not one_picture(images) else self

    def _made(
        self,
        images: Sequence[Medium],
        prompt: str,
        text: str,
        threshold: Threshold,
        setting: CalibrationSetting | None,
        sentences: tuple[Span, ...],
        mentions: tuple[Judged, ...] = (),
        **more: Any,
    ) -> ResponseReport:
        """A report; `more` is what it says beside its mentions."""
        certificate = threshold.certificate
        limit = threshold.value if certificate is None else certificate.threshold
        return ResponseReport(
            prompt, text, mentions, sentences, self.calibrator is not None, limit, certificate, setting, tuple(images),
            self.seen, **more,
        )  # fmt: skip

    def _notes(
        self, setting: CalibrationSetting | None, judged: Sequence[Judged], others: Sequence[Mention]
    ) -> tuple[str, ...]:
        """What has to be known of the numbers beside what they are."""
        if self.calibrator is None:
            return ()
        found = [] if setting is None or not judged else setting.differences(self.calibrator.setting)
        notes = [f"{DOUBT}: {'; '.join(found)} when it was fitted"] if found else []
        kinds = self.calibrator.kinds
        missing = [] if kinds is None else sorted({m.kind for m in others} - {*kinds})
        if missing:
            notes.append(
                f"of what it was fitted on none was {' or '.join(map(article, missing))}: these are not judged"
            )
        return tuple(notes)

    def judge(
        self, trace: Trace, mentions: Sequence[Mention], values: dict[str, list[float]]
    ) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """(n,), (n,): the probability of each mention, and the score that thresholds are set on."""
        if self.calibrator is not None:
            scores = self.calibrator.score(values)
            return self.calibrator.probabilities(scores, [mention.kind for mention in mentions]), scores
        spans = signals.Spans(mentions, trace)
        # Rounding may leave a certain token a logarithm above 0.
        p = np.clip(-np.expm1(spans.over(trace.logprob, "mean").double().cpu().numpy()), 0, 1)
        return p, p


def left_out(trace: Trace | None) -> tuple[str, ...]:
    """A note on strategies that were attached, and did not act in the pass in which a response was judged."""
    if trace is None or not trace.left_out:
        return ()
    names = " and ".join(map(repr, trace.left_out))
    return (f"{names} can act only while an answer is written: the response was read without it",)


def one_picture(images: Sequence[Medium]) -> bool:
    """Whether a sample shows a single picture: neither several, nor a video."""
    return len(images) == 1 and isinstance(images[0], Image.Image)


def unjudged(
    text: str,
    spans: Sequence[Span],
    sentences: Sequence[Span],
    mentions: Sequence[Mention | Judged],
    others: Sequence[Mention] = (),
) -> tuple[str, ...]:
    """The parts of a response that were not judged, in order.

    Args:
        text, spans: the response, and the characters of each of its tokens; an unknown token has none.
        sentences: where they stand.
        mentions: what was judged.
        others: what the extractor found, and could not be judged.

    Returns:
        The others; what function words delimit as a thing, and the extractor did not find; words that the tokenizer
        does not know; and whole sentences of which nothing else is said here, and nothing was judged.
    """
    known, taken, names = _written(text, spans), bytearray(len(text)), {one.name for one in mentions}
    for one in mentions:
        taken[one.start : one.end] = b"\1" * (one.end - one.start)
    found: list[tuple[int, int]] = []

    def add(start: int, end: int) -> None:
        if taken.find(1, start, end) < 0:
            found.append((start, end))
            taken[start:end] = b"\1" * (end - start)

    for one in others:
        add(one.start, one.end)
    # Looked for only where words are left: most answers of a model with a vocabulary of its own are all mentions.
    rest = any(taken.find(1, *word.span()) < 0 for word in _WORD.finditer(text))
    for thing in get_extractor("chunks")(text) if rest else ():
        if thing.kind != "relation" and thing.name not in names:
            add(thing.start, thing.end)
    about = {one.sentence for one in mentions}
    for number, (start, end) in enumerate(sentences):
        said = number in about or any(start <= first < end for first, _ in found)
        if not said and any(char.isalnum() for char in text[start:end]):
            add(start, end)
        for word in _WORD.finditer(text, start, end) if number in about else ():
            if known.find(1, *word.span()) < 0:
                add(word.start(), word.end())
    return tuple(text[start:end] for start, end in sorted(found))


def _written(text: str, spans: Sequence[Span]) -> bytearray:
    """1 for each character that a token wrote."""
    known = bytearray(len(text))
    for start, end in spans:
        known[start:end] = b"\1" * (end - start)
    return known
