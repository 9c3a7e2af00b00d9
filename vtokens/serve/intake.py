"""What a chat asks for, made ready and handed to the model's thread: pictures opened, prompt made, jobs submitted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from PIL import Image
from starlette.requests import Request

from vtokens.loading.media import Medium
from vtokens.serve.asked import ChatRequest
from vtokens.serve.chat import Event, Talk
from vtokens.serve.checked import wrong
from vtokens.serve.filtered import Filtering, options
from vtokens.serve.jobs import Job
from vtokens.serve.limits import Limits, check_prompt
from vtokens.serve.model import Served
from vtokens.serve.programs import Wish
from vtokens.serve.refusals import refused
from vtokens.serve.shown import seen_shares
from vtokens.serve.tongue import Tongue
from vtokens.serve.writing import Writer, too_slow


class Intake:
    """Takes chats in.

    Args:
        served: the model, and what requests need.
        tongue: speaks to it.
    """

    def __init__(self, served: Served, tongue: Tongue) -> None:
        self._served, self._tongue = served, tongue

    def check(self, asked: ChatRequest, wish: Wish) -> None:
        """Raise `Refused` for what this model cannot do, or not beside the filter."""
        self._tongue.check(asked)
        if asked.tools and asked.tool_choice != "none" and not self._tongue.calls:
            message = "this model's chat template knows no tools, or nobody knows how it writes their calls"
            raise wrong(message, "tools", "unsupported_by_model")
        filtered = {
            "tools": asked.tools, "logprobs": asked.logprobs, "stop": asked.stop, "n": (asked.n or 1) > 1,
            "logit_bias": asked.adjust and asked.logit_bias, "frequency_penalty": asked.frequency_penalty,
            "presence_penalty": asked.presence_penalty,
        }  # fmt: skip
        judged = wish.filter is not None and _shows(asked)
        for name in (name for name, there in filtered.items() if there and judged):
            raise wrong(f"{name} is not possible beside the filter, which judges one whole answer", name)

    async def begin(self, request: Request, asked: ChatRequest, wish: Wish, leave: Callable[[], None]) -> Talk:
        """The request on its way; raises `Refused`."""
        try:
            self._served.check_queue(asked.n or 1)
            return await self._submitted(request, asked, wish, leave)
        except Exception as error:
            raise refused(error) from error
        finally:
            leave()

    async def _submitted(self, request: Request, asked: ChatRequest, wish: Wish, leave: Callable[[], None]) -> Talk:
        served, tongue = self._served, self._tongue
        messages = [turn.model_dump(mode="json", exclude_none=True) for turn in asked.messages]
        given = asked.tools if asked.tools and asked.tool_choice != "none" else ()
        tools = [tool.model_dump(mode="json", exclude_none=True) for tool in given]
        async with served.media.opened(messages, _left(request, served.limits)) as shown:
            media = [one for turn in shown for one in _media(turn)]
            prompt, inputs = await served.media.run(tongue.prompt, messages, media, tools)
        ids = inputs["input_ids"]
        check_prompt(ids.shape[1], served.limits)
        settings = tongue.settings(asked, ids.shape[1])
        count, seconds = asked.n or 1, _left(request, served.limits)
        # Of a text alone there is nothing to judge.
        filtered = wish.filter if media else None
        known, specials = request.state.request_id, tongue.specials
        readers = [None if filtered is not None else tongue.reader(ids, tools) for _ in range(count)]
        seen = seen_shares(served.processor, [one for one in media if isinstance(one, Image.Image)])
        talk = Talk(
            asked, wish, known, request.state.began,
            [Writer(known, number, served.batcher.spelled, one, specials) for number, one in enumerate(readers)],
            seen if wish.kept else None, served.metrics, seconds,
        )  # fmt: skip
        owner = getattr(request.state, "owner", "anyone")
        try:
            if filtered is not None:
                assert served.hf is not None
                length = ids.shape[1]
                self._filter(talk, Filtering(
                    served.hf, served.handle, filtered, wish.program, prompt, media, length,
                    options(asked, settings.max_new_tokens), asked.seed,
                    bool(asked.stream), seconds, _teller(talk, 0),
                ), owner)  # fmt: skip
            else:
                likely = None if not asked.logprobs else asked.top_logprobs or 0
                seeds = [None if asked.seed is None else asked.seed + number for number in range(count)]
                jobs = [
                    Job(inputs, settings, wish.program, seed, likely, seconds, owner, asked.adjust) for seed in seeds
                ]
                await served.media.run(_submit, served, talk, jobs, leave)
        except BaseException:
            talk.cancel()
            raise
        return talk

    def _filter(self, talk: Talk, work: Filtering, owner: str) -> None:
        """Hand an answer to the filter."""
        self._served.handle.check(work.program)
        future = self._served.batcher.alone(work, owner, work.seconds)
        future.add_done_callback(work.over)
        talk.until(work.cancel)
        talk.until(future.cancel)


def _submit(served: Served, talk: Talk, jobs: Sequence[Job], leave: Callable[[], None]) -> None:
    try:
        for number, job in enumerate(jobs):
            talk.until(served.batcher.submit(job, _teller(talk, number)).cancel)
    finally:
        leave()  # before the loop hears of it: others may wait for this


def _teller(talk: Talk, number: int) -> Callable[[Event], None]:
    """Brings events from the model's thread to the loop that the request runs in."""
    return partial(_tell, talk.loop, talk.events, number)


def _tell(loop: asyncio.AbstractEventLoop, events: Any, number: int, event: Event) -> None:
    with suppress(RuntimeError):  # the loop is closed: nobody listens
        loop.call_soon_threadsafe(events.put_nowait, (number, event))


def _shows(asked: ChatRequest) -> bool:
    """Whether a chat has pictures or videos."""
    parts = [part for turn in asked.messages if isinstance(turn.content, list) for part in turn.content]
    return any(part.type != "text" for part in parts)


def _left(request: Request, limits: Limits) -> float:
    """Seconds that a request may still take, of those it may since it came.

    Raises:
        Refused: there are none.
    """
    left: float = request.state.began + limits.seconds - time.monotonic()
    if left <= 0:
        raise too_slow()
    return left


def _media(turn: dict[str, Any]) -> Iterator[Medium]:
    """The pictures and videos of a message that `Media` opened, in order."""
    content = turn.get("content")
    for part in content if isinstance(content, list) else ():
        if part["type"] in ("image", "video"):
            yield part["image"] if part["type"] == "image" else part["clip"]
