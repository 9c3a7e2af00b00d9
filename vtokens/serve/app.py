"""The server on transformers' own serving classes; with `parsed` the one file that knows them.

They are no documented interface: what is taken from them is the form of prompts, settings, tool calls and events. The
model runs in `Batcher`, and pictures come through `Media`.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from PIL import Image
from transformers import GenerationConfig
from transformers.cli.serving.chat_completion import ChatCompletionHandler
from transformers.cli.serving.model_manager import ModelManager
from transformers.cli.serving.utils import GenerationState, Modality, build_response_parser, get_response_template

from vtokens.core.prompts import chat_text
from vtokens.loading.context import check_room, context_of
from vtokens.loading.media import MediaPrompt, Medium, batch_inputs, place_clip
from vtokens.serve.asked import ChatRequest
from vtokens.serve.checked import wrong
from vtokens.serve.desk import Desk
from vtokens.serve.limits import Limits
from vtokens.serve.model import serve_model
from vtokens.serve.parsed import Parsed, begins
from vtokens.serve.routes import routed
from vtokens.serve.settings import Settings
from vtokens.video import Clip

_TOLD = "tools" in inspect.signature(build_response_parser).parameters  # not in transformers 5.19


class Loaded(ModelManager):
    """The one model that is there; it is never loaded, nor any other."""

    def __init__(self, model: Any, processor: Any) -> None:
        super().__init__(model_timeout=-1)
        self._there = model, processor

    def load_model_and_processor(self, *_: Any, **__: Any) -> tuple[Any, Any]:
        """The model and its processor, whatever is asked for."""
        return self._there


class Chats(ChatCompletionHandler):
    """transformers' handler of chats, as far as it speaks for a model; what runs the model is `Desk`'s.

    Args:
        model, processor: what is served.
        limits: of a request.

    Attributes:
        calls: whether the model is told of tools, and its calls of them can be read.
        specials: tokens that are no text.

    Raises:
        ValueError: the model's tokenizer describes its answers in a way that nobody can read.
    """

    def __init__(self, model: Any, processor: Any, limits: Limits) -> None:
        super().__init__(Loaded(model, processor), GenerationState())
        self._model, self._processor, self._limits = model, processor, limits
        tokenizer = self._tokenizer = getattr(processor, "tokenizer", processor)
        self.specials = frozenset(tokenizer.all_special_ids)
        template = getattr(processor, "chat_template", None) or getattr(tokenizer, "chat_template", None)
        text = "\n".join(template.values()) if isinstance(template, dict) else template or ""
        self.calls = "tools" in text and get_response_template(processor, model) is not None
        build_response_parser(processor, model, [])  # what nobody can read is refused before anybody asks
        names = ("image_token", "video_token", "audio_token")
        places = (getattr(one, name, None) for one in (processor, tokenizer) for name in names)
        self._places = {place for place in places if isinstance(place, str) and place}

    def prompt(self, messages: list[dict[str, Any]], media: Sequence[Medium], tools: list[Any]) -> tuple[str, Any]:
        """The prompt as text, and as the processor makes it."""
        self._check_places(messages)
        try:
            turns = self.get_processor_inputs_from_messages(messages, Modality.VLM)
        except json.JSONDecodeError as error:
            raise wrong(f"the arguments of a tool call are no JSON: {error}", "messages") from None
        images: list[Image.Image] = []
        clips: list[Clip] = []
        waiting = iter(media)
        for turn in turns:
            turn["role"] = "system" if turn["role"] == "developer" else turn["role"]
            parts: list[dict[str, Any]] = []
            for part in turn["content"]:
                if part["type"] == "text":
                    parts.append(part)
                elif isinstance(one := next(waiting), Clip):
                    parts += place_clip(self._processor, one, images, clips)
                else:
                    images.append(one)
                    parts.append({"type": "image"})
            turn["content"] = parts
        text = chat_text(self._processor, turns, **({"tools": tools} if tools else {}))
        return text, batch_inputs(self._processor, [MediaPrompt(text, images, clips)])

    def _check_places(self, messages: list[dict[str, Any]]) -> None:
        """Raise `Refused` for text that would be taken for the place of a picture."""
        for number, turn in enumerate(messages):
            content = turn.get("content") or ""
            texts = [content] if isinstance(content, str) else [part.get("text", "") for part in content]
            for place in self._places:
                if any(place in text for text in texts):
                    message = (
                        f"the text holds {place!r}, which this model takes for the place of a picture: leave it out"
                    )
                    raise wrong(message, f"messages[{number}].content")

    def check(self, asked: ChatRequest) -> None:
        """Raise `Refused` for tokens that the model does not have."""
        if asked.adjust is not None:
            try:
                asked.adjust.check(self._model.config.get_text_config().vocab_size)
            except ValueError as error:
                raise wrong(str(error), "logit_bias") from None

    def settings(self, asked: ChatRequest, prompt: int) -> GenerationConfig:
        """What `generate` is told; where nothing says how long the answer may be, the model's context does."""
        limits, context = self._limits, context_of(self._model)
        given = asked.max_completion_tokens or asked.max_tokens
        check_room(prompt, given or 1, context)
        most = given or min(limits.default_new_tokens, limits.new_tokens, *([context - prompt] if context else []))
        body = {
            "temperature": 0.0 if asked.cold else asked.temperature,
            "top_p": asked.top_p,
            "stop": asked.stop or None,
        }
        config: GenerationConfig = self._build_generation_config(body, self._model.generation_config)
        config.max_new_tokens, config.max_length = most, None
        if asked.cold:
            config.temperature = config.top_p = config.top_k = None
        elif asked.temperature is not None or asked.top_p is not None:
            config.do_sample = True  # transformers leaves that to the model's own settings
        return config

    def reader(self, ids: Any, tools: list[Any]) -> Parsed | None:
        """What reads the answer; None if all of it is text.

        Raises:
            Refused: tools are given, and how this prompt has them called is not known.
        """
        template = get_response_template(self._processor, self._model)
        if template is None or not begins(template, self._tokenizer.decode(ids[0])):
            # transformers would read the whole prompt as part of the answer.
            if tools:
                message = "how this model's chat template has tools called is not known: send no tools"
                raise wrong(message, "tools", "unsupported_by_model")
            return None
        more = {"tools": tools or None} if _TOLD else {}
        return Parsed(build_response_parser(self._processor, self._model, ids, **more))

    def event(self, data: Any) -> str:
        """A server-sent event."""
        return str(self.chunk_to_sse(data))


def make_app(settings: Settings) -> FastAPI:
    """The application: a model is loaded, and its batcher begins; the end of its lifespan drains.

    Raises:
        TypeError, ValueError, OSError, ImportError: as `serve_model`.
    """
    served = serve_model(settings)
    return routed(served, Desk(served, Chats(served.model, served.processor, served.limits)))
