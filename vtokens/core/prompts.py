"""Prompts as a model was taught to read them: chat template, places of pictures, and one token for the beginning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

POSITION_KINDS = ("mm_token_type_ids", "token_type_ids")
"""What some processors make of a prompt beside its tokens: the kind of each position, 0 for text."""

_KINDS = {"image": "picture", "video": "video"}


def chat_text(processor: Any, turns: Sequence[Mapping[str, Any]], **more: Any) -> str:
    """The text of a chat, ready for the answer to follow.

    Args:
        processor: the model's. The chat template is its own or its tokenizer's; without one, the parts of all turns
            follow each other on lines of their own.
        turns: as `apply_chat_template` takes them: {"role": ..., "content": [{"type": "image"}, {"type": "text",
            "text": ...}]}.
        more: what the template is given besides, such as `tools`; without a template it is of no use.
    """
    template = getattr(processor, "chat_template", None) or getattr(_tokenizer(processor), "chat_template", None)
    if template:
        text: str = processor.apply_chat_template(turns, chat_template=template, add_generation_prompt=True, **more)
        return text
    parts = [part for turn in turns for part in turn["content"]]
    return "\n".join(part["text"] if "text" in part else getattr(processor, f"{part['type']}_token") for part in parts)


def question_prompt(processor: Any, text: str, pictures: int | Sequence[str] = 1) -> str:
    """The chat of one question behind its pictures and videos.

    Args:
        processor: the model's.
        text: the question. One that holds the processor's image or video token is a prompt already, and is taken as it
            is.
        pictures: how many there are, 0 or more; or "image" and "video" in the order in which they are shown.

    Raises:
        ValueError: another number of image or video tokens than of pictures or videos.
    """
    kinds = ["image"] * pictures if isinstance(pictures, int) else list(pictures)
    tokens = {kind: getattr(processor, f"{kind}_token", None) for kind in _KINDS}
    there = {kind: text.count(token) if token else 0 for kind, token in tokens.items()}
    if any(there.values()):
        for kind, what in _KINDS.items():
            if there[kind] != kinds.count(kind):
                count = kinds.count(kind)
                raise ValueError(f"the prompt {text!r} holds {there[kind]} {tokens[kind]!r} for {count} {what}(s)")
        return text
    content = [*({"type": kind} for kind in kinds), {"type": "text", "text": text}]
    return chat_text(processor, [{"role": "user", "content": content}])


def starts_with_bos(processor: Any, text: str) -> bool:
    """Whether a prompt holds the token for the beginning already, as many chat templates write it."""
    first = _tokenizer(processor).bos_token
    return first is not None and text.startswith(first)


def encode_prompts(processor: Any, texts: Sequence[str], images: Sequence[Any] = (), **more: Any) -> Any:
    """The processor's batch of prompts, padded on the left; what was written into a text is not added once more.

    Args:
        processor: the model's.
        texts: one prompt a row, from `chat_text` or `question_prompt`.
        images: the pictures of each row that has any, as lists.
        more: further arguments of the processor.

    Returns:
        The processor's `BatchFeature`: `input_ids` and `attention_mask` (B, P), pixels, and what else the family has.
    """
    written = [starts_with_bos(processor, text) for text in texts]
    if any(written):
        tokenizer = _tokenizer(processor)
        added = tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id]
        first = tokenizer.bos_token if added else ""
        texts = [text if there else first + text for text, there in zip(texts, written, strict=True)]
        more["add_special_tokens"] = False
    if images:
        # Nested: some processors cut crops only for samples of a single picture.
        more["images"] = [list(group) for group in images]
    return processor(text=list(texts), padding=True, padding_side="left", return_tensors="pt", **more)


def _tokenizer(processor: Any) -> Any:
    return getattr(processor, "tokenizer", processor)
