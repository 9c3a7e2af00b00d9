"""From the JSON of a body to a request: what is wrong with it, in one line, with the nearest right name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from vtokens.core.errors import nearest, shorten
from vtokens.serve.asked import ChatRequest
from vtokens.serve.errors import Refused

_UNSUPPORTED = {
    "audio": "answers are text",
    "function_call": "`tools` have taken its place",
    "functions": "`tools` have taken its place",
    "metadata": "nothing is stored",
    "prediction": "no draft is taken",
    "reasoning_effort": "how long a model thinks is its own",
    "web_search_options": "nothing is looked up",
}
"""Fields of OpenAI's interface that the server has nothing for."""
_CLASS = re.compile(r"a valid dictionary or (instance of \w+|object to extract fields from)")
_QUOTED = re.compile(r"'([^']+)'")


def read_request(body: Mapping[str, Any]) -> ChatRequest:
    """The request of a body.

    Raises:
        Refused: 400, with the first thing that is wrong, and `param`.
    """
    given = {name: value for name, value in body.items() if value is not None or name not in _UNSUPPORTED}
    try:
        asked = ChatRequest.model_validate(given)
    except ValidationError as error:
        raise _refused(error, body) from None
    _check_together(asked)
    return asked


def wrong(message: str, param: str | None, code: str = "invalid_value") -> Refused:
    """A 400 about a field of the body."""
    return Refused(400, message, code=code, param=param)


def _check_together(asked: ChatRequest) -> None:
    if asked.top_logprobs is not None and not asked.logprobs:
        raise wrong("top_logprobs is only allowed with logprobs=true", "top_logprobs")
    if asked.stream_options is not None and not asked.stream:
        raise wrong("stream_options is only allowed with stream=true", "stream_options")
    if None not in (asked.max_tokens, asked.max_completion_tokens) and asked.max_tokens != asked.max_completion_tokens:
        raise wrong("max_tokens and max_completion_tokens mean the same and differ: give one of them", "max_tokens")
    last = asked.messages[-1].role
    if last not in ("user", "tool"):
        raise wrong(f"the last message is of {last!r}: 'user' or 'tool' is allowed", "messages")
    filtered = asked.vtokens.filter if asked.vtokens else None
    if filtered is not None and filtered.risk is not None and filtered.threshold is not None:
        raise wrong("risk and threshold exclude each other: give one of them", "vtokens.filter.risk")


def _refused(error: ValidationError, body: Mapping[str, Any]) -> Refused:
    found = error.errors(include_url=False)
    unknown = [one for one in found if one["type"] == "extra_forbidden"]
    # Of alternatives, that which goes furthest, and fits in its type.
    first = max(unknown or found, key=lambda one: (len(one["loc"]), not one["type"].endswith("_type")))
    place, value = _place(first["loc"], body), first.get("input")
    where = place or "the body"
    if unknown:
        name = str(first["loc"][-1])
        if place in _UNSUPPORTED:
            return wrong(f"{name!r} is not supported: {_UNSUPPORTED[place]}", place, "unsupported_field")
        known = _fields(first["loc"][:-1])
        return wrong(
            f"unknown field {where!r}.{nearest(name, known)} Allowed: {', '.join(known)}", place, "unknown_field"
        )
    if first["type"] == "missing":
        return wrong(f"{where} is missing", place, "missing_field")
    context = first.get("ctx", {})
    near = nearest(value, _QUOTED.findall(str(context.get("expected", context.get("expected_tags", "")))))
    if first["type"] == "union_tag_invalid":
        kind = str(context["discriminator"]).strip("'")
        tag, tags = context["tag"], context["expected_tags"]
        near = nearest(tag, _QUOTED.findall(tags))
        return wrong(f"{where}.{kind}={shorten(tag)} is not allowed.{near} Allowed: {tags}", f"{where}.{kind}")
    if first["type"] == "union_tag_not_found":
        kind = str(context["discriminator"]).strip("'")
        return wrong(f"{where}.{kind} is missing", f"{where}.{kind}", "missing_field")
    text = _CLASS.sub("an object", first["msg"].removeprefix("Value error, "))
    return wrong(f"{where}={shorten(value)} is not allowed.{near} {text}", place or None)


def _place(loc: Sequence[int | str], body: Any) -> str:
    """A location of pydantic's as clients write it, messages[0].content[1].image_url.url: without the names of types
    and tags that it has where there are alternatives."""
    text, here = "", body
    for number, one in enumerate(loc):
        inside = (isinstance(here, Mapping) and one in here) or (isinstance(here, list) and isinstance(one, int))
        if not inside and number < len(loc) - 1:
            continue
        if not inside and not isinstance(here, Mapping):
            continue
        text += f"[{one}]" if isinstance(one, int) else f".{one}"
        here = here[one] if inside else None
    return text.lstrip(".")


def _fields(loc: Sequence[int | str]) -> list[str]:
    """The names that are allowed at a location of pydantic's."""
    models = [ChatRequest] if not loc else []
    here: list[Any] = [ChatRequest]
    for one in loc:
        tagged = [m for m in here if isinstance(one, str) and one in _tags(m)]
        if len(here) > 1 and tagged:
            here = tagged
        elif isinstance(one, str):
            named = [m.model_fields[one].annotation for m in here if one in m.model_fields]
            here = [model for annotation in named for model in _models(annotation)] or here
        models = here
    return sorted({name for model in models for name in model.model_fields})


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)


def _tags(model: type[BaseModel]) -> set[str]:
    field = model.model_fields.get("role") or model.model_fields.get("type")
    return set() if field is None else {one for one in get_args(field.annotation) if isinstance(one, str)}
