"""Sending what was drawn, and what an answer is held against: its status, its schema, and each event of a stream."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import jsonschema_rs
import requests
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS = [
    not_a_server_error, status_code_conformance, content_type_conformance, response_headers_conformance,
    response_schema_conformance, negative_data_rejection,
]  # fmt: skip
FIELDS = (
    "number",
    "method",
    "path",
    "drawn",
    "bytes",
    "status",
    "code",
    "param",
    "generated",
    "stream",
    "seconds",
    "fault",
)
_SECONDS = 120


@dataclass
class Sender:
    """Sends cases, some at a time, and keeps a row for each.

    Attributes:
        base: URL of the server.
        document: its /openapi.json.
        key: sent with each, if there is one.
        rows: what was sent and answered, by the fields in `FIELDS`.
    """

    base: str
    document: dict[str, Any]
    key: str | None = None
    at_once: int = 4
    rows: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._pool, self._mine, self._waiting = ThreadPoolExecutor(self.at_once), threading.local(), []
        schemas = {"components": self.document["components"]}
        self._chunk, self._error = (
            jsonschema_rs.validator_for({"$ref": f"#/components/schemas/{name}"} | schemas)
            for name in ("ChatChunk", "ErrorAnswer")
        )

    def send(self, case: Any, drawn: str) -> None:
        """Send a case, when one of those before has been answered."""
        self._waiting.append(self._pool.submit(self._row, case, drawn))
        while len(self._waiting) >= 2 * self.at_once:
            self._done(self._waiting.pop(0))

    def end(self) -> list[dict[str, Any]]:
        """All rows, once everything is answered."""
        for future in self._waiting:
            self._done(future)
        self._pool.shutdown()
        return self.rows

    def _done(self, future: Future[dict[str, Any]]) -> None:
        self.rows.append({"number": len(self.rows)} | future.result())

    def _row(self, case: Any, drawn: str) -> dict[str, Any]:
        if not hasattr(self._mine, "session"):
            self._mine.session = requests.Session()
        begun = time.monotonic()
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        row: dict[str, Any] = dict.fromkeys(FIELDS, "") | {"method": case.method, "path": case.path, "drawn": drawn}
        try:
            answer = case.call(base_url=self.base, session=self._mine.session, headers=headers, timeout=_SECONDS)
        except (requests.RequestException, TimeoutError) as error:
            return row | {"fault": f"no answer: {type(error).__name__}: {error}"[:300], "sent": _sent(case)}
        row |= {"seconds": round(time.monotonic() - begun, 3), "status": answer.status_code}
        row["bytes"] = len(answer.request.body or b"") if answer.request is not None else ""
        faults = [*self._checked(case, answer), *self._read(answer, row)]
        if faults:
            row |= {"fault": " | ".join(" ".join(one.split())[:300] for one in faults), "sent": _sent(case)}
        return row

    def _checked(self, case: Any, answer: Any) -> Iterable[str]:
        kind = (answer.headers.get("content-type") or [""])[0]
        # The events of a stream are looked at one by one: what is described is the text of all of them.
        left_out = [response_schema_conformance] if kind.startswith("text/event-stream") else []
        if answer.status_code == 413:  # a body that nobody reads is refused for its size, whatever it holds
            left_out.append(negative_data_rejection)
        try:
            case.validate_response(answer, checks=CHECKS, excluded_checks=left_out)
        except BaseExceptionGroup as group:
            for error in group.exceptions:
                yield f"{type(error).__name__}: {error}"
        except Exception as error:
            yield f"{type(error).__name__}: {error}"

    def _read(self, answer: Any, row: dict[str, Any]) -> Iterable[str]:
        """Fill in what an answer says; yields what is wrong with it."""
        kind = (answer.headers.get("content-type") or [""])[0].partition(";")[0]
        if kind == "text/event-stream":
            row["stream"] = True
            yield from self._events(answer.text, row)
        elif kind == "application/json":
            content = json.loads(answer.content)
            if answer.status_code >= 400:
                error = content.get("error")
                if not self._error.is_valid(content) or not error or "\n" in error["message"]:
                    yield f"an error of another form: {content}"
                else:
                    row |= {"code": error["code"], "param": error["param"] or ""}
            elif "usage" in content:
                row["generated"] = content["usage"]["completion_tokens"]

    def _events(self, text: str, row: dict[str, Any]) -> Iterable[str]:
        events = text.split("\n\n")
        if events[-2:] != ["data: [DONE]", ""]:
            yield f"a stream that ends with {events[-2:]}"
        row["generated"] = 0
        for event in events[:-2]:
            content = json.loads(event.removeprefix("data: "))
            if "error" in content:
                yield f"an error in a stream: {content}"
            elif not self._chunk.is_valid(content):
                yield f"a chunk of another form: {next(self._chunk.iter_errors(content)).message}"
            else:
                row["generated"] += any(choice["delta"].get("content") for choice in content["choices"])


def _sent(case: Any) -> str:
    body = case.body
    try:
        return json.dumps(body)[:2000]
    except TypeError:
        return repr(body)[:2000]
