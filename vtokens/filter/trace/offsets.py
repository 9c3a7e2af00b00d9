"""Character spans of generated tokens, built from the ids: text that is encoded again may be cut into other tokens.

Re-encoding decoded text is unreliable: a model may spell a word in other tokens than its tokenizer would, and the
offsets then belong to tokens that were never generated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vtokens.filter.mentions.base import Span

from .pieces import Unsupported, decode, token_pieces


def token_spans(tokenizer: Any, ids: Sequence[int], text: str | None = None) -> tuple[str, list[Span]]:
    """The text of generated ids, and the characters of it that each token wrote.

    Args:
        tokenizer: of transformers, fast or slow.
        ids: of one response, without its prompt; special tokens and padding may be among them.
        text: the response as it was shown, if it differs from the decoded one in white space or letter case
            (stripped, say); the spans are then of this text.

    Returns:
        (text, spans): `tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)` or the
        given text; one (start, end) a token. Tokens that share a character overlap; special tokens and others that
        wrote nothing have start == end.

    Raises:
        ValueError: `text` is another text than that of the ids.
    """
    ids = [int(i) for i in ids]
    whole = _decode(tokenizer, ids)
    spans = _built(tokenizer, ids, whole)
    if spans is None:
        spans = by_prefixes(tokenizer, ids)
    return (whole, spans) if text is None else (text, moved(whole, spans, text))


def encode_with_spans(tokenizer: Any, text: str) -> tuple[list[int], list[Span]]:
    """The ids of a response that was written elsewhere, and the characters of each; no special tokens are added.

    The unknown token has no characters: whatever it stands for, the model cannot read it.

    Raises:
        ValueError: a slow tokenizer whose ids do not give the text back.
    """
    if getattr(tokenizer, "is_fast", False):
        found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids, unknown = list(found["input_ids"]), tokenizer.unk_token_id
        places = zip(ids, found["offset_mapping"], strict=True)
        return ids, [(int(a), int(a if token == unknown else b)) for token, (a, b) in places]
    ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    return ids, token_spans(tokenizer, ids, text)[1]


def by_prefixes(tokenizer: Any, ids: Sequence[int]) -> list[Span]:
    """The spans from decoding every prefix: for any tokenizer, in time quadratic in the length.

    A prefix that ends in U+FFFD, or is no longer than the last, may have cut a character: its tokens wait for the one
    that completes it and share its span.
    """
    ids, special = list(ids), set(tokenizer.all_special_ids)
    whole, spans, at = _decode(tokenizer, ids), list[Span](), 0
    for end, last in enumerate(ids, 1):
        prefix = _decode(tokenizer, ids[:end])
        reached = max(at, _shared(prefix, whole))
        if last in special:
            spans += [(at, reached)] * (end - 1 - len(spans)) + [(reached, reached)]
        elif end == len(ids) or (reached > at and not prefix.endswith("\ufffd")):
            spans += [(at, reached)] * (end - len(spans))
        else:
            continue
        at = reached
    return spans


def moved(text: str, spans: Sequence[Span], other: str) -> list[Span]:
    """Spans of `text` as spans of `other`, which differs from it in white space or letter case only.

    Raises:
        ValueError: it differs in more.
    """
    at = text.find(other)
    if at >= 0 and not text[:at].strip() and not text[at + len(other) :].strip():
        return _trimmed(text, spans, at)
    here, there = _written(text), _written(other)
    if len(here) != len(there) or any(_fold(text[a]) != _fold(other[b]) for a, b in zip(here, there, strict=True)):
        raise ValueError(f"the response {_short(other)} is not the text of the tokens, {_short(text)}")
    place, out, at = dict(zip(here, there, strict=True)), list[Span](), 0
    for start, end in spans:
        inside = [place[i] for i in range(start, end) if i in place]
        out.append((inside[0], inside[-1] + 1) if inside else (at, at))
        at = max(at, out[-1][1])
    return out


def _trimmed(text: str, spans: Sequence[Span], before: int) -> list[Span]:
    """Spans of a text without the white space around it, `before` characters of it in front, and without theirs."""
    out, at = list[Span](), 0
    for start, end in spans:
        part = text[start:end]
        rest = part.lstrip()
        first = end - len(rest) - before
        last = first + len(rest.rstrip())
        out.append((first, last) if rest else (at, at))
        at = max(at, out[-1][1])
    return out


def _built(tokenizer: Any, ids: list[int], whole: str) -> list[Span] | None:
    """The spans by the tokenizer's own decoder; None where it is not known, or gives another text."""
    core = getattr(tokenizer, "backend_tokenizer", None)
    if core is None:
        return None
    special = {i for i, token in core.get_added_tokens_decoder().items() if token.special}
    named = [(i, core.id_to_token(token)) for i, token in enumerate(ids) if token not in special]
    try:
        piece = decode(core.decoder, token_pieces((i, token) for i, token in named if token))
    except Unsupported:
        return None
    if piece.text != whole:
        return None
    first, last = [len(whole)] * len(ids), [0] * len(ids)
    for at, (a, b) in enumerate(piece.owners):
        for token in range(a, b + 1):
            first[token], last[token] = min(first[token], at), at + 1
    spans, at = list[Span](), 0
    for start, end in zip(first, last, strict=True):
        spans.append((start, end) if end else (at, at))
        at = max(at, end)
    return spans


def _decode(tokenizer: Any, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _shared(a: str, b: str) -> int:
    """How many characters two texts begin with in common."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _written(text: str) -> list[int]:
    return [i for i, c in enumerate(text) if not c.isspace()]


def _fold(char: str) -> str:
    return char.casefold()


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
