"""Mentions in any English text by function words alone: the light default, without a parser or a vocabulary.

A run of other words behind an article, number or preposition is a noun phrase that ends at its head; words of views and
layout ("background", "group") are no objects. It errs on the side of leaving things out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from vtokens.filter.mentions.answers import answered, short_answer
from vtokens.filter.mentions.base import Found, Mention, Splitter, arrange
from vtokens.filter.mentions.words import Word, denied, english, listed, singular, words
from vtokens.filter.sentences import split

_INSIDE = r"[^\"\u201c\u201d\u00ab\u00bb\n]"
_QUOTED = re.compile(rf"[\"\u201c\u00ab]\s*(?P<said>(?={_INSIDE}*\w){_INSIDE}{{1,80}}?)\s*[\"\u201d\u00bb]")
_RELATION = 6  # more words than that between two objects relate something else


@dataclass(frozen=True)
class _Phrase:
    """A noun phrase by word numbers: from `first` (its number or attributes too), the object from `noun` to `end`."""

    first: int
    noun: int
    end: int
    name: str
    object: bool


@dataclass(frozen=True)
class Chunks:
    """The extractor for text of any subject: objects, attributes, counts, relations, and words in quotation marks."""

    name: str = "chunks"
    sentences: Splitter = split

    def __call__(self, text: str, prompt: str = "") -> list[Mention]:
        """The mentions of an English text; other languages give few, or none."""
        found = answered(text, prompt, lambda phrase: singular(" ".join(phrase.casefold().split())))
        quotes = [(m.start("said"), m.end("said")) for m in _QUOTED.finditer(text)]
        found += [Found(a, b, "text", " ".join(text[a:b].casefold().split())) for a, b in quotes]
        said = words(text)
        outside = [word for word in said if not any(a <= word.start < b for a, b in quotes)]
        phrases = list(_phrases(outside))
        for before, phrase in zip([None, *phrases], phrases, strict=False):
            found += _claims(outside, phrase, before)
        found += _relations(outside, [phrase for phrase in phrases if phrase.object])
        return arrange(text, found or short_answer(text, prompt), self.sentences(text))


def _phrases(said: Sequence[Word]) -> Iterator[_Phrase]:
    at, listing = 0, False
    while at < len(said):
        end = _reach(said, at)
        if end == at:
            listing = listing and said[at].text in ("and", "or")
            at += 1
            continue
        listed_too = listing and (said[at - 1].text in ("and", "or") or said[at].gap.strip() in (",", ";"))
        if listing := _introduces(said, at, end) or (listed_too and not _participle(said[at].text)):
            phrase = _phrase(said, at, end)
            yield phrase
            end = phrase.end
        at = end


def _reach(said: Sequence[Word], at: int) -> int:
    """One past the last word of the run of content words that begins at `at`."""
    stops = listed("determiners", "prepositions", "verbs", "others")
    end = at
    while end < len(said) and (end == at or said[end].joined) and said[end].text not in stops:
        if end > at and (said[end].text.endswith("ly") or _participle(said[end].text)):
            break
        end += 1
    one = at and said[at - 1].text in ("a", "an", "one", "this", "that", "another", "each", "every")
    if one and end - at > 1 and singular(said[end - 1].text) != said[end - 1].text:
        end -= 1  # "a dog runs": what looks like a plural is the verb
    return end


def _participle(word: str) -> bool:
    return word not in listed("nouns") and word.endswith(("ing", "ed")) and len(word) > 4


def _introduces(said: Sequence[Word], at: int, end: int) -> bool:
    """Whether a noun phrase begins here: by a number, behind an article, a preposition or a verb, or as a subject."""
    if _numeral(said[at].text):
        return True
    before = said[at - 1].text if at else ""
    if not said[at].joined or before in ("and", "but", "while", "where", "when"):  # "Dogs are playing"
        return not _participle(said[at].text) and end < len(said) and said[end].text in listed("verbs")
    if before in listed("determiners"):
        return True
    if _participle(said[at].text):  # "is wearing", but "with sliced bread"
        return before in listed("prepositions") and end - at > 1
    if before in listed("copulas"):  # "is clear", "is crossing", but "there is water" and "are dogs"
        return (at > 1 and said[at - 2].text == "there") or singular(said[end - 1].text) != said[end - 1].text
    return before in listed("prepositions", "verbs") or _participle(before)


def _numeral(word: str) -> bool:
    return word in listed("numbers") or word.isdecimal()


def _phrase(said: Sequence[Word], at: int, end: int) -> _Phrase:
    noun = at
    describing = listed("colours", "attributes", "numbers")
    while noun < end - 1 and (said[noun].text in describing or said[noun].text.isdecimal() or _describes(said, noun)):
        noun += 1
    name = singular(" ".join(word.text for word in said[noun:end]))
    head = said[end - 1].text
    named = not _numeral(head) and head not in listed("abstract", "colours", "attributes") and len(head) > 1
    if at > 1 and said[at - 1].text == "of" and said[at - 2].text in listed("feelings"):
        named = False
    return _Phrase(at, noun, end, name, named)


def _describes(said: Sequence[Word], at: int) -> bool:
    """Whether a word that is no known adjective looks like one: "parked", "smiling", "carefully"."""
    word = said[at].text
    return (_participle(word) and word not in listed("compounds")) or word.endswith(("ly", "ful", "less", "ish", "ous"))


def _claims(said: Sequence[Word], phrase: _Phrase, before: _Phrase | None) -> Iterator[Found]:
    if not phrase.object:
        return
    no = denied(said, phrase.first)
    described = list(said[phrase.first : phrase.noun])
    if before is not None and before.end + 1 == phrase.first and said[before.end].text in ("and", "or"):
        shared = said[before.first : before.end]  # "a red and white bus"
        described += shared if all(word.text in listed("colours", "attributes") for word in shared) else []
    for word in described:
        if _numeral(word.text):
            counted = " ".join(w.text for w in said[phrase.noun : phrase.end])
            yield Found(word.start, word.end, "count", f"{word.text} {counted}", no)
        elif not word.text.endswith("ly"):
            yield Found(word.start, word.end, "attribute", f"{word.text} {phrase.name}", no)
    yield Found(said[phrase.noun].start, said[phrase.end - 1].end, "object", phrase.name, no)


def _relations(said: Sequence[Word], phrases: Sequence[_Phrase]) -> Iterator[Found]:
    """What stands between two objects of one clause, if a word of place is in it."""
    relations = english()["relations"]
    for left, right in pairwise(phrases):
        gap = list(said[left.end : right.first])
        while gap and gap[-1].text in listed("determiners"):
            gap.pop()
        if not gap or len(gap) > _RELATION or not all(w.joined for w in said[left.end : right.first + 1]):
            continue
        if any(word.text in listed("others") for word in gap):
            continue
        between = f" {' '.join(word.text for word in gap)} "
        if any(f" {relation} " in between for relation in relations):
            yield Found(gap[0].start, gap[-1].end, "relation", f"{left.name}{between}{right.name}")
