"""ILVAD: what the first words of a draft look at in layer after layer is lifted while the answer is written."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from vtokens.core.facts import Facts
from vtokens.core.picture import Picture
from vtokens.engine.attach import attachment
from vtokens.kernels import attention_rows
from vtokens.recipes.looking.asking import Asking, only
from vtokens.recipes.looking.base import Looked, Recipe, function
from vtokens.recipes.looking.evidence import TINY, Evidence, within
from vtokens.recipes.looking.registry import recipe
from vtokens.recipes.region import plane
from vtokens.strategies import Strategy
from vtokens.strategies.checks import check_layers, check_weight
from vtokens.strategies.needs import Needs
from vtokens.strategies.views.heads import Heads


@recipe(
    "ilvad",
    paper="ILVAD (Inter-Layer Visual Attention Discrepancy), github.com/ytx-ML/ILVAD",
    venue="ICML 2026",
    evidence="text",
    shown="tests/recipes/test_ilvad.py::test_answers_are_those_of_the_formula",
)
@dataclass(frozen=True)
class Ilvad(Recipe):
    """Drafts a few words, finds what they look at anew in layer after layer, and looks there while it answers.

    In each layer the half of the heads that looks most at the picture is averaged, over the drafted words behind the
    first one. A visual token is active where that is above `tau` times the layer's mean; its evidence is how often it
    becomes active from one layer to the next, 0 unless its mean over layers is above that of all. Brought to 0 to
    `alpha`, that is the logarithm m of its lift. The answer is then written with attention changed in `layers` at its
    newest row: the half of the heads whose gaze follows m most has visual weights multiplied by exp(m); the half that
    looks most at text behind the picture has these multiplied by `beta` + how well each of them is grounded itself,
    from 0 to 1, where grounding is the sum of m over what a token looked at in all layers; and all are brought to a sum
    of 1. Two passes, and the words of the draft.

    Attributes:
        alpha: the greatest lift is exp(alpha).
        beta: what a text token keeps that looks at no evidence; the release runs 0.3 for captions, 1 on POPE.
        tau: how many times the mean an active token gets.
        draft: words of the draft, its tokens.
        layers: decoder layers whose attention is changed, 0 to depth - 2; None takes 5 to 25 of 32, as the release for
            captions; it takes 0 to 30 on POPE.
    """

    alpha: float = 5.0
    beta: float = 0.3
    tau: float = 5.0
    draft: int = 10
    layers: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("alpha", "beta", "tau"):
            check_weight(name, getattr(self, name))
        if self.draft < 2:
            raise ValueError(
                f"draft={self.draft} is not allowed: at least 2 tokens, of which the first is not looked at"
            )

    def watches(self, facts: Facts) -> tuple[Strategy, ...]:
        last = facts.attending[-1:]
        if self.layers is None:
            chosen = facts.scaled(5, 25)
        else:
            chosen = check_layers("layers", self.layers, facts.depth - 1)
        # The layer that ends a pass counts what it looked at, and cannot go by that itself.
        return (Evidence(self.beta, tuple(one for one in chosen if one not in last)),)

    def answer(self, asking: Asking) -> Looked:
        handle = attachment(asking.model)
        contrasts = (
            [] if handle is None else [one for one in handle.strategies if one.negative(asking.facts) is not None]
        )
        if contrasts:
            raise ValueError(
                f"the recipe 'ilvad' follows what one sequence looks at, and {contrasts[0].name!r} runs another beside "
                "it: detach it, or take another recipe"
            )
        glance = Glance()
        with torch.no_grad(), asking.watched(glance) as model:
            prompt = asking.inputs(asking.question, [asking.image])[1]
            model.generate(**prompt, do_sample=False, max_new_tokens=self.draft)
        lift = lifted(glance.mean(), self.tau, self.alpha)
        picture = only(glance.pictures)
        [evidence] = self.watches(asking.facts)
        assert isinstance(evidence, Evidence)
        evidence.state.lift = np.zeros(len(picture), np.float32)
        evidence.state.lift[glance.cells.cpu().numpy()] = lift.cpu().numpy()
        said = asking.ask(under=(evidence,))
        grid = plane(picture, evidence.state.lift)
        return self.looked(asking, said, evidence=grid, layers=evidence.layers)


@dataclass(frozen=True)
class Glance(Strategy):
    """Notes what each new token of a draft looks at in the picture, in all layers, and changes nothing."""

    name: ClassVar[str] = "ilvad.glance"
    seen: dict[int, list[Tensor]] = field(default_factory=dict, compare=False)
    found: list[Any] = field(default_factory=list, compare=False)

    def needs(self, facts: Facts) -> Needs:
        return Needs(attend=facts.attending, watches=True)

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """Those of the prompt."""
        return tuple(self.found[0].pictures)

    @property
    def cells(self) -> Tensor:
        """int64 (N,): for each visual token its position in the picture."""
        layout = self.found[0]
        cells: Tensor = layout.cell[0][layout.visual[0]]
        return cells

    def at_attend(self, heads: Heads) -> None:
        if heads.layout is not None:
            self.found[:] = self.found or [heads.layout]
        row = attention_rows(
            heads.query[:, :, -1:], heads.key, heads.scaling, None, heads.valid, softcap=heads.softcap
        )[0, :, 0]  # fmt: skip
        visual = self.found[0].visual[0]
        looks = row[:, : len(visual)][:, visual].float()
        chosen = looks.sum(1).topk(max(1, len(looks) // 2)).indices
        self.seen.setdefault(heads.layer, []).append(looks[chosen].mean(0))

    def mean(self) -> Tensor:
        """float32 (L, N): what the tokens behind the first one looked at; the prompt's end where there are none."""
        layers = (self.seen[layer] for layer in sorted(self.seen))
        return torch.stack([torch.stack(rows[1:] or rows).mean(0) for rows in layers])


def lifted(looks: Tensor, tau: float, alpha: float) -> Tensor:
    """float32 (N,): logarithms of what visual weights are multiplied by, from attention (L, N); from 0 to `alpha`."""
    active = looks > tau * looks.mean(1, keepdim=True)
    often = (active[1:] & ~active[:-1]).sum(0).float()
    mean = looks.mean(0)
    often = within(often * (mean > mean.mean()))
    return alpha * (often - often.min()) / (often.max() - often.min()).clamp(min=TINY)


ilvad = function(Ilvad)
