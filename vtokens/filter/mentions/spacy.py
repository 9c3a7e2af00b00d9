"""Mentions by spaCy's noun phrases and parse trees (the optional extra `nlp`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from vtokens.core.extras import needs
from vtokens.filter.mentions.answers import answered, short_answer
from vtokens.filter.mentions.base import Found, Mention, Splitter, arrange
from vtokens.filter.mentions.words import listed
from vtokens.filter.sentences import split

_MODEL = "en_core_web_sm"


@dataclass(frozen=True)
class Spacy:
    """An extractor on top of a spaCy pipeline with a parser and a tagger, of any language that has noun phrases.

    Attributes:
        nlp: the pipeline.
        name, sentences: see `Extractor`.
    """

    nlp: Any
    name: str = "spacy"
    sentences: Splitter = split

    def __call__(self, text: str, prompt: str = "") -> list[Mention]:
        """Objects, attributes and counts of noun phrases, relations between them, and words in quotation marks."""
        found = answered(text, prompt, lambda phrase: _lemmas(self.nlp(phrase)))
        doc = self.nlp(text)
        heads: dict[int, str] = {}
        for chunk in doc.noun_chunks:
            found += _claims(chunk, heads)
        found += _relations(doc, heads)
        return arrange(text, found or short_answer(text, prompt), self.sentences(text))


def load(model: str = _MODEL) -> Spacy:
    """The extractor with an installed spaCy pipeline.

    Raises:
        ImportError: spaCy or the pipeline is not installed; says how to install it.
    """
    return Spacy(_pipeline(model), "spacy" if model == _MODEL else f"spacy:{model}")


@lru_cache(maxsize=2)
def _pipeline(model: str) -> Any:
    with needs("nlp", "the extractor 'spacy'"):
        import spacy
    try:
        return spacy.load(model)
    except OSError as error:
        raise ImportError(f"spaCy has no pipeline {model!r}: python -m spacy download {model}") from error


def _claims(chunk: Any, heads: dict[int, str]) -> Iterator[Found]:
    """The mentions of a noun phrase; its head goes to `heads` with the object's name if it is one."""
    head = chunk.root
    if head.pos_ not in ("NOUN", "PROPN") or head.lower_ in listed("abstract", "feelings"):
        return
    # A compound belongs to the object: "fire hydrant".
    first = min((word.i for word in chunk if word.dep_ == "compound" and word.head.i == head.i), default=head.i)
    name = _lemmas(chunk.doc[first : head.i + 1])
    no = any(word.lower_ in listed("denials") for word in chunk) or any(
        child.dep_ == "neg" for child in [*head.children, *head.head.children]
    )
    heads[head.i] = name
    for word in chunk:
        if word.dep_ == "nummod" or word.pos_ == "NUM":
            yield _found(word, word, "count", f"{word.lower_} {chunk.doc[first : head.i + 1].text.lower()}", no)
        elif word.dep_ == "amod" or (word.pos_ == "ADJ" and word.i < first):
            yield _found(word, word, "attribute", f"{word.lower_} {name}", no)
    yield _found(chunk.doc[first], head, "object", name, no)


def _relations(doc: Any, heads: dict[int, str]) -> Iterator[Found]:
    """Prepositions between two objects: "a dog on a bench", "a dog sitting on a bench"."""
    for word in doc:
        ends = [child.i for child in word.children if child.dep_ == "pobj" and child.i in heads]
        if word.dep_ != "prep" or not ends:
            continue
        verb, owner = None, word.head
        if owner.i not in heads and owner.pos_ in ("VERB", "AUX"):
            verb = owner
            subjects = [child for child in verb.children if child.dep_ in ("nsubj", "nsubjpass")]
            owner = subjects[0] if subjects else verb.head
        if owner.i in heads and owner.i < word.i:
            first = verb if verb is not None and verb.i < word.i else word
            said = doc[first.i : word.i + 1].text.lower()
            yield _found(first, word, "relation", f"{heads[owner.i]} {said} {heads[ends[0]]}")


def _found(first: Any, last: Any, kind: str, name: str, no: bool = False) -> Found:
    return Found(first.idx, last.idx + len(last), kind, name, no)


def _lemmas(words: Any) -> str:
    """The words in lower case, the last by its lemma where the pipeline gives lemmas."""
    *before, last = [word for word in words if not word.is_space] or [None]
    if last is None:
        return ""
    return " ".join([*(word.lower_ for word in before), (last.lemma_ or last.lower_).lower()])
