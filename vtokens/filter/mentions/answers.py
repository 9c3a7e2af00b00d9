"""Answers that say something only together with their question: "yes" to "Is there a dog?" claims a dog."""

from __future__ import annotations

import re
from collections.abc import Callable

from vtokens.filter.mentions.base import Found

_YES_NO = re.compile(r"\W*(yes|yeah|yep|no|nope)\b", re.IGNORECASE)
_IS_THERE = re.compile(
    r"\b(?:is|are)\s+there\s+(?:an?\s+|any\s+|some\s+|the\s+)?(?P<what>[^?.!\n]+?)"
    r"(?:\s+(?:in|on)\s+(?:the|this)\s+(?:image|picture|photo|photograph|scene|frame|video))?\s*\?",
    re.IGNORECASE,
)
_DOES_IT_SHOW = re.compile(
    r"\b(?:does|do)\s+(?:the|this)\s+(?:image|picture|photo|photograph)\s+(?:show|contain|have|include)\s+"
    r"(?:an?\s+|any\s+|some\s+|the\s+)?(?P<what>[^?.!\n]+?)\s*\?|"
    r"\b(?:can|do)\s+you\s+see\s+(?:an?\s+|any\s+|some\s+|the\s+)?(?P<seen>[^?.!\n]+?)"
    r"(?:\s+(?:in|on)\s+(?:the|this)\s+(?:image|picture|photo|photograph))?\s*\?",
    re.IGNORECASE,
)
_CLOSED = re.compile(
    r"\b(?:is|are|was|were|does|do|did|has|have|can|could|will)\s+[^?.!\n]+\?(?![^?]*\?)", re.IGNORECASE
)
_QUESTION = re.compile(r"[^?.!\n]+\?")
_SHORT = 5  # words; longer answers are read as text
_KINDS = (
    (r"\bhow (?:many|much|old)\b|\bnumber of\b", "count"),
    (r"\b(?:say|says|read|reads|written|word|words|text|letters?|brand|name|title|number)\b", "text"),
    (r"\bwhere\b|\bwhich side\b|\bposition\b", "relation"),
    (r"\bcolou?rs?\b|\bshape\b|\bmaterial\b|\bhow\b", "attribute"),
)


def asked_for(prompt: str) -> str | None:
    """What an existence question asks for ("Is there a red car in the image?" -> "red car"); None for other prompts.

    Of several questions, as in a conversation, the last counts.
    """
    found = [*_IS_THERE.finditer(prompt), *_DOES_IT_SHOW.finditer(prompt)]
    if not found:
        return None
    last = max(found, key=lambda match: match.start())
    return last["what"] or last.groupdict().get("seen")


def closed(question: str) -> bool:
    """Whether yes or no answers a question."""
    return asked_for(question) is not None or _CLOSED.match(question.strip()) is not None


def said(text: str) -> tuple[int, int, bool] | None:
    """Where an answer that begins with "yes" or "no" says so, and whether it is "no"."""
    found = _YES_NO.match(text)
    return None if found is None else (*found.span(1), found[1].casefold().startswith("n"))


def answered(text: str, prompt: str, canonical: Callable[[str], str]) -> list[Found]:
    """The mention of a "yes" or "no": the object that is asked for, or else the question itself, as a relation.

    canonical: gives an object its name in the extractor's vocabulary.
    """
    word = said(text)
    if word is None:
        return []
    what = asked_for(prompt)
    if what is not None:
        return [Found(word[0], word[1], "object", canonical(what), word[2])]
    question = _CLOSED.search(prompt)
    if question is None:
        return []
    return [Found(word[0], word[1], "relation", " ".join(question[0].rstrip("?").casefold().split()), word[2])]


def short_answer(text: str, prompt: str) -> list[Found]:
    """An answer of a few words as one mention, of the kind that the question asks for; none where nothing was asked."""
    questions = _QUESTION.findall(prompt)
    answer = text.strip().rstrip(".!")
    if not questions or not answer or len(answer.split()) > _SHORT or not any(c.isalnum() for c in answer):
        return []
    kind = next((kind for pattern, kind in _KINDS if re.search(pattern, questions[-1], re.IGNORECASE)), "object")
    start = text.index(answer)
    return [Found(start, start + len(answer), kind, " ".join(answer.casefold().split()))]
