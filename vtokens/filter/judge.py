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
from vtokens.filter.report import ResponseReport
from vtokens.filter.trace.trace import Trace
from vtokens.loading.media import Medium

_WORD = re.compile(r"\w+")


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

    def mentions(self, prompt: str, text: str, spans: Sequence[Span]) -> list[Mention]:
        """The mentions of a response, with their tokens; those of which no token wrote anything are left out."""
        found = [mention.with_tokens(spans) for mention in self.extractor(text, prompt)]
        return [mention for mention in found if mention.tokens]

    def features(self, trace: Trace, mentions: Sequence[Mention]) -> dict[str, list[float]]:
        """The signals of each mention, by name."""
        return signals.features(trace, mentions, self.signals) if mentions else {}

    def report(
        self,
        images: Sequence[Medium],
        prompt: str,
        text: str,
        spans: Sequence[Span],
        trace: Trace | None,
        threshold: Threshold,
        setting: CalibrationSetting | None = None,
    ) -> ResponseReport:
        """Judge one response.

        Args:
            images, prompt: what was shown and asked.
            text, spans: the response, and the characters of each of its tokens.
            trace: of the same tokens; None if the response has no mentions, so that no pass was needed.
            threshold: what is to be flagged.
            setting: goes into the report.
        """
        if self.single and not one_picture(images):
            plain = replace(self, calibrator=None, single=False)
            return plain.report(images, prompt, text, spans, trace, threshold, setting)
        mentions = self.mentions(prompt, text, spans) if trace is not None else []
        judged: tuple[Judged, ...] = ()
        if trace is not None and mentions:
            values = self.features(trace, mentions)
            p, scores = self.judge(trace, mentions, values)
            judged = tuple(
                Judged(mention, float(a), float(b), {name: column[i] for name, column in values.items()})
                for i, (mention, a, b) in enumerate(zip(mentions, p, scores, strict=True))
            )
            judged = tuple(replace(one, flagged=threshold.flags(one.p, one.score)) for one in judged)
        certificate = threshold.certificate
        value = threshold.value if certificate is None else certificate.threshold
        sentences = tuple(self.extractor.sentences(text))
        return ResponseReport(
            prompt, text, judged, sentences, self.calibrator is not None, value, certificate, setting, tuple(images),
            self.seen, trace, unjudged(text, spans, sentences, judged),
        )  # fmt: skip

    def judge(
        self, trace: Trace, mentions: Sequence[Mention], values: dict[str, list[float]]
    ) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """(n,), (n,): the probability of each mention, and the score that thresholds are set on."""
        if self.calibrator is not None:
            scores = self.calibrator.score(values)
            return self.calibrator.link(scores), scores
        spans = signals.Spans(mentions, trace)
        # Rounding may leave a certain token a logarithm above 0.
        p = np.clip(-np.expm1(spans.over(trace.logprob, "mean").double().cpu().numpy()), 0, 1)
        return p, p


def one_picture(images: Sequence[Medium]) -> bool:
    """Whether a sample shows a single picture: neither several, nor a video."""
    return len(images) == 1 and isinstance(images[0], Image.Image)


def unjudged(
    text: str, spans: Sequence[Span], sentences: Sequence[Span], mentions: Sequence[Mention | Judged]
) -> tuple[str, ...]:
    """The parts of a response that were not judged, in order.

    Args:
        text, spans: the response, and the characters of each of its tokens; an unknown token has none.
        sentences: where they stand.
        mentions: what was judged; of a sentence without any, the whole is given back.
    """
    known = bytearray(len(text))
    for start, end in spans:
        known[start:end] = b"\1" * (end - start)
    found = []
    about = {one.sentence for one in mentions}
    for number, (start, end) in enumerate(sentences):
        if number not in about:
            found += [text[start:end]] * any(char.isalnum() for char in text[start:end])
            continue
        words = _WORD.finditer(text, start, end)
        found += [word[0] for word in words if not any(known[word.start() : word.end()])]
    return tuple(found)
