"""The result of a check: for each mention and each sentence, the probability that the image does not support it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from vtokens.core.moved import renamed
from vtokens.core.terminal import json_text, one_line
from vtokens.core.writing import write_picture
from vtokens.filter.calibrators.records import LabelledResponse
from vtokens.filter.guarantees.risk import Certificate
from vtokens.filter.guarantees.setting import CalibrationSetting
from vtokens.filter.judged import Judged
from vtokens.filter.mentions.base import Span
from vtokens.filter.notebook import report_html
from vtokens.loading.media import Medium


@dataclass(frozen=True)
class Sentence:
    """A sentence, clause or list item of the response: what is redacted as one.

    Attributes:
        start, end, text: the characters of the response.
        p: probability that at least one of its mentions is unsupported, if their errors were independent; 0 if it has
            none.
        mentions: indices of its mentions.
    """

    start: int
    end: int
    text: str
    p: float
    mentions: tuple[int, ...]


@dataclass(frozen=True)
class ResponseReport:
    """A checked response.

    Attributes:
        prompt, response: what was asked, and what is judged.
        mentions: in order of where they stand.
        spans: characters of each sentence.
        calibrated: whether `p` are probabilities.
        threshold: mentions above it are flagged: with `p` if the user set it, with `score` if a certificate did. None
            if nothing is to be flagged.
        certificate: what the threshold guarantees; None if nothing.
        images: pictures and videos of the prompt, in order, for heat maps.
        seen: what the model is given of a picture (LLaVA-1.5 cuts out the centre); None: all of it.
        setting: under which conditions it came about; goes into records.
        trace: what the model's pass left behind; None if there was none, because nothing is mentioned.
        unjudged: what was not judged, in order: things that the extractor does not find, or of a kind that the
            calibrator was not fitted on, words that the model's tokenizer does not know, and sentences in which nothing
            was found that could be checked.
        notes: what else has to be known of the numbers, in sentences: under which other conditions the calibrator was
            fitted, and kinds of mentions that it was not fitted on.
        checked: False for an answer that a gate let through.
    """

    prompt: str
    response: str
    mentions: tuple[Judged, ...]
    spans: tuple[Span, ...]
    calibrated: bool
    threshold: float | None = None
    certificate: Certificate | None = None
    setting: CalibrationSetting | None = None
    images: tuple[Medium, ...] = field(default=(), repr=False)
    seen: Callable[[Image.Image], Image.Image] | None = field(default=None, repr=False, compare=False)
    trace: Any = field(default=None, repr=False, compare=False)
    unjudged: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    checked: bool = True

    @cached_property
    def sentences(self) -> tuple[Sentence, ...]:
        """The sentences, with the probability of each."""
        made = []
        for number, (start, end) in enumerate(self.spans):
            inside = tuple(i for i, judged in enumerate(self.mentions) if judged.mention.sentence == number)
            p = 1 - math.prod(1 - self.mentions[i].p for i in inside)
            made.append(Sentence(start, end, self.response[start:end], p, inside))
        return tuple(made)

    @property
    def flagged(self) -> tuple[Judged, ...]:
        """Mentions above the threshold."""
        return tuple(judged for judged in self.mentions if judged.flagged)

    def bad(self) -> tuple[bool, ...]:
        """For each sentence, whether one of its mentions is flagged."""
        wrong = {judged.mention.sentence for judged in self.flagged}
        return tuple(number in wrong for number in range(len(self.spans)))

    def record(self, image: str | int, labels: Sequence[bool]) -> LabelledResponse:
        """The labelled response, to fit or calibrate with.

        Args:
            image: names the picture; records of one picture stay together.
            labels: one a mention, True where the picture does not support it.

        Raises:
            ValueError: labels of another number than the mentions.
        """
        names = self.mentions[0].signals if self.mentions else {}
        signals = {name: [judged.signals[name] for judged in self.mentions] for name in names}
        mentions = [judged.mention for judged in self.mentions]
        meta: dict[str, Any] = {} if self.setting is None else dict(self.setting.meta)
        if self.trace is not None and len(self.trace):
            meta["entropy"] = float(self.trace.entropy[0])  # at prefill, for a gate
        return LabelledResponse(
            image, self.prompt, self.response, mentions, signals, [bool(one) for one in labels], meta
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything but pictures, in what JSON can hold."""
        threshold = self.threshold
        return {
            "prompt": self.prompt,
            "response": self.response,
            "calibrated": self.calibrated,
            "threshold": None if threshold is None or math.isinf(threshold) else threshold,
            "certificate": None if self.certificate is None else self.certificate.to_dict(),
            "mentions": [judged.to_dict() for judged in self.mentions],
            "sentences": [
                {"start": s.start, "end": s.end, "text": s.text, "p": s.p, "mentions": list(s.mentions)}
                for s in self.sentences
            ],
            "unjudged": list(self.unjudged),
            "notes": list(self.notes),
            "checked": self.checked,
        }

    def to_json(self, **options: Any) -> str:
        """`to_dict` as text that a terminal can be shown; `options` as of `json.dumps`."""
        return json_text(self.to_dict(), **options)

    def heatmap(self, number: int) -> Image.Image:
        """Draw the attention that wrote mention `number` over the image; of a video over the frame that got the most.

        All maps of a report share a scale, and each says below what it shows.

        Raises:
            IndexError: no such mention.
            ValueError: the pass left no gaze behind, or there is no picture.
        """
        if not 0 <= number < len(self.mentions):
            raise IndexError(f"mention {number} does not exist: 0 to {len(self.mentions) - 1} do")
        if self.trace is None or not self.images:
            raise ValueError("there is nothing to draw: this report was read from a file, or its prompt has no picture")
        from vtokens.filter.heatmap import heatmap

        judged, top = self.mentions[number], self._strongest
        word = "p" if self.calibrated else "score"
        caption = f"{judged.mention.text!r}: {word} {judged.p:.2f}{', flagged' if judged.flagged else ''}. "
        caption += "Attention of what wrote it, beyond that of the rest of the answer; "
        caption += "the hottest colour is the same in all maps of this answer."
        return heatmap(self.trace, judged.mention, self.images, seen=self.seen, top=top, caption=caption)

    @cached_property
    def _strongest(self) -> float:
        from vtokens.filter.heatmap import strongest

        return strongest(self.trace, [judged.mention for judged in self.mentions])

    def save_heatmaps(self, folder: str | Path) -> list[Path]:
        """Write one PNG a mention, '00-red-circle.png' and so on; returns the paths."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for number, judged in enumerate(self.mentions):
            name = "".join(c if c.isalnum() else "-" for c in judged.mention.name)[:40].strip("-")
            paths.append(folder / f"{number:02d}-{name or 'mention'}.png")
            write_picture(paths[-1], self.heatmap(number))
        return paths

    def __repr__(self) -> str:
        judged = f"{len(self.mentions)} mention(s), {len(self.flagged)} flagged"
        calibrated = "" if self.calibrated else ", uncalibrated"
        return f"<ResponseReport of {one_line(self.response, 60)!r}: {judged}{calibrated}>"

    def _repr_html_(self) -> str:
        return report_html(self.response, self.mentions, self.unjudged, self.calibrated, self.notes)

    def __str__(self) -> str:
        word = "p" if self.calibrated else "score (uncalibrated)"
        lines = [f"{self.response!r}"]
        for judged in self.mentions:
            mark = "!" if judged.flagged else " "
            lines.append(f"{mark} {word} {judged.p:.3f}  {judged.mention.text!r} ({judged.mention.kind})")
        if not self.mentions and self.checked:
            lines.append("  names nothing that could be checked")
        if self.unjudged:
            lines.append(f"  not judged: {', '.join(map(repr, self.unjudged))}")
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines)


def article(word: str) -> str:
    """A noun behind "a" or "an"."""
    return f"{'an' if word[:1] in 'aeiou' else 'a'} {word}"


def worst(reports: Sequence[ResponseReport]) -> float:
    """The largest probability of all mentions; 0 if there are none."""
    return max((judged.p for report in reports for judged in report.mentions), default=0.0)


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        return renamed(__name__, name)
