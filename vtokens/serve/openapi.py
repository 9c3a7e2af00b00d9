"""What /openapi.json says: every field of a chat's body, and of its answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from vtokens.serve.answers import ChatChunk

_REF = "#/components/schemas/{model}"
_HEADERS = {
    "x-request-id": "The request's, or a new one.",
    "x-vtokens-strategy": "What ran.",
    "x-vtokens-kept": "How many visual tokens decoder layers saw, on average.",
    "x-vtokens-flags": "How many marks the filter made; not of streams, which say it in their last chunk.",
}


def describe(app: FastAPI, body: type[BaseModel], path: str, models: Sequence[str]) -> None:
    """Add the body that a route reads by itself, and what it streams.

    Args:
        app: whose description it is.
        body: of requests to `path`.
        models: what its field `model` may be.
    """
    made = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            found = made()
            schemas = found.setdefault("components", {}).setdefault("schemas", {})
            for model, mode in ((body, "validation"), (ChatChunk, "serialization")):
                schema = model.model_json_schema(ref_template=_REF, mode=mode)  # type: ignore[arg-type]
                schemas |= {name: one for name, one in schema.pop("$defs", {}).items() if name not in schemas}
                schemas[model.__name__] = schema
            schemas[body.__name__]["properties"]["model"]["anyOf"][0] = {"type": "string", "enum": list(models)}
            operation = found["paths"][path]["post"]
            reference = {"$ref": _REF.format(model=body.__name__)}
            operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": reference}}}
            answer = operation["responses"]["200"]
            answer["description"] = (
                "The answer; with `stream` events `data: CHUNK`, each a ChatChunk as JSON, and `data: [DONE]` at the "
                'end. What goes wrong in a stream is the last event, `data: {"error": ...}`.'
            )
            answer["content"]["text/event-stream"] = {"schema": {"type": "string"}}
            answer["headers"] = {
                name: {"description": what, "schema": {"type": "string"}} for name, what in _HEADERS.items()
            }
            app.openapi_schema = found
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
