"""What clients show: pictures and videos of their messages, fetched and decoded in threads beside the event loop."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from vtokens.core.fetch import fetch
from vtokens.serve.decode import Kind, clip, from_data_url, picture
from vtokens.serve.errors import Refused, busy
from vtokens.serve.hosts import Hosts
from vtokens.serve.limits import Limits

P = ParamSpec("P")
T = TypeVar("T")
_FETCHING = 8
_DECODED = 2  # requests a worker, that hold what was decoded
_KINDS: dict[str, Kind] = {"image_url": "image", "video_url": "video"}


class Media:
    """Loads the pictures and videos of requests, within the limits of a server.

    Attributes:
        limits: of a request.
        workers: the threads that decode; work that follows, as a processor's, may run on them too.

    Args:
        hosts: that URLs may name (`Hosts`); none by default.
        private: whether listed hosts may have addresses of the own machine and network.
        workers: how many threads decode.
    """

    def __init__(self, limits: Limits, hosts: Iterable[str] = (), private: bool = False, workers: int = 2) -> None:
        self.limits = limits
        self.workers = ThreadPoolExecutor(workers, "vtokens-media")
        self._hosts, self._private = Hosts(hosts), private
        # Hosts that do not answer keep these waiting, and not those that decode.
        self._fetchers = ThreadPoolExecutor(_FETCHING, "vtokens-fetch")
        self._room = asyncio.Semaphore(workers * _DECODED)

    async def run(self, function: Callable[P, T], *args: P.args, **more: P.kwargs) -> T:
        """What a function gives, on one of the threads that decode."""
        return await asyncio.get_running_loop().run_in_executor(self.workers, partial(function, *args, **more))

    @asynccontextmanager
    async def opened(
        self, messages: Sequence[dict[str, Any]], seconds: float | None = None
    ) -> AsyncIterator[list[dict[str, Any]]]:
        """The messages with their pictures and videos, as `load`, while few other requests hold theirs.

        What makes the model's inputs of them belongs inside the block: memory is bounded by it.

        Args:
            messages: as `load`.
            seconds: that it may wait for others; `limits.seconds` by default.

        Raises:
            Refused: as `load`; 503 if there was no room in that time.
        """
        if not any(_shown(messages)):
            yield await self.load(messages)
            return
        try:
            async with asyncio.timeout(self.limits.seconds if seconds is None else seconds):
                await self._room.acquire()
        except TimeoutError:
            raise busy("this server decodes as many pictures as it may: try again in a second") from None
        try:
            yield await self.load(messages)
        finally:
            self._room.release()

    async def load(self, messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The messages with each `image_url` part as `{"type": "image", "image": RGB picture}`, upright, and each
        `video_url` part as `{"type": "video", "clip": vtokens.video.Clip}`.

        Args:
            messages: of a request that `check_chat` has let through. They are not changed.

        Raises:
            Refused: 400, with the part it is about.
        """
        shown = list(_shown(messages))
        # Spelling first, then all that is to be fetched at once, then pictures one after the other.
        urls = [self._checked(part[kind]["url"], param) for _, _, part, kind, param in shown]
        asked = zip(urls, shown, strict=True)
        fetching = [asyncio.ensure_future(self._bytes(url, kind, at)) for url, (*_, kind, at) in asked]
        loaded = [_copied(message) for message in messages]
        left = self.limits.all_pixels
        try:
            for coming, (row, place, _, kind, param) in zip(fetching, shown, strict=True):
                data = await coming
                if kind == "image_url":
                    image = await self.run(picture, data, param, self.limits, left)
                    left -= image.width * image.height
                    loaded[row]["content"][place] = {"type": "image", "image": image}
                else:
                    found = await self.run(clip, data, param, self.limits, left)
                    left -= found.frames.size // 3
                    loaded[row]["content"][place] = {"type": "video", "clip": found}
        finally:
            for coming in fetching:
                coming.cancel()
            await asyncio.gather(*fetching, return_exceptions=True)
        return loaded

    def close(self) -> None:
        """End the threads, when they are done with what they do."""
        for pool in (self.workers, self._fetchers):
            pool.shutdown(wait=False, cancel_futures=True)

    def _checked(self, url: str, param: str) -> str:
        return url if url[:5].lower() == "data:" else self._hosts.plain(url, param)

    async def _bytes(self, url: str, kind: str, param: str) -> bytes:
        if url[:5].lower() == "data:":
            return await self.run(from_data_url, url, _KINDS[kind], param, self.limits)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._fetchers, self._fetched, url, param)

    def _fetched(self, url: str, param: str) -> bytes:
        """The bytes behind a URL whose host is listed; no redirect is followed, since it may lead anywhere."""
        with tempfile.TemporaryDirectory(prefix="vtokens-") as folder:
            path = Path(folder, "fetched")
            try:
                fetch(url, path, self._private, self.limits.media, self.limits.media_seconds, redirects=0)
            except (OSError, ValueError) as error:  # that of addresses names an option, which is the owner's
                message = str(error).partition(": --private-urls")[0]
                raise Refused(400, f"{param}: {message}", code="not_fetched", param=param) from None
            return path.read_bytes()


def _shown(messages: Sequence[dict[str, Any]]) -> Iterable[tuple[int, int, dict[str, Any], str, str]]:
    """Each picture and video: its message, its place there, the part, its type, and what errors call it."""
    for row, message in enumerate(messages):
        content = message.get("content")
        for place, part in enumerate(content if isinstance(content, list) else ()):
            if part["type"] in _KINDS:
                kind = part["type"]
                yield row, place, part, kind, f"messages[{row}].content[{place}].{kind}.url"


def _copied(message: dict[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    return message | {"content": list(content)} if isinstance(content, list) else dict(message)
