"""All that learns, in one module: the language model's updates, the code of patches, and tower and projector."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...smol.language import Language
from ...smol.text import build_tokenizer
from ...world import Scene
from .body import Body
from .code import Code
from .course import Stage
from .drills import Line, Speaker
from .packing import answered
from .showing import classes_of, some, squeezed, symbols
from .sight import Sight, miss

Judged = list[tuple[str, bool]]
_HEADS = 0.3  # the weight of the heads' loss beside that of answers


class Pupil(nn.Module):
    """The language model with its updates, the code that stands in for a tower, and the tower.

    Args:
        language: the pretrained language model.
        seed: of what starts at random.
        dtype: what the language model computes in.
    """

    def __init__(self, language: Language, seed: int, dtype: torch.dtype = torch.bfloat16) -> None:
        super().__init__()
        weights, tokenizer = language.weights(), build_tokenizer(language)
        self.speaker = Speaker(tokenizer)
        self.body = Body(language.config(), weights, dtype, seed)
        self.code = Code(weights["embed_tokens.weight"], tokenizer)
        self.sight = Sight(self.body.words.shape[1], seed)

    def groups(self, stage: Stage) -> list[dict[str, Any]]:
        """What a stage trains, by learning rate."""
        updates = {"params": list(self.body.parameters()), "full": stage.rate}
        if stage.shown == "symbols":
            return [updates, {"params": list(self.code.parameters()), "full": stage.slow}]
        seeing = self.sight.groups(stage.slow, stage.worlds)
        return seeing if stage.shown == "vectors" else [updates, *seeing]

    def loss(
        self, stage: Stage, scenes: list[Scene], asked: list[list[Line]], share: float, draw: torch.Generator,
        watching: bool = False,
    ) -> tuple[Tensor, Judged]:  # fmt: skip
        """The loss of a step, and what was told or answered right.

        Args:
            asked: about each scene, or about each pair of scenes, one after the other.
            share: how much of the stage is done.
            watching: whether rendered pictures are shown whole, at their own positions.
        """
        if stage.shown == "symbols":
            vectors, kept = symbols(self.code, scenes, stage, share, draw)
            luck = float(torch.rand((), generator=draw))
            where, end = squeezed(kept, luck if stage.patches else 1.0)
            return answered(self.body, self.speaker, vectors, where, end, asked)
        vectors, heads, told = self.sight(scenes)
        classes = classes_of(scenes, stage)
        if stage.shown == "vectors":
            with torch.no_grad():
                wanted = self.code(classes)
            return miss(vectors, wanted, classes) + _HEADS * heads, told
        kept = some(classes, None if watching else draw)
        where, end = squeezed(kept, 1.0 if watching else float(torch.rand((), generator=draw)))
        vectors = vectors.gather(1, kept[..., None].expand(-1, -1, vectors.shape[-1]))
        pictures = len(scenes) // len(asked)
        if pictures > 1:
            behind = torch.arange(pictures).repeat_interleave(where.shape[1]) * end
            where, end = where.reshape(len(asked), -1) + behind, pictures * end
            vectors = vectors.reshape(len(asked), -1, vectors.shape[-1])
        loss, judged = answered(self.body, self.speaker, vectors, where, end, asked)
        return loss + _HEADS * heads, judged + told
