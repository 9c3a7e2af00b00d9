"""The bodies of what the server says of itself: its models, and whether it takes requests."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field


class ModelFacts(BaseModel):
    """What a model runs; of the first, also what the server lets in."""

    strategy: str
    free: bool | None = None
    strategies: list[str] | None = None
    filter: Annotated[list[str] | Literal[False] | None, Field(description="The actions that may be asked for.")] = None


class Model(BaseModel):
    """An entry of /v1/models."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    vtokens: ModelFacts


class ModelList(BaseModel):
    """What `model` may be."""

    object: Literal["list"] = "list"
    data: list[Model]


class Health(BaseModel):
    """Whether the server takes requests."""

    status: Literal["ok", "draining"]
