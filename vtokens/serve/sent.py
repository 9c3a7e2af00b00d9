"""What is sent of a chat: its answer whole, or in pieces, and the headers before it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from vtokens.serve.answers import (
    AnswerMessage,
    ChatAnswer,
    ChatChunk,
    Choice,
    ChunkChoice,
    Delta,
    Logprobs,
    Usage,
    VtokensAnswer,
)
from vtokens.serve.chat import Piece, Talk
from vtokens.serve.shown import told
from vtokens.serve.writing import Writer


async def whole(talk: Talk) -> ChatAnswer:
    """The answer, once it is complete."""
    async for _ in talk.pieces():
        pass
    choices = [_choice(talk, writer) for writer in talk.writers]
    return ChatAnswer(
        id=f"chatcmpl-{talk.id}",
        created=talk.created,
        model=talk.wish.model,
        choices=choices,
        usage=_usage(talk),
        vtokens=_told(talk),
    )


async def chunks(talk: Talk, first: Piece, rest: AsyncGenerator[Piece, None]) -> AsyncGenerator[ChatChunk, None]:
    """The answer in pieces: roles, texts, how each choice ended, and what was used."""
    usage = talk.asked.stream_options is not None and bool(talk.asked.stream_options.include_usage)
    for writer in talk.writers:
        yield _chunk(talk, writer, Delta(role="assistant", content=""))
    piece: Piece | None = first
    while piece is not None:
        writer, deltas, likely = piece
        if likely is not None and not deltas:
            deltas = [Delta()]
        for number, delta in enumerate(deltas):
            yield _chunk(talk, writer, delta, likely if number == 0 else None)
        if writer.finish is not None:
            chunk = _chunk(talk, writer, Delta())
            chunk.choices[0].finish_reason = writer.finish
            if not usage and all(one.finish is not None for one in talk.writers):
                chunk.vtokens = _told(talk)
            yield chunk
        piece = await anext(rest, None)
    if usage:
        yield ChatChunk(**_head(talk), choices=[], usage=_usage(talk), vtokens=_told(talk))


def headers(talk: Talk, final: bool) -> dict[str, str]:
    """What a gateway reads; before the end only what is known then."""
    found = {"x-vtokens-strategy": _header(talk.wish.strategy)}
    if talk.did is not None:
        found["x-vtokens-kept"] = str(talk.did.kept)
    if final and talk.verdict is not None:
        found["x-vtokens-flags"] = str(len(talk.verdict.marks))
    return found


def _usage(talk: Talk) -> Usage:
    """What was fed and generated; the prompt of several choices counts once."""
    fed = talk.did.fed if talk.did is not None else 0
    return Usage(prompt_tokens=fed, completion_tokens=talk.tokens, total_tokens=fed + talk.tokens)


def _told(talk: Talk) -> VtokensAnswer:
    """What became of visual tokens."""
    assert talk.did is not None
    return told(talk.wish.strategy, talk.did, talk.seen, talk.verdict)


def _choice(talk: Talk, writer: Writer) -> Choice:
    assert writer.finish is not None
    calls = [call.model_copy(update={"index": None}) for call in writer.calls]
    message = AnswerMessage(
        role="assistant",
        # Between calls there is often nothing but space.
        content=writer.content if writer.content.strip() or not calls else None,
        reasoning_content=writer.reasoning or None,
        tool_calls=calls or None,
        vtokens=talk.verdict,
    )
    likely = Logprobs(content=writer.likely) if talk.asked.logprobs else None
    return Choice(index=writer.index, message=message, finish_reason=writer.finish, logprobs=likely)


def _chunk(talk: Talk, writer: Writer, delta: Delta, likely: Logprobs | None = None) -> ChatChunk:
    return ChatChunk(**_head(talk), choices=[ChunkChoice(index=writer.index, delta=delta, logprobs=likely)])


def _head(talk: Talk) -> dict[str, Any]:
    return {"id": f"chatcmpl-{talk.id}", "created": talk.created, "model": talk.wish.model}


def _header(text: str) -> str:
    """Text as a header's value: visible ASCII, and not too long."""
    plain = text.encode("ascii", "backslashreplace").decode()
    return "".join(char if " " <= char <= "~" else " " for char in plain)[:1000]
