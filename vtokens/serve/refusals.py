"""What clients are told of errors of the batcher and of the model."""

from __future__ import annotations

import asyncio
import logging
import math

import torch
from jinja2 import TemplateError

from vtokens.loading.context import TooLongError
from vtokens.serve.asked import ChatRequest
from vtokens.serve.checked import wrong
from vtokens.serve.errors import Refused
from vtokens.serve.jobs import Draining, Full
from vtokens.serve.programs import Wish
from vtokens.serve.writing import shutting_down, too_slow

_log = logging.getLogger("vtokens.serve")


def refused(error: BaseException) -> Refused:
    """What a client is told of an error of the batcher or of the model."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, Full):
        seconds = str(max(1, math.ceil(error.retry_after)))
        return Refused(429, str(error), code="queue_full", kind="rate_limit_error", headers={"Retry-After": seconds})
    if isinstance(error, Draining | asyncio.CancelledError):
        return shutting_down()
    if isinstance(error, TooLongError):
        return wrong(str(error), "messages", "context_length_exceeded")
    if isinstance(error, TimeoutError):
        return too_slow()
    if isinstance(error, TypeError | ValueError | TemplateError):  # chat templates raise the last
        return wrong(str(error), None, "refused_by_model")
    if isinstance(error, ImportError):  # what prepares videos, most likely
        return wrong(f"this server cannot do that: {error}", "messages", "unsupported_by_server")
    if isinstance(error, torch.OutOfMemoryError):
        message = "the model ran out of memory: show fewer or smaller pictures, or try again when less is going on"
        return Refused(503, message, code="out_of_memory", kind="server_error", headers={"Retry-After": "5"})
    return failed(error)


def about(told: Refused, asked: ChatRequest, wish: Wish) -> Refused:
    """A refusal of the model in the pass, with the field that it is about where its strategies say so."""
    names = {"keep", *(one.name for one in wish.program)}
    if told.code != "refused_by_model" or told.param is not None or not any(name in str(told) for name in names):
        return told
    more = asked.vtokens
    param = "model" if more is None or (more.strategy is None and more.keep is None) else "vtokens.strategy"
    return wrong(str(told), "vtokens.keep" if more is not None and more.keep is not None else param, told.code)


def failed(error: BaseException) -> Refused:
    """What a client is told of an error that nobody foresaw; the log has all of it."""
    _log.error("a chat failed", exc_info=error)
    return Refused(
        500, f"the server failed ({type(error).__name__}); its log says more", code="failed", kind="server_error"
    )
