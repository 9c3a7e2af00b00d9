"""One question about one picture while a recipe works on it: looks at the plain model, answers of the attached one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel

from vtokens.adapters import adapter_for
from vtokens.core.facts import Facts
from vtokens.core.prompts import encode_prompts, question_prompt
from vtokens.engine.attach import Handle, joined, without
from vtokens.recipes.looking.frame import framed
from vtokens.recipes.region import Look, plane
from vtokens.strategies import Strategy
from vtokens.strategies.stages import STAGES

Box = tuple[int, int, int, int]
"""(left, top, right, bottom), pixels of the picture."""
MOST = 64
"""New tokens of an answer unless the caller says otherwise."""


@dataclass(frozen=True)
class Said:
    """What was answered to one prompt.

    Attributes:
        text: the answer.
        prompt: what was asked.
        images: what it shows.
        sequences: int64 (1, N), prompt and answer.
        start: where the answer begins in it.
        report: of this prompt; None where it shows nothing.
        likely: the geometric mean of the probabilities of the answer's tokens; 0 if it was not asked for.
        unsure: the entropy of its first token, in nats; 0 if it was not asked for.
    """

    text: str
    prompt: str
    images: tuple[Image.Image, ...]
    sequences: Tensor
    start: int
    report: Any = None
    likely: float = 0.0
    unsure: float = 0.0


@dataclass
class Asking:
    """A question about a picture, and the passes that were spent on it.

    Attributes:
        model, processor, image, question: as `Recipe.__call__` was given them.
        options: of `generate`.
        criteria: makes further stopping criteria for a prompt of so many tokens.
        passes: how often a prompt was read.
        flops, flops_full: decoder FLOPs of these, as run and without pruning.
        report: of the prompt that was read last; None where it shows nothing.
    """

    model: PreTrainedModel
    processor: Any
    image: Image.Image
    question: str
    options: Mapping[str, Any] = field(default_factory=dict)
    criteria: Callable[[int], Sequence[Any]] | None = None
    passes: int = 0
    flops: int = 0
    flops_full: int = 0
    report: Any = None

    @property
    def facts(self) -> Facts:
        """What is known of the model."""
        return adapter_for(self.model).facts

    def frame(self) -> tuple[float, float, float, float]:
        """(left, top, right, bottom), the part of the picture that the grid of patches covers, in its pixels."""
        return framed(self.processor, self.image)

    def inputs(self, question: str, images: Sequence[Image.Image]) -> tuple[str, Any]:
        """The prompt of a question behind some pictures, and what the processor makes of it."""
        text = question_prompt(self.processor, question, len(images))
        encoded = encode_prompts(self.processor, [text], [list(images)] if images else ())
        return text, encoded.to(self.model.device, self.model.dtype)

    def look(self, question: str, layers: Sequence[int], image: Image.Image | None = None) -> list[np.ndarray]:
        """One pass of the plain model: the attention that patches get from the end of the prompt in some layers.

        Args:
            question: what is asked.
            layers: decoder layers, 0 to depth - 2, none twice.
            image: another picture than the own one.

        Returns:
            For each layer float64 (h, w), the mean over heads, on the grid of the picture's last view.

        Raises:
            ValueError: the processor cut the picture into tiles, and nobody knows where they lay.
        """
        looks = [Look(layer) for layer in layers]
        with torch.no_grad(), self.watched(*looks) as model:
            model(**self.inputs(question, [image or self.image])[1], logits_to_keep=1)
        return [plane(*only(look.seen)) for look in looks]

    def watched(self, *watching: Strategy) -> AbstractContextManager[Any]:
        """A context in which the plain model runs with some strategies, as one pass of this recipe; gives the model."""
        return self._counted(without(self.model, STAGES, *watching))

    def attached(self, *more: Strategy) -> AbstractContextManager[Any]:
        """A context in which the attached model runs, `more` behind it, as one pass; gives the model."""
        return self._counted(joined(self.model, *more))

    def ask(
        self, question: str | None = None, images: Sequence[Image.Image] | None = None, likely: bool = False,
        under: Sequence[Strategy] = (), **more: Any,
    ) -> Said:  # fmt: skip
        """Have the attached model answer.

        Args:
            question: by default the own one.
            images: what is shown, by default the own picture.
            likely: work out `Said.likely` and `Said.unsure`.
            under: strategies of the recipe that act in this answer, behind those that are attached.
            more: options of `generate` that hold for this answer alone.

        Raises:
            ValueError: `likely`, and beams, whose tokens do not belong to one sequence, or a streamer.
        """
        shown = (self.image,) if images is None else tuple(images)
        text, inputs = self.inputs(self.question if question is None else question, shown)
        start = inputs["input_ids"].shape[1]
        options = {"do_sample": False, "max_new_tokens": MOST, **self.options, **more}
        if self.criteria is not None:
            options["stopping_criteria"] = [*options.get("stopping_criteria", ()), *self.criteria(start)]
        if likely and (options.get("num_beams") or 1) > 1:
            raise ValueError(
                f"num_beams={options['num_beams']}: how sure an answer is is read off the tokens of one sequence, so "
                "that this recipe takes num_beams=1 alone"
            )
        if likely and options.get("streamer") is not None:
            raise ValueError(
                "streamer: this recipe asks several times and then chooses one of the answers, so that nothing can be "
                "shown while they are written: leave it out"
            )
        if likely:
            options |= {"return_dict_in_generate": True, "output_logits": True}
        with self.attached(*under) as model:
            output = model.generate(**inputs, **options)
        sequences = output if isinstance(output, Tensor) else output.sequences
        tokenizer = getattr(self.processor, "tokenizer", self.processor)
        [said] = tokenizer.batch_decode(sequences[:1, start:], skip_special_tokens=True)
        chances = _chances(output, start) if likely else (0.0, 0.0)
        return Said(said.strip(), text, shown, sequences, start, self.report, *chances)

    @contextmanager
    def _counted(self, running: AbstractContextManager[Handle]) -> Iterator[Any]:
        """Note that a prompt was read within, and what it cost; nothing where that failed."""
        with running as handle:
            before = handle.record
            yield self.model
            self.passes += 1
            self.report = None if handle.record is before else handle.report()
            if self.report is not None:
                self.flops += self.report.flops
                self.flops_full += self.report.flops_full


def only(seen: Sequence[Any]) -> Any:
    """The one picture that was seen.

    Raises:
        ValueError: there are several, tiles of the image.
    """
    if len(seen) != 1:
        raise ValueError(
            f"the processor made {len(seen)} pictures of one image, and where in it they lay is not known: switch the "
            "cutting into tiles off (do_image_splitting=False, do_pan_and_scan=False)"
        )
    return seen[0]


def _chances(output: Any, start: int) -> tuple[float, float]:
    """`Said.likely` and `Said.unsure`, under the logits before warpers."""
    tokens = output.sequences[0, start:]
    logs = torch.stack(list(output.logits))[: len(tokens), 0].float().log_softmax(-1)
    likely = logs.gather(1, tokens[:, None].to(logs.device)).mean().exp()
    unsure = -(logs[0].exp() * logs[0].clamp_min(torch.finfo(torch.float32).min)).sum()  # 0 where a token is barred
    return float(likely), float(unsure)
