"""Questions that ask for a sentence, and the sentences that answer them, from the questions and words of `ask`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from vtokens.core.errors import unknown

from .compare import COMPARE
from .questions import Asked
from .world import COLUMNS, ROWS, Thing

#: What is put behind a question whose answer shall be a sentence.
REQUEST = "Answer in a sentence."
CAPTION_REQUEST = "Describe the image in sentences."

_SUBJECTS = {
    "exist": r"Is there a (.+) in the image\?",
    "where": r"Where is the (.+)\?",
    "at": r"What is at (.+)\?",
    "colour_at": r"What colour is at (.+)\?",
    "colour_of": r"What colour is the (.+)\?",
    "shape_of": r"What shape is (.+)\?",
    "count_all": r"How many (objects) are there\?",
    "count_colour": r"How many (.+) are there\?",
    "count_shape": r"How many (.+) are there\?",
    "left_of": r"Is the (.+ left of .+)\?",
    "above": r"Is the (.+ above .+)\?",
    "nowhere": r"Where is the (.+)\?",
    "digit": r"What digit is at (.+)\?",
    "sign": r"What does the (sign) say\?",
    "spell": r"Spell the (word) on the sign\.",
    "sign_at": r"What is printed at (.+)\?",
    "sign_where": r"Where is the word (.+)\?",
    "more": r"Which picture has more (.+)\?",
    "same_count": r"Do both pictures show equally many (.+)\?",
    "same_colour": r"Is the (.+) of the same colour in both pictures\?",
    "same_shape": r"Is the (.+) object of the same shape in both pictures\?",
    "in_both": r"Which object do both (pictures) show\?",
}


def spoken(kind: str, question: str, answer: str) -> Asked:
    """The question with the request for a sentence, and the sentence that says what `answer` says.

    Args:
        kind: one of `EVERY_KIND` but "caption" (see `described`) and those of `STORIES`, which are sentences already.
        question, answer: as `vtokens.scenes.questions.ask` or `ask_two` gives them for that kind.

    Raises:
        ValueError: an unknown kind, or a question that is none of its kind.
    """
    kind = "exist" if kind.startswith("pope_") else kind
    if kind not in _SUBJECTS:
        raise unknown("kind", kind, _SUBJECTS)
    found = re.fullmatch(_SUBJECTS[kind], question)
    if found is None:
        raise ValueError(f"{question!r} is no question of kind {kind!r}")
    return f"{question} {REQUEST}", _sentence(kind, found[1], answer)


def described(things: Sequence[Thing]) -> Asked:
    """The request for a caption in sentences, and one sentence a thing, in raster order."""
    ordered = sorted(things, key=lambda t: t.cell)
    return CAPTION_REQUEST, " ".join(f"There is a {t.name} at {ROWS[t.row]} {COLUMNS[t.column]}." for t in ordered)


def _sentence(kind: str, subject: str, answer: str) -> str:
    if kind == "exist":
        return (
            f"Yes, there is a {subject} in the image."
            if answer == "yes"
            else f"No, there is no {subject} in the image."
        )
    if kind in ("left_of", "above"):
        one, how, other = re.split(" (left of|above) ", subject)
        yes = answer == "yes"
        return f"{'Yes' if yes else 'No'}, the {one} is {'' if yes else 'not '}{how} {other}."
    if answer == "nowhere":
        return f"There is no {'word ' if kind == 'sign_where' else ''}{subject} in the image."
    if kind in COMPARE:
        return _compared(kind, subject, answer)
    if kind.startswith("count"):
        if answer == "one":
            return f"There is one {_singular(subject)} in the image."
        return f"There are {'no' if answer == 'zero' else answer} {subject} in the image."
    return {
        "where": f"The {subject} is at {answer}.",
        "nowhere": f"The {subject} is at {answer}.",
        "at": f"There is {answer if answer == 'nothing' else 'a ' + answer} at {subject}.",
        "colour_at": f"The colour at {subject} is {answer}.",
        "colour_of": f"The {subject} is {answer}.",
        "shape_of": f"The {subject} object is a {answer}.",
        "digit": f"The digit at {subject} is {answer}.",
        "sign": f"The sign says {answer}.",
        "spell": f"The letters on the sign are {answer}.",
        "sign_at": f"The word at {subject} is {answer}.",
        "sign_where": f"The word {subject} is at {answer}.",
    }[kind]


def _compared(kind: str, subject: str, answer: str) -> str:
    if kind == "more":
        which = "Neither" if answer == "neither" else f"The {answer}"
        return f"{which} picture has more {subject}."
    if kind == "in_both":
        return f"Both pictures show the {answer}."
    said, negation = ("Yes", "") if answer == "yes" else ("No", "not ")
    if kind == "same_count":
        which = "both pictures show" if answer == "yes" else "the pictures do not show"
        return f"{said}, {which} equally many {subject}."
    subject, what = (f"{subject} object", "shape") if kind == "same_shape" else (subject, "colour")
    return f"{said}, the {subject} is {negation}of the same {what} in both pictures."


def _singular(plural: str) -> str:
    return "cross" if plural == "crosses" else plural.removesuffix("s")
