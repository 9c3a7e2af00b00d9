"""The decoders of `tokenizers`, step by step, with the token that each character came from.

A decoder turns a list of pieces (one a token) into another, and the text is what is left, joined. The same steps are
taken here on pieces whose characters know their first and last token.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

Owner = tuple[int, int]  # the first and the last token
NOBODY: Owner = (0, -1)  #: owner of what no token wrote
_BYTE = re.compile("<0x([0-9A-Fa-f]{2})>")


class Unsupported(Exception):
    """A decoder whose steps are not known here."""


@dataclass
class Piece:
    """Characters, and the (first, last) token that each came from."""

    text: str = ""
    owners: list[Owner] = field(default_factory=list)

    def __add__(self, other: Piece) -> Piece:
        return Piece(self.text + other.text, self.owners + other.owners)


def token_pieces(tokens: Iterable[tuple[int, str]]) -> list[Piece]:
    """One piece for each (number, token)."""
    return [Piece(token, [(number, number)] * len(token)) for number, token in tokens]


def decode(decoder: Any, pieces: list[Piece]) -> Piece:
    """What a decoder of `tokenizers` makes of the pieces; None joins them with spaces, as `tokenizers` does.

    Raises:
        Unsupported: another decoder than ByteLevel, ByteFallback, Fuse, Metaspace, Replace, Strip and their sequences.
    """
    if decoder is None:
        space = Piece(" ", [NOBODY])
        return fuse(part for i, piece in enumerate(pieces) for part in ([space, piece] if i else [piece]))
    return fuse(_step(_read(decoder.__getstate__()), pieces))


_read = lru_cache(maxsize=8)(json.loads)


def fuse(pieces: Iterable[Piece]) -> Piece:
    """All pieces as one."""
    whole = Piece()
    for piece in pieces:
        whole.text += piece.text
        whole.owners += piece.owners
    return whole


def _step(step: dict[str, Any], pieces: list[Piece]) -> list[Piece]:
    kind = step["type"]
    if kind == "Sequence":
        for part in step["decoders"]:
            pieces = _step(part, pieces)
        return pieces
    if kind == "Replace" and "String" in step["pattern"]:
        return [_replace(piece, step["pattern"]["String"], step["content"]) for piece in pieces]
    if kind == "Metaspace":
        first = " " if step["prepend_scheme"] == "never" else ""
        return [_replace(piece, step["replacement"], " " if i else first) for i, piece in enumerate(pieces)]
    if kind == "Strip":
        return [_strip(piece, step["content"], step["start"], step["stop"]) for piece in pieces]
    if kind == "Fuse":
        return [fuse(pieces)]
    if kind == "ByteFallback":
        return _byte_fallback(pieces)
    if kind == "ByteLevel":
        return [_byte_level(pieces)]
    raise Unsupported(kind)


def _replace(piece: Piece, old: str, new: str) -> Piece:
    if old not in piece.text:
        return piece
    out, at = Piece(), 0
    while (found := piece.text.find(old, at)) >= 0:
        owner = (piece.owners[found][0], piece.owners[found + len(old) - 1][1])
        out += Piece(piece.text[at:found] + new, piece.owners[at:found] + [owner] * len(new))
        at = found + len(old)
    return out + Piece(piece.text[at:], piece.owners[at:])


def _strip(piece: Piece, content: str, start: int, stop: int) -> Piece:
    first, last = 0, len(piece.text)
    while first < min(start, last) and piece.text[first] == content:
        first += 1
    while last > max(first, len(piece.text) - stop) and piece.text[last - 1] == content:
        last -= 1
    return Piece(piece.text[first:last], piece.owners[first:last])


def _byte_fallback(pieces: list[Piece]) -> list[Piece]:
    """Runs of <0xNN> become characters; a run that is no UTF-8 becomes one U+FFFD a byte."""
    out: list[Piece] = []
    run: list[tuple[int, Owner]] = []
    for piece in [*pieces, Piece()]:
        byte = _BYTE.fullmatch(piece.text)
        if byte:
            run.append((int(byte[1], 16), (piece.owners[0][0], piece.owners[-1][1])))
            continue
        if run:
            try:
                bytes(value for value, _ in run).decode()
            except UnicodeDecodeError:
                out += [Piece("\ufffd", [owner]) for _, owner in run]
            else:
                out.append(_from_bytes(run))
            run = []
        out.append(piece)
    return out


def _byte_level(pieces: list[Piece]) -> Piece:
    alphabet, run = byte_alphabet(), list[tuple[int, Owner]]()
    for piece in pieces:
        known = all(c in alphabet for c in piece.text)  # an added token may hold other characters: it stands for itself
        for char, owner in zip(piece.text, piece.owners, strict=True):
            run += [(value, owner) for value in ([alphabet[char]] if known else char.encode())]
    return _from_bytes(run)


def _from_bytes(run: list[tuple[int, Owner]]) -> Piece:
    """The text of (byte, owner) pairs in UTF-8, each stretch that is none as one U+FFFD."""
    data, out, at = bytes(value for value, _ in run), Piece(), 0
    while at < len(data):
        try:
            text, bad, end = data[at:].decode(), "", len(data)
        except UnicodeDecodeError as error:
            text, bad, end = data[at : at + error.start].decode(), "\ufffd", at + error.end
        for char in text:
            width = len(char.encode())
            out.text += char
            out.owners.append((run[at][1][0], run[at + width - 1][1][1]))
            at += width
        if bad:
            out.text += bad
            out.owners.append((run[at][1][0], run[end - 1][1][1]))
            at = end
    return out


@lru_cache(maxsize=1)
def byte_alphabet() -> dict[str, int]:
    """The byte that each character of a byte-level vocabulary stands for.

    Printable Latin-1 characters stand for themselves, the other bytes in turn for those from U+0100 on (the alphabet
    of GPT-2's tokenizer).
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}
