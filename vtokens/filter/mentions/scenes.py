"""Mentions in the words of scenes: captions, and the short answers that claim something only with their question."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from vtokens.filter.mentions.answers import answered
from vtokens.filter.mentions.base import Found, Mention, Splitter, arrange
from vtokens.filter.sentences import clauses
from vtokens.scenes.world import COLOURS, NUMBERS, SHAPES


def _any(words: tuple[str, ...]) -> str:
    return f"(?:{'|'.join(words)})"


_COLOUR, _NUMBER = _any(COLOURS), rf"(?:{_any(NUMBERS)}|\d)"
_SHAPE = rf"{_any(SHAPES)}(?:e?s)?"
_CLASS = rf"{_COLOUR}\s+{_SHAPE}"
_PLACE = r"row[1-4]\s+column[1-4]"

#: What a text can say by itself: the group's name is the kind.
_SAYS = re.compile(
    rf"\b(?:(?P<text>digit\s+{_NUMBER})|(?P<relation>{_PLACE})|(?P<object>{_CLASS}|{_SHAPE})|"
    rf"(?P<count>{_NUMBER}|nothing)|(?P<attribute>{_COLOUR}))\b",
    re.IGNORECASE,
)
#: A question, what answers it, the kind of that, and its claim; {0} is the answer, {1} what was asked about.
_QUESTIONS = tuple(
    (re.compile(question, re.IGNORECASE), re.compile(rf"\b{answer}\b", re.IGNORECASE), kind, claim)
    for question, answer, kind, claim in (
        (rf"where is (?:the|an?) ({_CLASS}|{_SHAPE})", _PLACE, "relation", "{1} at {0}"),
        (rf"what is at ({_PLACE})", r"nothing", "count", "{0} at {1}"),
        (rf"what is at ({_PLACE})", rf"(?:{_CLASS}|digit\s+{_NUMBER}|{_SHAPE})", "object", "{0} at {1}"),
        (rf"what colou?r is at ({_PLACE})", _COLOUR, "attribute", "{0} at {1}"),
        (rf"what colou?r is the ({_SHAPE})", _COLOUR, "attribute", "{0} {1}"),
        (rf"what shape is ({_COLOUR})", _SHAPE, "object", "{1} {0}"),
        (rf"how many ((?:{_COLOUR}\s+)?(?:objects?|{_SHAPE})) are", _NUMBER, "count", "{0} {1}"),
        (rf"what digit is at ({_PLACE})", _NUMBER, "text", "digit {0} at {1}"),
    )
)
_NOUN = re.compile(rf"\s+((?:{_COLOUR}\s+)?(?:objects?|{_SHAPE}))\b", re.IGNORECASE)
_OWNER = re.compile(rf"({_CLASS}|{_SHAPE}|digit\s+{_NUMBER}|nothing)\s+(?:is\s+)?(?:at|in)\s+$", re.IGNORECASE)
#: Before a place that holds something else than an object, which the sentence goes on to tell.
_OTHER = re.compile(r"\b(?:digit|sign|word|printed)\s+(?:is\s+)?at\s+$", re.IGNORECASE)
_WAYS = {
    "left of": ("to the left of", "on the left of", "left of"),
    "right of": ("to the right of", "on the right of", "right of"),
    "above": ("above", "over"),
    "below": ("below", "under", "beneath"),
    "beside": ("next to", "beside"),
    "near": ("close to", "near"),
    "behind": ("behind",),
    "in front of": ("in front of",),
    "on": ("on top of", "on"),
    "inside": ("inside", "in"),
}
_WAY = {said: name for name, every in _WAYS.items() for said in every}
_HOW = "|".join(way.replace(" ", r"\s+") for way in sorted(_WAY, key=len, reverse=True))
#: One object and another, and how the first is to the second: neither is claimed by itself.
_RELATED = re.compile(
    rf"\b(?P<first>{_CLASS}|{_SHAPE})\s+(?:(?:is|are|stands?|sits?|lies?)\s+)?(?:not\s+)?"
    rf"(?P<how>{_HOW})\s+"
    rf"(?:(?:the|an?|one)\s+)?(?P<second>{_CLASS}|{_SHAPE})\b",
    re.IGNORECASE,
)
#: Behind a colour, what it is the colour of, if that is no shape: "red fox", but "red and", "red is".
_OF_ELSE = re.compile(r"\s+(?!(?:and|or|is|are|at|in|on|to|of|the|an?|there|no|not|with|one)\b)[a-z]+", re.IGNORECASE)
_DENIAL = re.compile(r"\b(?:no|not|without)\s", re.IGNORECASE)
_DENIED = re.compile(rf"{_DENIAL.pattern}+(?:an?\s+|any\s+)?$", re.IGNORECASE)


@dataclass(frozen=True)
class Scenes:
    """The extractor for `vtokens.scenes`: an object is named by colour and shape, and its name is the class's.

    Two objects in one relation are one mention, a relation. "Nothing" counts: it says that there are none.

    Names: "red circle", "circle", "red", "three red objects", "red circle at row1 column2", "nothing at row1 column2",
    "digit seven", "red circle left of blue ring"; `vtokens.filter.calibrators.labels.label_scenes` reads them.
    """

    name: str = "scenes"
    sentences: Splitter = clauses

    def __call__(self, text: str, prompt: str = "") -> list[Mention]:
        """Objects, colours, counts, places and digits in `text`, as an answer to `prompt`."""
        found = [*answered(text, prompt, _plain), *_answer(text, prompt)]
        found += [] if found else _related(text)
        taken = {i for start, end, *_ in found for i in range(start, end)}
        found += [said for said in _statements(text) if taken.isdisjoint(range(said.start, said.end))]
        return arrange(text, found, self.sentences(text))


@lru_cache(maxsize=1024)
def singular(word: str) -> str:
    """A shape's name from its plural; other words are left as they are."""
    return next((shape for shape in SHAPES if word in (shape, shape + "s", shape + "es")), word)


def _plain(phrase: str) -> str:
    """Lower case, single spaces, shapes in the singular, digits as words."""
    words = (NUMBERS[int(w)] if w.isdecimal() and len(w) == 1 else singular(w) for w in phrase.lower().split())
    return " ".join(words)


def _several(phrase: str) -> str:
    """As `_plain`, but what is counted is in the plural."""
    *words, last = _plain(phrase).split()
    return " ".join([*words, last if last.endswith("objects") else last + ("es" if last == "cross" else "s")])


def _answer(text: str, prompt: str) -> list[Found]:
    """What the text says to the last of the prompt's questions."""
    said = [(answer, *one) for one in _asked(prompt) for answer in one[1].finditer(text)]
    if not said:
        return []
    answer, question, _, kind, claim = min(said, key=lambda one: one[0].start())
    about = (_several if claim == "{0} {1}" and kind == "count" else _plain)(question[1])
    return [Found(answer.start(), answer.end(), kind, claim.format(_plain(answer[0]), about))]


@lru_cache(maxsize=64)  # many answers are to one prompt
def _asked(prompt: str) -> list[tuple[re.Match[str], re.Pattern[str], str, str]]:
    """The last of the prompt's questions, by each pattern that knows it."""
    asked = [(match, unit, kind, claim) for q, unit, kind, claim in _QUESTIONS for match in q.finditer(prompt)]
    last = max((one[0].start() for one in asked), default=0)
    return [one for one in asked if one[0].start() == last]


def _related(text: str) -> list[Found]:
    found = []
    for match in _RELATED.finditer(text):
        way = _WAY[" ".join(match["how"].lower().split())]
        name = f"{_plain(match['first'])} {way} {_plain(match['second'])}"
        between = text[match.end("first") : match.start("how")]
        found.append(Found(match.start(), match.end(), "relation", name, " not " in f"{between} ".lower()))
    return found


def _statements(text: str) -> list[Found]:
    found, denies = [], _DENIAL.search(text) is not None
    for match in _SAYS.finditer(text):
        kind, name = match.lastgroup or "", _plain(match[0])
        before = text[: match.start()]
        if kind == "attribute" and _OF_ELSE.match(text, match.end()):
            continue
        if kind == "count" and name != "nothing":
            noun = _NOUN.match(text, match.end())
            name = f"{name} {_several(noun[1]) if noun else 'objects'}"
        elif kind == "relation":
            if _OTHER.search(before):
                continue
            owner = _OWNER.search(before)
            name = f"{_plain(owner[1]) if owner else 'object'} at {name}"
        found.append(Found(match.start(), match.end(), kind, name, denies and _DENIED.search(before) is not None))
    return found
