"""From pictures, questions and responses to the batch of one teacher-forced pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vtokens.adapters import Adapter
from vtokens.adapters.anatomy import PIXELS
from vtokens.core.prompts import POSITION_KINDS
from vtokens.loading.context import TooLongError
from vtokens.loading.media import Medium, batch_inputs, question_about

Response = str | Sequence[int]
"""Text, or better the token ids that the model generated: text may be cut into other tokens than it was made of."""


@dataclass(frozen=True)
class ResponseBatch:
    """Prompts padded on the left, and the responses behind them padded on the right.

    Attributes:
        inputs: of the processor, on the model's device: `input_ids` (B, P), `attention_mask`, pixels.
        responses: int64 (B, T), on the model's device. Behind its end a response repeats its last token: nothing
            before can see that, and no row of it is read.
        lengths: tokens of each response.
    """

    inputs: dict[str, Any]
    responses: Tensor
    lengths: tuple[int, ...]

    def full(self, adapter: Adapter) -> dict[str, Any]:
        """Keyword arguments of a pass over prompts and responses; the last token is not fed, as nothing follows it.

        Raises:
            ValueError: a response holds a placeholder of a picture.
        """
        return self._followed(adapter, dict(self.inputs))

    def predicted(self, output: Any) -> Tensor:
        """(B, T, vocabulary): the logits, in what the model gave for `full` or its like, that predict the responses."""
        logits: Tensor = output.logits
        # Omni models give all of them, whatever they are asked for.
        return logits[:, -self.responses.shape[1] :]

    def blank(self, adapter: Adapter) -> dict[str, Any]:
        """The same with pictures of nothing: every pixel has the mean colour of the tower's training data."""
        inputs = dict(self.inputs)
        for modality, pixels in PIXELS.items():
            if pixels in inputs:
                inputs = adapter.change_pixels(modality, inputs, torch.zeros_like)
        return self._followed(adapter, inputs)

    def text(self, adapter: Adapter) -> dict[str, Any]:
        """The same without pictures: all that stood in their places is taken out, the rest is numbered anew."""
        ids, mask = self.inputs["input_ids"], self.inputs["attention_mask"].bool()
        for token in adapter.placeholder_ids.values():
            mask = mask & (ids != token)
        order = mask.long().argsort(dim=1, stable=True)[:, -int(mask.sum(1).max()) :]
        alone = {"input_ids": ids.gather(1, order), "attention_mask": mask.gather(1, order).long()}
        visibility = adapter.anatomy.visibility
        if visibility is not None and self.inputs.get(visibility.kinds) is not None:
            alone[visibility.kinds] = self.inputs[visibility.kinds].gather(1, order)
        return self._followed(adapter, alone)

    def _followed(self, adapter: Adapter, inputs: dict[str, Any]) -> dict[str, Any]:
        fed = self.responses[:, :-1]
        placeholders = torch.tensor(list(adapter.placeholder_ids.values()), device=fed.device)
        wrong = torch.isin(self.responses, placeholders).any(1)
        if wrong.any():
            rows = wrong.nonzero()[:, 0].tolist()
            raise ValueError(f"responses {rows} hold a placeholder of a picture, which only prompts may: take it out")
        inputs["input_ids"] = torch.cat([inputs["input_ids"], fed], 1)
        mask = inputs["attention_mask"] = torch.cat([inputs["attention_mask"], torch.ones_like(fed)], 1)
        for name in inputs.keys() & POSITION_KINDS:
            kind = adapter.anatomy.written_kind(name)
            inputs[name] = torch.cat([inputs[name], inputs[name].new_full(fed.shape, kind)], 1)
        if not hasattr(adapter.multimodal, "get_rope_index"):  # these make positions of their own, in three dimensions
            inputs["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
        # Of the rows that predict a response: the first of them is where its prompt ends.
        return {**inputs, "logits_to_keep": self.responses.shape[1], "use_cache": False}


def prompt_inputs(
    processor: Any, images: Sequence[Sequence[Medium]], prompts: Sequence[str], device: Any
) -> dict[str, Any]:
    """What the processor makes of prompts with their pictures and videos, padded on the left.

    Raises:
        ValueError: lists of different length, or none; a sample without pictures, or with as many placeholders in its
            prompt as it has not.
        ImportError: a video, and the model's processor cannot prepare any here.
    """
    if len(images) != len(prompts) or not prompts:
        raise ValueError(f"got pictures for {len(images)} samples and {len(prompts)} prompts: equal numbers, 1 or more")
    asked = []
    for number, (group, prompt) in enumerate(zip(images, prompts, strict=True)):
        if isinstance(group, Medium) or not group or not all(isinstance(one, Medium) for one in group):
            raise ValueError(
                f"images[{number}]={group!r} is not allowed: a list of at least one PIL image or video.Clip a sample"
            )
        asked.append(question_about(processor, group, prompt))
    return dict(batch_inputs(processor, asked).to(device))


def batch(adapter: Adapter, processor: Any, inputs: dict[str, Any], responses: Sequence[Response]) -> ResponseBatch:
    """Put responses behind prompts.

    Raises:
        TypeError: a response that is neither text nor token ids.
        TooLongError: a response that does not fit into the model's context behind its prompt.
        ValueError: another number of responses than of prompts, an empty one, or one with a token the model has not.
    """
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    if len(responses) != len(ids):
        raise ValueError(f"got {len(responses)} responses for {len(ids)} prompts: one each")
    config = adapter.language_model.config
    vocabulary, context = config.vocab_size, getattr(config, "max_position_embeddings", None)
    rows = [tokens(processor, response, number, vocabulary) for number, response in enumerate(responses)]
    for number, (row, length) in enumerate(zip(rows, mask.sum(1).tolist(), strict=True)):
        if context is not None and length + len(row) > context:
            said = f"responses[{number}] has {len(row)} tokens behind a prompt of {length}"
            room = context - length
            way = f"cut the response to {room} tokens, or check it in parts"
            if room < 1:
                way = "the prompt alone fills it, so show fewer or smaller pictures, or fewer frames, or ask for less"
            raise TooLongError(f"{said}, but the model's context holds {context}: {way}")
    longest = max(map(len, rows))
    padded = torch.tensor([[*row, *[row[-1]] * (longest - len(row))] for row in rows], device=ids.device)
    return ResponseBatch(inputs, padded, tuple(map(len, rows)))


def tokens(processor: Any, response: Response, number: int, vocabulary: int) -> list[int]:
    """The token ids of a response; errors as in `batch`, where it is number `number`."""
    if isinstance(response, str):
        tokenizer = getattr(processor, "tokenizer", processor)
        row = tokenizer(response, add_special_tokens=False)["input_ids"]
    elif isinstance(response, Tensor):
        row = response.tolist()
    else:
        row = list(response)
    if not row:
        raise ValueError(f"responses[{number}]={response!r} is empty: there is nothing to score")
    if not all(isinstance(token, int) and not isinstance(token, bool) for token in row):
        raise TypeError(f"responses[{number}] is neither text nor a list of token ids: {row[:4]!r}...")
    if not 0 <= min(row) <= max(row) < vocabulary:
        raise ValueError(f"responses[{number}] holds token {max(row)}: ids from 0 to {vocabulary - 1} are allowed")
    return row
