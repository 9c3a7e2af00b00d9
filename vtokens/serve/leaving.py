"""Clients that leave before their answer came."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import Request


class Gone(Exception):
    """The client left."""


async def unless_gone(request: Request, work: Any) -> Any:
    """The result of `work`, which is cancelled once the client leaves; raises `Gone` then."""

    async def left() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    tasks = [asyncio.ensure_future(work), asyncio.ensure_future(left())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not tasks[0].done():
            raise Gone
        return tasks[0].result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
