"""Mentions: the spans of a response that can be right or wrong, and what finds them."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, NamedTuple, Protocol

from vtokens.core.errors import unknown
from vtokens.filter.sentences import Span as Span
from vtokens.filter.sentences import Splitter as Splitter

#: What a mention can say: a thing, a property of one, how many, where or how to another, or words in quotation marks.
KINDS = ("object", "attribute", "count", "relation", "text")


@dataclass(frozen=True)
class Mention:
    """One span of a response that the image supports or does not.

    Attributes:
        start, end: characters of the response, `end` exclusive.
        text: the response between them.
        kind: one of KINDS.
        name: what is claimed, in words that need no context: "red circle" for the mention "yes" after "Is there a red
            circle in the image?"; two mentions of one kind and name claim the same.
        sentence: which sentence it stands in, from 0.
        order: how many mentions of its kind stand before it.
        repeat: whether one of those before it claims the same.
        negated: the response denies it ("no", "there is no dog"), so the image supports it where it is not there.
        tokens: ascending indices of the response tokens that overlap the span; empty until `with_tokens`.

    Raises:
        ValueError: a kind that is none of KINDS, or a span of no characters or of another length than `text`.
    """

    start: int
    end: int
    text: str
    kind: str
    name: str
    sentence: int = 0
    order: int = 0
    repeat: bool = False
    negated: bool = False
    tokens: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise unknown("kind of mention", self.kind, KINDS)
        if not 0 <= self.start < self.end or self.end - self.start != len(self.text):
            raise ValueError(f"a mention of {self.text!r} cannot span the characters {self.start} to {self.end}")

    def with_tokens(self, spans: Sequence[Span]) -> Mention:
        """The mention with the tokens that overlap it; `spans` are the characters of each response token, in order.

        Tokens of no characters (special tokens) belong to no mention.
        """
        first, last = self.start, self.end
        inside = [i for i, (start, end) in enumerate(spans) if start < last and first < end and start < end]
        return replace(self, tokens=tuple(inside))

    def to_dict(self) -> dict[str, Any]:
        """The fields, in what JSON can hold."""
        return asdict(self) | {"tokens": list(self.tokens)}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Mention:
        """The mention that `to_dict` gave; ValueError for fields that are not a mention's, or for missing ones."""
        names = [field.name for field in fields(cls)]
        for key in content:
            if key not in names:
                raise unknown("field of a mention", key, names)
        missing = [name for name in names[:5] if name not in content]
        if missing:
            raise ValueError(f"a mention needs {', '.join(names[:5])}; {', '.join(missing)} missing in {content!r}")
        return cls(**content | {"tokens": tuple(content.get("tokens", ()))})


class Extractor(Protocol):
    """Finds the mentions of a response.

    Attributes:
        name: as `get_extractor` takes it; a calibrator is fitted to the mentions of one extractor.
        sentences: the sentences of a text, as spans of characters in order; the unit that is redacted.
    """

    @property
    def name(self) -> str: ...

    @property
    def sentences(self) -> Splitter: ...

    def __call__(self, text: str, prompt: str = "") -> list[Mention]:
        """The mentions of `text`, in order of their start; `prompt` is the question that it answers."""
        ...


class Found(NamedTuple):
    """A mention before its place among the others is known."""

    start: int
    end: int
    kind: str
    name: str
    negated: bool = False


def arrange(text: str, found: Iterable[Found], sentences: Sequence[Span]) -> list[Mention]:
    """The mentions in order of their start, with the sentence, the order and the repeats of each filled in."""
    starts = [start for start, _ in sentences]
    order: Counter[str] = Counter()
    said: set[tuple[str, str, bool]] = set()
    mentions = []
    for start, end, kind, name, negated in sorted(found):
        sentence = max(bisect_right(starts, start) - 1, 0)
        claim = (kind, name, negated)
        mentions.append(Mention(start, end, text[start:end], kind, name, sentence, order[kind], claim in said, negated))
        order[kind] += 1
        said.add(claim)
    return mentions
