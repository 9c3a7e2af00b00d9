"""A text without some of its parts, mended: a list keeps its lead, its "and" and its verb, sentences keep their stops.

Where a sentence cannot be mended by these rules, all of it goes: leaving out more never breaks a guarantee.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from vtokens.filter.mentions.words import listed, words
from vtokens.filter.sentences import Span, split

_LEAD = re.compile(
    r"(?:(?:there|here)\s+(?P<be>is|are)|it\s+(?:shows|has|contains|depicts)|(?:i|we|you)\s+(?:can\s+)?see|"
    r"(?:the|this)\s+(?:image|picture|photo|photograph|scene|video)\s+"
    r"(?:shows|contains|has|depicts|features|includes))\s+(?=\S)",
    re.IGNORECASE,
)
_AND = re.compile(r"(and|or)\s+(?=\S)", re.IGNORECASE)
_DEPENDS = ("which", "who", "whose", "that", "where", "while", "with", "each", "both", "all")
_ONE, _MORE = ("a", "an", "one"), ("several", "some", "many", "few", "various", "both", "multiple")


def pieces(text: str, spans: Sequence[Span], drop: Sequence[bool]) -> tuple[list[str | None], str]:
    """What is shown of each span, with what joins it to those shown before, and what stands behind the last.

    Args:
        text, spans: the text and the parts of it that are dropped as one, in order: sentences, or clauses of them.
        drop: for each, whether it has to go.

    Returns:
        A text for each span, None for what is left out: what had to go, and what cannot stand without it; and the end.
    """
    shown: list[str | None] = [None] * len(spans)
    carry, stop, end = text[: spans[0][0]] if spans else "", "", 0
    groups = _sentences(text, spans)
    for number, (members, end) in enumerate(groups):
        parts = [text[slice(*spans[i])] for i in members]
        joins = [text[spans[i][1] : spans[i + 1][0]] for i in members[:-1]]
        kept = _mended(parts, joins, [drop[i] for i in members])
        if all(one is None for one in kept):
            continue
        for i, one in zip(members, kept, strict=True):
            if one is not None:
                shown[i], carry = carry + one, ""
        stop = text[spans[members[-1]][1] : end]
        after = spans[groups[number + 1][0][0]][0] if number + 1 < len(groups) else end
        carry = stop + text[end:after]
    return shown, stop + text[end:] if any(one is not None for one in shown) else ""


def text_of(shown: Sequence[str | None], end: str) -> str:
    """The text that `pieces` leaves."""
    return "".join([*(one for one in shown if one is not None), end])


def waits_for(text: str, spans: Sequence[Span], number: int) -> int | None:
    """The last span of the sentence of span `number`, where what is shown of this depends on what follows it there.

    So it does in a list with a lead; elsewhere None.
    """
    members = next(members for members, _ in _sentences(text, spans) if number in members)
    first = text[slice(*spans[members[0]])]
    listing = _LEAD.match(first) is not None or _begins(first) in listed("determiners")
    return members[-1] if listing else None


def _sentences(text: str, spans: Sequence[Span]) -> list[tuple[list[int], int]]:
    """Spans by the sentence they begin in, and where that ends."""
    found: list[tuple[list[int], int]] = []
    ends, at, before = split(text), 0, -1
    for number, (start, stop) in enumerate(spans):
        while at + 1 < len(ends) and ends[at][1] <= start:
            at += 1
        if at == before:
            found[-1][0].append(number)
            found[-1] = (found[-1][0], max(found[-1][1], stop))
        else:
            found.append(([number], max(stop, ends[at][1] if ends else stop)))
        before = at
    return found


def _mended(parts: Sequence[str], joins: Sequence[str], drop: Sequence[bool]) -> list[str | None]:
    gone, nothing = list(drop), [None] * len(parts)
    if not any(gone):
        return [before + part for before, part in zip(["", *joins], parts, strict=True)]
    for i in range(1, len(parts)):  # "a dog, which sleeps"
        gone[i] = gone[i] or (gone[i - 1] and _depends(parts[i]))
    if all(gone):
        return list(nothing)
    lead, listing = _LEAD.match(parts[0]), _begins(parts[0]) in listed("determiners")
    if lead is None and _verb(parts[0]):
        return list(nothing) if gone[0] else _joined(parts, joins, gone)
    if gone[0] and any(word.text in listed("denials") for word in words(parts[0])):
        return list(nothing)  # "no dogs, cats or birds": what follows would claim the opposite
    if lead is None and not listing:
        return _joined(parts, joins, gone)
    if lead is None and any(map(_verb, parts)):
        return list(nothing)  # "A man, a dog and a cat are playing"
    return _list(parts, joins, gone, lead)


def _joined(parts: Sequence[str], joins: Sequence[str], gone: Sequence[bool]) -> list[str | None]:
    """Each part that stays, behind what followed the one before it."""
    found: list[str | None] = []
    join: str | None = None
    for i, part in enumerate(parts):
        if gone[i]:
            found.append(None)
            continue
        said = _AND.sub("", part, count=1) if join is None and _AND.match(part) else part
        if join is None and i and parts[0][:1].isupper():
            said = said[:1].upper() + said[1:]
        found.append((join or "") + said)
        join = joins[i] if i < len(joins) else ""
    return found


def _list(
    parts: Sequence[str], joins: Sequence[str], gone: Sequence[bool], lead: re.Match[str] | None
) -> list[str | None]:
    """A list: its lead before the first item that stays, and its conjunction before the last."""
    items = [parts[0][lead.end() :] if lead else parts[0], *parts[1:]]
    led = [_AND.match(item) for item in items]
    items = [item[m.end() :] if m else item for item, m in zip(items, led, strict=True)]
    inner = [re.search(r"\s(and|or)\s", item) for item in items]
    conjunction = next((m[1] for m in (*led, *inner) if m), None)
    oxford = any(led)
    stays = [i for i, one in enumerate(gone) if not one and not _depends(items[i])]
    kept = [i for i, one in enumerate(gone) if not one]
    found: list[str | None] = [None] * len(items)
    for place, i in enumerate(kept):
        said = items[i]
        if place == 0:
            front = _agreeing(lead, said, len(stays)) if lead else ""
            said = said if lead or not parts[0][:1].isupper() else said[:1].upper() + said[1:]
            found[i] = front + said
        elif conjunction and i == stays[-1] and i != stays[0] and not inner[i]:
            comma = joins[kept[place - 1]].rstrip() if (oxford and len(stays) > 2) or i - kept[place - 1] > 1 else ""
            comma = comma if len(kept) > 2 else ""
            found[i] = f"{comma} {conjunction} {said}"
        else:
            found[i] = joins[i - 1] + said
    return found


def _agreeing(lead: re.Match[str], item: str, count: int) -> str:
    """The lead with "is" or "are" as the first item asks for."""
    if lead["be"] is None:
        return lead[0]
    word, be = _begins(item), lead["be"]
    if word in _ONE and count == 1 and not re.search(r"\s(?:and|or)\s", item):
        be = "is"
    elif word in _MORE or (word in listed("numbers") and word != "one") or (word.isdecimal() and word != "1"):
        be = "are"
    start, end = lead.start("be") - lead.start(), lead.end("be") - lead.start()
    return lead[0][:start] + be + lead[0][end:]


def _begins(part: str) -> str:
    found = words(part)
    return found[0].text if found else ""


def _depends(part: str) -> bool:
    first = _begins(part)
    return first in _DEPENDS or (first.endswith("ing") and first not in listed("nouns"))


def _verb(part: str) -> bool:
    return any(word.text in listed("verbs", "copulas") for word in words(part))
