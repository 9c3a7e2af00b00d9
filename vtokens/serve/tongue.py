"""What speaks to a model: how chats are put to it, and its answers read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from transformers import GenerationConfig

from vtokens.loading.media import Medium
from vtokens.serve.asked import ChatRequest
from vtokens.serve.writing import Reader


class Tongue(Protocol):
    """How chats are put to a model, and its answers read."""

    @property
    def calls(self) -> bool:
        """Whether the model is told of tools, and its calls of them can be read."""

    def check(self, asked: ChatRequest) -> None:
        """Raise `Refused` for what this model cannot be asked."""

    @property
    def specials(self) -> Iterable[int]:
        """Tokens that are no text."""

    def prompt(self, messages: list[dict[str, Any]], media: Sequence[Medium], tools: list[Any]) -> tuple[str, Any]:
        """A prompt as text, and as the processor makes it."""

    def settings(self, asked: ChatRequest, prompt: int) -> GenerationConfig:
        """What `generate` is told about the answer to a prompt of so many tokens."""

    def reader(self, ids: Any, tools: list[Any]) -> Reader | None:
        """What reads the answer; None if all of it is text."""

    def event(self, data: Any) -> str:
        """A server-sent event."""
