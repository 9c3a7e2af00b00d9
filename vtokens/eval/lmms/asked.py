"""lmms-eval's requests, read: which document, what to ask, how to generate, and which of them share a batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from vtokens.eval.lmms.generation import GenerationSettings, settings
from vtokens.eval.lmms.media import content


@dataclass(frozen=True)
class Asked:
    """One request.

    Attributes:
        task, doc: where it comes from.
        repeat: how many requests for the same document came before it.
        length: characters of the question, by which batches are put together.
        messages: gives lmms-eval's `ChatMessages`; the document's media are decoded when it is called.
        settings: how to generate; None for a request that is only scored.
    """

    task: str
    doc: int
    repeat: int
    length: int
    messages: Callable[[], Any]
    settings: GenerationSettings


def read_requests(requests: Sequence[Any], documents: Any, simple: bool, max_new_tokens: int) -> list[Asked]:
    """The `generate_until` requests of lmms-eval, in their order.

    Args:
        requests: `Instance`s with the arguments of the simple or the chat interface.
        documents: task -> split -> documents.
        simple: which of the two.
        max_new_tokens: for tasks that set no limit.
    """
    seen: Counter[tuple[str, int]] = Counter()
    found = []
    for request in requests:
        if simple:
            context, given, source, doc, task, split = request.args
            messages = partial(_simple, source, documents, task, split, doc, context)
        else:
            context, source, given, doc, task, split = request.args
            messages = partial(_chat, source, documents, task, split, doc)
        found.append(Asked(task, doc, seen[task, doc], len(context), messages, settings(given or {}, max_new_tokens)))
        seen[task, doc] += 1
    return found


def batches(asked: Sequence[Asked], size: int) -> list[list[int]]:
    """The numbers of the requests that go together: at most `size`, of equal settings, of similar length, long first.

    It depends on the requests alone, so an interrupted run falls into the same batches when it is taken up.
    """
    order = sorted(range(len(asked)), key=lambda i: (asked[i].settings.key, -asked[i].length, i))
    found: list[list[int]] = []
    for i in order:
        last = found[-1] if found else []
        if last and len(last) < size and asked[last[0]].settings.key == asked[i].settings.key:
            last.append(i)
        else:
            found.append([i])
    return found


def _chat(source: Callable[[Any], Any], documents: Any, task: str, split: str, doc: int) -> Any:
    from lmms_eval.protocol import ChatMessages

    return ChatMessages(messages=source(documents[task][split][doc]))


def _simple(source: Any, documents: Any, task: str, split: str, doc: int, context: str) -> Any:
    visuals = source(documents[task][split][doc]) if source is not None else None
    return user_turn(visuals, context)


def user_turn(visuals: Sequence[Any] | None, context: str) -> Any:
    """The `ChatMessages` of one user who shows `visuals` and says `context`."""
    from lmms_eval.protocol import ChatMessages

    parts = [content(visual) for visual in visuals or ()]
    return ChatMessages(messages=[{"role": "user", "content": [*parts, {"type": "text", "text": context}]}])
