"""The text of an answer while it is written: whole characters, and nothing that may turn out to be a stop string."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers.decoders import DecodeStream

from vtokens.serve.jobs import Text, Token


class Decoder:
    """What a tokenizer makes of tokens that come one by one; the pieces add up to what it makes of all of them.

    Args:
        tokenizer: the model's; special tokens are left out.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer, self._ids, self._told = tokenizer, list[int](), 0
        self._backend: Any = getattr(tokenizer, "backend_tokenizer", None)
        self._stream = None if self._backend is None else DecodeStream(skip_special_tokens=True)

    def push(self, token: int) -> str:
        """What another token adds: nothing inside of a character of several tokens."""
        self._ids.append(token)
        if self._stream is None:
            whole = self._whole()
            text = "" if whole.endswith("\ufffd") else whole[self._told :]
        else:
            try:
                text = self._stream.step(self._backend, token) or ""
            except Exception:  # it takes some sequences that are no text for an error of ours
                self._stream = None
                self._ids.pop()
                return self.push(token)
        self._told += len(text)
        return text

    def rest(self) -> str:
        """What is left at the end: of a character that was cut off, what stands in its place."""
        return self._whole()[self._told :]

    def _whole(self) -> str:
        text: str = self._tokenizer.decode(self._ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text


@dataclass
class _Held:
    token: Token
    start: int  # in the text of the answer


class Spelling:
    """The pieces in which an answer is sent.

    Args:
        tokenizer: the model's.
        stops: texts that end the answer, and are not sent.

    Attributes:
        stopped: a stop string was written: nothing is sent any more.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str] = ()) -> None:
        self._decoder, self._stops = Decoder(tokenizer), tuple(stops)
        self._held: list[_Held] = []
        self._text, self._sent = "", 0  # what is held of the text, and where that begins in it
        self.stopped = False

    def push(self, id: int, logprob: float | None = None, top: tuple[tuple[int, float], ...] = ()) -> Text | None:
        """Take a token; returns what can be sent now, None if nothing can."""
        text = self._decoder.push(id)
        self._held.append(_Held(Token(id, text, logprob, top), self._sent + len(self._text)))
        searched = max((len(stop) for stop in self._stops), default=1) + len(text) - 1
        self._text += text
        # Nothing before may hold one: it would have been found then.
        start = max(0, len(self._text) - searched)
        found = [at for at in (self._text.find(stop, start) for stop in self._stops) if at >= 0]
        if found:
            self.stopped = True
            return self._send(min(found))
        return self._send(len(self._text) - self._begun()) if text else None

    def flush(self) -> Text | None:
        """What is left once no more tokens come."""
        rest = self._decoder.rest()
        if rest and self._held:
            last = self._held[-1]
            last.token = Token(last.token.id, last.token.text + rest, last.token.logprob, last.token.top)
        self._text += rest
        found = [at for at in map(self._text.find, self._stops) if at >= 0]
        self.stopped = self.stopped or bool(found)
        return self._send(min(found, default=len(self._text)), last=not found)

    def _begun(self) -> int:
        """Characters at the end of what is held with which a stop string may have begun."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for size in range(min(longest, len(self._text)), 0, -1):
            end = self._text[-size:]
            if any(stop.startswith(end) for stop in self._stops):
                return size
        return 0

    def _send(self, size: int, last: bool = False) -> Text | None:
        """Send the first characters of what is held, with the tokens that begin in them."""
        piece, self._text = self._text[:size], self._text[size:]
        self._sent += size
        tokens = []
        while self._held and (last or self._held[0].start < self._sent):
            tokens.append(self._held.pop(0).token)
        return Text(piece, tuple(tokens)) if piece or tokens else None


def spelled(tokenizer: Any, id: int) -> tuple[str, bytes]:
    """A token by itself as clients are told of it: text, and bytes, which are not text inside of some characters."""
    piece = tokenizer.convert_ids_to_tokens(id)
    text: str = tokenizer.decode([id], skip_special_tokens=False, clean_up_tokenization_spaces=False)
    if "\ufffd" not in text:
        return text, text.encode()
    if len(piece) == 6 and piece.startswith("<0x"):  # a byte by itself, as SentencePiece writes it
        return text, bytes([int(piece[3:5], 16)])
    known = _bytes()
    return text, bytes(known[char] for char in piece) if all(char in known for char in piece) else text.encode()


def _bytes() -> dict[str, int]:
    """The bytes that byte-level tokenizers write as characters: those that can be seen stand for themselves."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {**{chr(byte): byte for byte in plain}, **{chr(256 + n): byte for n, byte in enumerate(others)}}
