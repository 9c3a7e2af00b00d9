"""Requests that /openapi.json allows and requests that it does not, as schemathesis draws them."""

from __future__ import annotations

import base64
import copy
from collections.abc import Callable
from io import BytesIO
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from PIL import Image
from schemathesis import GenerationMode

STRATEGIES = ("none", "cls(keep=0.25)", "uniform(keep=0.5)", "fastv(keep=0.5)", "vcd", "random(keep=0.1)", "fast")
CHAT = "/v1/chat/completions"
_SIDE = 48


def _picture() -> str:
    file = BytesIO()
    Image.new("RGB", (_SIDE, _SIDE), (180, 30, 60)).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


PICTURE = _picture()


def draw(schema: Any, path: str, method: str, mode: str, count: int, start: int, each: Callable[..., None]) -> None:
    """Hand `count` cases of one operation on.

    Args:
        schema: of schemathesis.
        path, method: of the operation.
        mode: "allowed" by the description, "forbidden" by it; or "answered", which is the first with what no
            description can say put right: pictures that are pictures, strategies that there are, few new tokens.
        count: how many.
        start: what they are drawn from.
        each: is called with each case.
    """
    kind = GenerationMode.NEGATIVE if mode == "forbidden" else GenerationMode.POSITIVE
    cases = schema[path][method].as_strategy(generation_mode=kind)
    numbers = st.integers(0, 1 << 30)

    @seed(start)
    @settings(max_examples=count, database=None, deadline=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(case=cases, number=numbers)
    def drawn(case: Any, number: int) -> None:
        if mode == "answered" and isinstance(case.body, dict):
            case.body = mended(copy.deepcopy(case.body), number)
        each(case)

    drawn()


def mended(body: dict[str, Any], number: int) -> dict[str, Any]:
    """A chat that the description allows, with the values put right that the server looks at more closely."""
    for turn in body.get("messages", ()):
        content = turn.get("content")
        for part in content if isinstance(content, list) else ():
            for kind in ("image_url", "video_url"):
                if part.get("type") == kind:
                    part.clear()
                    part |= {"type": "image_url", "image_url": {"url": PICTURE}}
        for call in turn.get("tool_calls") or ():
            call["function"]["arguments"] = "{}"
    if body.get("messages") and body["messages"][-1].get("role") != "user":
        body["messages"].append({"role": "user", "content": "is there a red circle?"})
    for name in (
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "stream_options",
        "top_logprobs",
        "max_tokens",
    ):
        body.pop(name, None)
    body |= {"model": None, "max_completion_tokens": 1 + number % 6, "n": 1 + number % 7 // 6}
    body["vtokens"] = {"strategy": STRATEGIES[number % len(STRATEGIES)], "kept": number % 3 == 0}
    if number % 5 == 0:
        body |= {"logprobs": True, "top_logprobs": number % 4}
    elif body.get("logprobs") is False:
        body.pop("logprobs")
    if number % 11 == 0:
        body["vtokens"] = {"filter": {"action": ("flag", "redact")[number % 2], "threshold": 0.5}}
        body |= {"n": 1, "logprobs": None, "top_logprobs": None}
    return body
