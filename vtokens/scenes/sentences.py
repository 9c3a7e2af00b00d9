"""Questions that ask for a sentence, and the sentences that answer them, from the questions and words of `ask`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from vtokens.core.errors import unknown

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
}


def spoken(kind: str, question: str, answer: str) -> Asked:
    """The question with the request for a sentence, and the sentence that says what `answer` says.

    Args:
        kind: one of `KINDS` but "caption" (see `described`), or of `POPE` or `HARDER`.
        question, answer: as `vtokens.scenes.questions.ask` gives them for that kind.

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
        return f"There is no {subject} in the image."
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
    }[kind]


def _singular(plural: str) -> str:
    return "cross" if plural == "crosses" else plural.removesuffix("s")
