"""From what the batcher says of one answer to the pieces that a client is sent."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from vtokens.serve.answers import Delta, Finish, Likely, Logprobs, MadeCall, MadeFunction, TokenLogprob
from vtokens.serve.errors import Refused
from vtokens.serve.jobs import End, Text, Token

Spelled = Callable[[int], tuple[str, bytes]]


class Reader(Protocol):
    """Reads reasoning and tool calls in what a model writes, piece by piece."""

    def begin(self) -> Iterable[Any]:
        """What the prompt has begun of the answer."""

    def feed(self, text: str) -> Iterable[Any]:
        """Text, reasoning and calls that are whole, in order."""

    def end(self) -> Iterable[Any]:
        """What is left."""


class Said(str):
    """Text of the answer."""


class Reasoned(str):
    """Text of the model's reasoning."""


class Called:
    """A call of a tool: its name, and its arguments as JSON."""

    def __init__(self, name: str, arguments: str) -> None:
        self.name, self.arguments = name, arguments


class Writer:
    """One of the answers to a request, while it is written.

    Args:
        request: the request's id, which calls of tools get theirs from.
        index: of the choice.
        spelled: how a token is written in `logprobs`.
        reader: None where all that the model writes is its answer.
        specials: tokens that only the reader sees.

    Attributes:
        content, reasoning, calls, likely: all that came so far.
    """

    def __init__(
        self, request: str, index: int, spelled: Spelled, reader: Reader | None = None, specials: Iterable[int] = ()
    ) -> None:
        self._request, self.index, self._spelled = request, index, spelled
        self._reader, self._specials = reader, frozenset(specials)
        self._owed = 0
        self.content, self.reasoning = "", ""
        self.calls: list[MadeCall] = []
        self.likely: list[TokenLogprob] = []
        self.finish: Finish | None = None

    def begin(self) -> list[Delta]:
        """What the prompt has begun."""
        return self._deltas(self._reader.begin()) if self._reader is not None else []

    def feed(self, piece: Text) -> tuple[list[Delta], Logprobs | None]:
        """What a piece adds, and its log-probabilities."""
        found = [self._likely(token) for token in piece.tokens if token.logprob is not None]
        self.likely += found
        if self._reader is None:
            parts: Iterable[Any] = [Said(piece.text)] if piece.text else []
        else:
            parts = self._reader.feed(self._raw(piece))
        return self._deltas(parts), Logprobs(content=found) if found else None

    def end(self, end: End) -> list[Delta]:
        """What is left at the end.

        Raises:
            Refused: the answer was cut by time, or because the server shuts down.
        """
        if end.reason == "deadline":
            raise too_slow()
        if end.reason in ("drained", "cancelled"):
            raise shutting_down()
        deltas = self._deltas(self._reader.end()) if self._reader is not None else []
        self.finish = "tool_calls" if self.calls else "length" if end.reason == "length" else "stop"
        return deltas

    def _raw(self, piece: Text) -> str:
        """The text of a piece with its special tokens; what a stop string cut off stays off."""
        # The end of an earlier token may have waited, as long as a stop string could have begun with it.
        parts = [piece.text[: self._owed]]
        left = len(piece.text) - len(parts[0])
        self._owed += sum(len(token.text) for token in piece.tokens) - len(piece.text)
        for token in piece.tokens:
            if token.id in self._specials:
                parts.append(self._spelled(token.id)[0])
            else:
                parts.append(token.text[:left])
                left -= len(parts[-1])
        return "".join(parts)

    def _deltas(self, parts: Iterable[Any]) -> list[Delta]:
        made = []
        for part in parts:
            if isinstance(part, Called):
                number = len(self.calls)
                call = MadeCall(
                    index=number,
                    id=f"call_{self._request}_{self.index}_{number}",
                    function=MadeFunction(name=part.name, arguments=part.arguments),
                )
                self.calls.append(call)
                made.append(Delta(tool_calls=[call]))
            elif isinstance(part, Reasoned):
                self.reasoning += part
                made.append(Delta(reasoning_content=str(part)))
            else:
                self.content += part
                made.append(Delta(content=str(part)))
        return made

    def _likely(self, token: Token) -> TokenLogprob:
        assert token.logprob is not None
        top = [self._one(number, value) for number, value in token.top]
        return TokenLogprob(**self._one(token.id, token.logprob).model_dump(), top_logprobs=top)

    def _one(self, number: int, value: float) -> Likely:
        text, data = self._spelled(number)
        return Likely(token=text, logprob=max(value, -9999.0), bytes=list(data))


def shutting_down() -> Refused:
    """The refusal of a server that is about to end."""
    message = "the server is shutting down and takes no more requests"
    return Refused(503, message, code="draining", kind="server_error", headers={"Retry-After": "5"})


def too_slow() -> Refused:
    """The refusal of a request whose time is over."""
    message = "the request took longer than it may: ask for fewer tokens, or try again when less is going on"
    return Refused(504, message, code="deadline_exceeded", kind="server_error")
