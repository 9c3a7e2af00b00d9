"""CDPruner: a determinantal point process over features, conditioned on the question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vtokens.core.budget import Keep
from vtokens.core.facts import Facts
from vtokens.kernels import determinantal
from vtokens.strategies.needs import Needs
from vtokens.strategies.registry import register
from vtokens.strategies.signals import Relevance, TowerStates
from vtokens.strategies.subset_pruner import SubsetPruner
from vtokens.strategies.text_tower import TextTower, text_tower
from vtokens.strategies.views.visuals import Visuals

_LEAST = 1e-6
"""What the least relevant token has, of a range from there to 1; as in the released code."""


@register(
    "cdpruner",
    paper="CDPruner, arXiv:2506.10967",
    venue="NeurIPS 2025",
    evidence="stand-in",
    shown="tests/strategies/test_cdpruner.py::test_the_release_keeps_the_same_tokens_of_the_same_relevance",
    given=("text_model", "text", "tests/strategies/test_cdpruner.py::test_relevance_to_clips_words"),
)
@dataclass(frozen=True)
class CDPruner(SubsetPruner):
    """Keeps the tokens whose features, weighed by relevance to the question, have the largest determinant.

    The kernel is diag(r) S diag(r), S the cosines of projected features and r the relevance, rescaled to each picture's
    range; greedy MAP adds the token that raises its determinant most. With `text_model`, relevance is the mean cosine
    of a patch, through CLIP's projection, with what CLIP's text tower makes of the prompt, in cuts of 77 tokens.
    Without one, as no checkpoint of a vision-language model brings it along, a stand-in: the mean cosine with the
    embeddings of the prompt's text where they enter the decoder.

    Attributes:
        keep: share or count per picture.
        negated: relevance is minus the cosine, as in the released code.
        theta: r becomes exp(theta / (2 (1 - theta)) r), so that more weighs relevance against diversity; 0 is diversity
            alone, None leaves r as it is.
        text_model: a folder or hub id of the CLIP whose vision tower the model has, with its tokenizer, as
            "openai/clip-vit-large-patch14-336"; None for the stand-in.
        tokenizer: a folder or hub id with the tokenizer of the vision-language model, whose prompts are read; None is
            where that was loaded from.
    """

    keep: Keep = 0.1
    negated: bool = True
    theta: float | None = None
    text_model: str | None = None
    tokenizer: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.theta is not None and not 0 <= self.theta < 1:
            raise ValueError(f"theta={self.theta!r} is out of range: a number in [0, 1), or None")
        if self.tokenizer is not None and self.text_model is None:
            raise ValueError(
                f"tokenizer={self.tokenizer!r} tells what text_model is to read: give that too, or neither"
            )

    def needs(self, facts: Facts) -> Needs:
        if self.text_model is None:
            return Needs(signals=(Relevance(),))
        return Needs(signals=(TowerStates(),), waits="the words of the prompt")

    def prepare(self, facts: Facts) -> TextTower | None:
        if self.text_model is None:
            return None
        return text_tower(self.name, self.text_model, self.tokenizer, facts)

    def choose(self, visuals: Visuals, counts: Sequence[int]) -> Tensor:
        raw, valid = self._relevance(visuals), visuals.valid
        raw = -raw if self.negated else raw
        low, high = raw.masked_fill(~valid, torch.inf).amin(1, True), raw.masked_fill(~valid, -torch.inf).amax(1, True)
        # Where all are equally relevant, all weigh 1.
        weight = ((raw - low + _LEAST) / (high - low).clamp(min=_LEAST)).masked_fill(~valid, 0)
        if self.theta is not None:
            weight = (self.theta / (2 * (1 - self.theta)) * weight).exp()
        return determinantal(visuals.tokens, weight, valid, counts)

    def _relevance(self, visuals: Visuals) -> Tensor:
        """float32 (G, M): the cosine of each token with the prompt, the mean over the prompt's parts."""
        tower: TextTower | None = visuals.prepared
        if tower is None:
            return visuals.relevance()
        patches = tower.seen(visuals.tower_states())
        said = tower.read(tower.prompts(visuals), patches.device)
        samples = [visuals.layout.owner[picture] for picture in visuals.owners]
        return (patches @ said[samples][..., None])[..., 0]
