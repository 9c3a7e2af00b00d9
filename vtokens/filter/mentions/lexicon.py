"""Mentions by a vocabulary: the longest phrase wins, plurals and synonyms lead to one name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vtokens.core.errors import shorten
from vtokens.core.reading import MEBIBYTE, read_text
from vtokens.filter.mentions.answers import answered
from vtokens.filter.mentions.base import Found, Mention, Splitter, arrange
from vtokens.filter.mentions.words import Word, denied, listed, plurals, words
from vtokens.filter.sentences import split

_MOST = 4 * MEBIBYTE


@dataclass(frozen=True)
class Lexicon:
    """An extractor of objects that stand in a vocabulary.

    Attributes:
        forms: phrases in lower case, as words, with the object each names; None for phrases that name none.
        careful: the phrases that name their object only behind an article or a number and not in front of a noun.
        name, sentences: see `Extractor`.
    """

    forms: dict[tuple[str, ...], str | None] = field(repr=False)
    careful: frozenset[tuple[str, ...]] = field(default=frozenset(), repr=False)
    name: str = "lexicon"
    sentences: Splitter = split

    def __call__(self, text: str, prompt: str = "") -> list[Mention]:
        """Objects of the vocabulary in `text`; "yes" and "no" name what `prompt` asks for."""
        found = [Found(start, end, "object", name, no) for start, end, name, no in self.objects(text)]
        return arrange(text, [*found, *answered(text, prompt, self.canonical)], self.sentences(text))

    @property
    def names(self) -> list[str]:
        """The objects of the vocabulary, sorted."""
        return sorted({name for name in self.forms.values() if name is not None})

    def canonical(self, phrase: str) -> str:
        """The object that a phrase names ("puppies" -> "dog"); the phrase in lower case if it names none or several."""
        named = {name for _, _, name, _ in self.objects(f"a {phrase}")}
        return named.pop() if len(named) == 1 else " ".join(phrase.casefold().split())

    def objects(self, text: str) -> list[tuple[int, int, str, bool]]:
        """(start, end, name, denied) of each object in the text, without the prompt's."""
        found, out, at = words(text), [], 0
        longest = max(map(len, self.forms), default=0)
        while at < len(found):
            length = next((n for n in range(longest, 0, -1) if self._phrase(found, at, n) in self.forms), 0)
            phrase = self._phrase(found, at, length) or ()
            name = self.forms.get(phrase)
            if name is not None and (phrase not in self.careful or _is_noun(found, at, length)):
                out.append((found[at].start, found[at + length - 1].end, name, denied(found, at)))
            at += max(length, 1)
        return out

    def _phrase(self, found: Sequence[Word], at: int, length: int) -> tuple[str, ...] | None:
        part = found[at : at + length]
        whole = len(part) == length and all(word.joined for word in part[1:])
        return tuple(word.text for word in part) if whole else None


def read_vocabulary(path: str | Path, name: str | None = None, sentences: Splitter = split) -> Lexicon:
    """The vocabulary in a text file.

    A line is "object: synonym, synonym" or an object alone; "!phrase, phrase" are phrases that name no object, and "#"
    begins a comment. A synonym with a star behind it is taken for the object only where an article or a number stands
    before it and no noun behind. Plurals follow by rule.

    Raises:
        OSError: the file cannot be read, or is no regular one.
        ValueError: more than 4 MiB, no UTF-8, or a line that is none of these or has a synonym of two objects, named.
    """
    path = Path(path)
    try:
        text = read_text(path, _MOST)
    except ValueError as error:
        raise ValueError(f"{path} is no vocabulary that can be read: {error}") from error
    return parse(text.splitlines(), name or f"lexicon:{path}", str(path), sentences)


def parse(
    lines: Iterable[str], name: str = "lexicon", source: str = "the lexicon", sentences: Splitter = split
) -> Lexicon:
    """The vocabulary in the lines of such a file; ValueError as `read_vocabulary`."""
    forms: dict[tuple[str, ...], str | None] = {}
    careful: set[tuple[str, ...]] = set()
    for number, line in enumerate(lines, 1):
        content = line.split("#")[0].strip()
        if not content:
            continue
        where = f"{source}, line {number}"
        head, colon, rest = content.lstrip("!").partition(":")
        named = None if content.startswith("!") else " ".join(head.rstrip("* ").casefold().split())
        if named == "" or (named is None and colon):
            raise ValueError(f"{where}: {shorten(content)} is neither 'object: synonym, synonym' nor '!phrase, phrase'")
        phrases = [head, *rest.split(",")] if named else head.split(",")
        for phrase in map(str.strip, phrases):
            spelt = _forms(phrase.rstrip("* ")) if phrase else []
            for form in spelt:
                if forms.setdefault(form, named) != named:
                    raise ValueError(
                        f"{where}: {shorten(' '.join(form))} is given to {shorten(forms[form])} and to {shorten(named)}"
                    )
            if phrase.endswith("*"):
                careful.update(spelt[:1])
    if not any(forms.values()):
        raise ValueError(f"{source} names no object")
    return Lexicon(forms, frozenset(careful), name, sentences)


def from_names(names: Iterable[str], name: str, sentences: Splitter = split) -> Lexicon:
    """The vocabulary of these objects in singular and plural, without synonyms; they keep their spelling.

    Raises:
        ValueError: a name without a word in it.
    """
    forms: dict[tuple[str, ...], str | None] = {}
    for item in names:
        spelt = _forms(item)
        if not spelt[0]:
            raise ValueError(f"{item!r} names no object: there is no word in it")
        for form in spelt:
            forms.setdefault(form, item)
    return Lexicon(forms, frozenset(), name, sentences)


def _forms(phrase: str) -> list[tuple[str, ...]]:
    single = tuple(word.text for word in words(phrase))
    return [single, *(tuple(plural.split()) for plural in sorted(plurals(" ".join(single))))]


def _is_noun(found: Sequence[Word], at: int, length: int) -> bool:
    """Whether an article or a number stands before, and nothing behind that could be a noun."""
    introduces = listed("determiners", "numbers")
    before = found[at - 1].text if at and found[at].joined else ""
    if before not in introduces and not before.isdigit():
        return False
    rest = found[at + length : at + length + 2]
    if not rest or not rest[0].joined or rest[0].text in listed("prepositions", "verbs"):
        return True
    return rest[0].text in ("and", "or") and len(rest) == 2 and rest[1].text in introduces
