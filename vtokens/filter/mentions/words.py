"""Words of a text with their characters, and the small grammar that extractors share: plurals, denials, numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_WORD = re.compile(r"[^\W_]+(?:['\u2019.][^\W\d_]+)*")
_JOIN = re.compile(r"(?:[^\S\r\n]|[-\u2010\u2011])+")
_POSSESSIVE = re.compile(r"['\u2019]s?$")

_FILE = Path(__file__).parent / "vocabularies" / "english.txt"


@cache
def english() -> dict[str, tuple[str, ...]]:
    """The word lists of vocabularies/english.txt, by name."""
    lines = (
        line.partition(":") for line in _FILE.read_text(encoding="utf-8").splitlines() if line[:1] not in ("", "#")
    )
    return {name: tuple(word.strip() for word in rest.split(",")) for name, _, rest in lines}


@cache
def listed(*names: str) -> frozenset[str]:
    """The words of some of these lists."""
    return frozenset(word for name in names for word in english()[name])


@cache
def _irregular() -> dict[str, str]:
    return dict(pair.split() for pair in english()["irregular"])


@dataclass(frozen=True)
class Word:
    """A word in lower case without a possessive ending, its characters, and the text between it and the one before."""

    text: str
    start: int
    end: int
    gap: str

    @property
    def joined(self) -> bool:
        """Whether only spaces or a hyphen part it from the word before, so that both may belong to one phrase."""
        return _JOIN.fullmatch(self.gap) is not None


def words(text: str) -> list[Word]:
    """The words of a text, in order."""
    found, before = list[Word](), 0
    for match in _WORD.finditer(text):
        written = _POSSESSIVE.sub("", match[0])
        gap = text[before : match.start()] if found else "\n"
        found.append(Word(written.casefold(), match.start(), match.start() + len(written), gap))
        before = match.end()
    return found


def plurals(noun: str) -> set[str]:
    """The plurals an English noun may have, wrong ones among them; of a phrase, with its last word in the plural."""
    head, _, last = noun.rpartition(" ")
    if last in _irregular():
        forms = {_irregular()[last]} | ({"persons"} if last == "person" else set())
    elif last.endswith(("man", "woman")) and last != "human":
        forms = {last[:-2] + "en"}
    elif last.endswith(("s", "x", "z", "ch", "sh")):
        forms = {last + "es"}
    elif last.endswith("y") and last[-2:-1] not in "aeiou":
        forms = {last[:-1] + "ies"}
    elif last.endswith("o"):
        forms = {last + "s", last + "es"}
    else:
        forms = {last + "s"}
    return {f"{head} {form}".strip() for form in forms}


def singular(noun: str) -> str:
    """An English noun in the singular, by rule; of a phrase, its last word."""
    head, _, last = noun.rpartition(" ")
    known = {plural: single for single, plural in _irregular().items()}
    if last in known:
        last = known[last]
    elif last.endswith("ies") and len(last) > 4:
        last = last[:-3] + "y"
    elif last.endswith(("sses", "xes", "zzes", "ches", "shes", "oes")):
        last = last[:-2]
    elif last.endswith("men") and len(last) > 4:
        last = last[:-2] + "an"
    elif last.endswith("s") and not last.endswith(("ss", "us", "is")) and len(last) > 2 and last not in listed("nouns"):
        last = last[:-1]
    return f"{head} {last}".strip()


def denied(found: Sequence[Word], at: int) -> bool:
    """Whether the phrase that begins at word `at` is denied: "no dogs", "not a single dog", "without any dog"."""
    for back in range(at - 1, max(at - 4, -1), -1):
        if not found[back + 1].joined:
            return False
        if found[back].text in listed("denials"):
            # "not only a dog", "no other dogs" say that there are some.
            return not any(word.text in listed("but") for word in found[back:at])
    return False
