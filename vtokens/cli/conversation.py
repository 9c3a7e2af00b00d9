"""Questions about the same pictures and videos, one behind another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from vtokens.cli.inputs import Visual
from vtokens.core.prompts import chat_text, question_prompt
from vtokens.loading.context import TooLongError, check_characters, check_room, context_of
from vtokens.loading.media import MediaPrompt, batch_inputs, place_clip
from vtokens.recipes import timed_parts


@dataclass
class Conversation:
    """What was asked and answered.

    Attributes:
        model, processor: from `vtokens.load`.
        visuals: stand before the first question.
        most: tokens of an answer.
        timestamps: frames are shown as pictures, each behind its time.
        looked: called once the model has seen them, before it writes on; what it raises ends the answer.
        turns: so far, as a chat template takes them.
        prompt_tokens: of the last prompt.
    """

    model: Any
    processor: Any
    visuals: Sequence[Visual]
    most: int
    timestamps: bool = False
    looked: Callable[[], None] | None = None
    turns: list[dict[str, Any]] = field(default_factory=list)
    prompt_tokens: int = 0

    def ask(self, question: str) -> str:
        """The answer to a question that follows the turns so far; both join them.

        Raises:
            ValueError: prompt and answer do not fit into the model's context, or the question holds another number of
                places for pictures than there are.
            ImportError: the model sees videos, and torchvision, which prepares them, is missing.
        """
        context = context_of(self.model)
        check_characters(question, context, "the question")
        images: list[Any] = []
        clips: list[Any] = []
        parts: list[dict[str, str]] = []
        for one in self.visuals:
            if one.clip is None:
                images.append(one.image)
                parts.append({"type": "image"})
            elif self.timestamps:
                images += one.clip.images()
                parts += timed_parts(one.clip)
            else:
                parts += place_clip(self.processor, one.clip, images, clips)
        asked = {"type": "text", "text": question}
        self.turns.append({"role": "user", "content": [asked] if self.turns else [*parts, asked]})
        if len(self.turns) == 1 and not clips and not self.timestamps:
            text = question_prompt(self.processor, question, len(images))
        else:
            text = chat_text(self.processor, self.turns)
        inputs = batch_inputs(self.processor, [MediaPrompt(text, images, clips)]).to(self.model.device)
        self.prompt_tokens = inputs["input_ids"].shape[1]
        try:
            check_room(self.prompt_tokens, self.most, context)
        except TooLongError as error:
            if frames := sum(len(one.clip.frames) for one in self.visuals if one.clip is not None):
                raise TooLongError(f"{error}, or take fewer than {frames} frames (--frames)") from error
            raise
        more: dict[str, Any] = {}
        if self.looked is not None:
            more["stopping_criteria"] = StoppingCriteriaList([_Once(self.looked)])
        tokens = self.model.generate(**inputs, max_new_tokens=self.most, do_sample=False, **more)
        [said] = self.processor.batch_decode(tokens[:, self.prompt_tokens :], skip_special_tokens=True)
        self.turns.append({"role": "assistant", "content": [{"type": "text", "text": said.strip()}]})
        return str(said.strip())


class _Once(StoppingCriteria):
    """Calls something behind the first token of an answer, and stops nothing by itself."""

    def __init__(self, call: Callable[[], None]) -> None:
        self.call, self.done = call, False

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        if not self.done:
            self.done = True
            self.call()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
