"""How much text a model can be given: what is longer is refused before it costs anything."""

from __future__ import annotations

from typing import Any

_CHARACTERS = 64
"""Of a token, at most: English has 4 on average, and what is longer than this many times the context never fits."""


class TooLongError(ValueError):
    """A prompt with its pictures, and what stands behind it, do not fit into a model's context."""


def context_of(model: Any) -> int | None:
    """The most tokens that the language model of `model` is made for; None where its configuration does not say."""
    found: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return found


def check_characters(text: str, context: int | None, what: str) -> None:
    """Raise ValueError for a text that cannot fit, without tokenising it; `what` names it in the message."""
    if context is not None and len(text) > _CHARACTERS * context:
        raise ValueError(
            f"{what} has {len(text):,} characters, more than the model's context of {context:,} tokens can hold"
        )


def check_room(prompt: int, new_tokens: int, context: int | None) -> None:
    """Check that a prompt and its answer fit.

    Args:
        prompt: tokens of the prompt, those of pictures included.
        new_tokens: the most that may be written behind it.
        context: from `context_of`.

    Raises:
        TooLongError: they do not; says what would.
    """
    if context is None or prompt + new_tokens <= context:
        return
    if prompt >= context:
        raise TooLongError(
            f"the prompt has {prompt:,} tokens with its pictures, and the model's context holds {context:,}: shorten it"
        )
    raise TooLongError(
        f"max_new_tokens={new_tokens} is not possible behind a prompt of {prompt:,} tokens: the model's context holds "
        f"{context:,}, so that {context - prompt:,} are left"
    )
