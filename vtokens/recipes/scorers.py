"""Who says how well a frame fits a question: a CLIP-like model that is handed over, or the VLM's own answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import cosine_similarity

from vtokens.core.errors import shorten
from vtokens.core.prompts import encode_prompts, question_prompt
from vtokens.engine.attach import without

ASK = "Does this picture help to answer the question: {query} Answer with yes or no."


class Scorer(Protocol):
    """Anything that scores frames; `ClipScorer` and `AnswerScorer` are two."""

    def __call__(self, frames: Sequence[Image.Image], query: str) -> Sequence[float]:
        """A finite number for each frame, the higher the better; T* needs confidences, from 0 to 1."""
        ...


@dataclass(frozen=True)
class ClipScorer:
    """The cosine of a frame and the query in a model that embeds both, as CLIP and SigLIP do.

    Attributes:
        model: with `get_image_features` and `get_text_features`.
        processor: the model's.
        batch: frames at once.
    """

    model: Any
    processor: Any
    batch: int = 32

    @torch.no_grad()
    def __call__(self, frames: Sequence[Image.Image], query: str) -> list[float]:
        """The cosines, -1 to 1.

        Raises:
            ValueError: a query that is longer than the model reads.
        """
        config = getattr(self.model.config, "text_config", self.model.config)
        most = int(config.max_position_embeddings)
        # SigLIP was trained on texts that are padded to full length.
        padding = "max_length" if str(self.model.config.model_type).startswith("siglip") else True
        text = self.processor(text=[query], padding=padding, return_tensors="pt")
        if text["input_ids"].shape[1] > most:
            raise ValueError(
                f"the query {shorten(query)} has {text['input_ids'].shape[1]} tokens, and the scorer reads {most}: say "
                "in fewer words what the frames should show"
            )
        wanted = _features(self.model.get_text_features(**text.to(self.model.device)))
        found: list[float] = []
        for first in range(0, len(frames), self.batch):
            pixels = self.processor(images=list(frames[first : first + self.batch]), return_tensors="pt")
            shown = _features(self.model.get_image_features(**pixels.to(self.model.device)))
            found += cosine_similarity(shown.float(), wanted.float(), dim=-1).tolist()
        return found


@dataclass(frozen=True)
class AnswerScorer:
    """How much likelier than no a VLM says yes when it is shown a frame alone, and asked whether it helps.

    What is attached to the model acts here too, but for what changes logits: a contrast takes words that it holds
    implausible out of the answer, and would leave every frame with the same score. A frame's score is
    P(yes) / (P(yes) + P(no)) of the first token.

    Attributes:
        model: of a supported family.
        processor: the model's.
        ask: what is asked, with {query} in it.
        batch: frames at once.
        least: a model that answers neither word is refused: P(yes) + P(no) is below this on all frames of a call. 0
            takes any.

    Raises:
        ValueError: `ask` without {query}; `least` that is no probability.
    """

    model: Any
    processor: Any
    ask: str = ASK
    batch: int = 8
    least: float = 0.1

    def __post_init__(self) -> None:
        if "{query}" not in self.ask:
            raise ValueError(f"ask={shorten(self.ask)} leaves the query out: it stands where {{query}} is written")
        if not 0 <= self.least <= 1:
            raise ValueError(f"least={self.least!r} is out of range: a probability, from 0 to 1")

    @torch.no_grad()
    def __call__(self, frames: Sequence[Image.Image], query: str) -> list[float]:
        """The scores, 0 to 1.

        Raises:
            ValueError: the tokenizer begins yes and no with the same token, or the model answers neither of them.
        """
        words = [self._first(word) for word in ("yes", "no")]
        if words[0] & words[1]:
            raise ValueError("the model's tokenizer begins yes and no with the same token: use another scorer")
        asked = self.ask.replace("{query}", query)
        prompt = question_prompt(self.processor, asked)
        found: list[float] = []
        either: list[float] = []
        for first in range(0, len(frames), self.batch):
            part = frames[first : first + self.batch]
            inputs = encode_prompts(self.processor, [prompt] * len(part), [[frame] for frame in part])
            with without(self.model, {"logits"}):
                logits = self.model(**inputs.to(self.model.device), logits_to_keep=1).logits[:, -1].float()
            yes, no = (logits[:, sorted(ids)].logsumexp(1) for ids in words)
            found += (yes - no).sigmoid().tolist()
            either += (torch.logaddexp(yes, no) - logits.logsumexp(1)).exp().tolist()
        if either and max(either) < self.least:
            raise ValueError(
                f"asked {shorten(asked)}, the model answers neither yes nor no: P(yes) + P(no) is {max(either):.2g} at "
                f"most on {len(either)} frame(s), and least={self.least:g} is needed. Ask otherwise (ask=..., or "
                "--seek), or use another scorer, such as ClipScorer (--scorer)"
            )
        return found

    def _first(self, word: str) -> set[int]:
        """The tokens that an answer may begin with, in either case, with a space before it or without."""
        tokenizer = getattr(self.processor, "tokenizer", self.processor)
        forms = [space + form for space in ("", " ") for form in (word, word.capitalize())]
        ids = [tokenizer(form, add_special_tokens=False)["input_ids"] for form in forms]
        blank = set(tokenizer(" ", add_special_tokens=False)["input_ids"])
        return {next(one for one in row if one not in blank) for row in ids}


def _features(output: Any) -> Tensor:
    """Features as older and newer releases of transformers give them."""
    found: Tensor = output if isinstance(output, Tensor) else output.pooler_output
    return found
