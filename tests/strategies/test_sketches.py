"""Published pruners as somebody's plugin of a dozen lines: what each is made of is a signal, checked by hand here.

Not the strategies themselves: settings, ties and the releases' odd corners are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

import vtokens
from tests.engine.cases import model
from tests.engine.compare import ragged
from tests.engine.masked import dropped_keys, masking
from tests.families import EVERY, image, inputs
from tests.limits import close_pass
from tests.strategies.helpers import registry_restored
from vtokens.strategies import (
    Attention,
    Facts,
    LayerKeys,
    Needs,
    Relevance,
    Saliency,
    ScorePruner,
    Selection,
    Strategy,
    TowerKeys,
    Visuals,
    register,
)


@pytest.fixture(autouse=True)
def _sketches() -> Iterator[None]:
    with registry_restored(), torch.no_grad():
        for cls in (Zip, Feather, Dart, Cdp, Sparse):
            register(cls.__name__.lower())(cls)
        yield


@dataclass(frozen=True)
class Zip(Strategy):
    """VisionZip: salient tokens stay, others are added to the most alike of a few evenly spread ones, by tower keys."""

    dominant: int = 3
    contextual: int = 2

    def needs(self, facts: Facts) -> Needs:
        return Needs(signals=(Saliency(), TowerKeys()))

    def at_prompt(self, visuals: Visuals) -> Selection:
        keys = normalize(visuals.tower_keys().mean(2), dim=-1)
        best = visuals.top(visuals.saliency(), self.dominant).keep
        rest = visuals.valid & ~best
        step = (rest.sum(1, keepdim=True) // self.contextual).clamp(min=1)
        rank = rest.cumsum(1) - 1
        target = rest & (rank % step == 0) & (rank < step * self.contextual)
        where = target.long().argsort(dim=1, descending=True, stable=True)[:, : self.contextual]
        like = keys @ keys.gather(1, where[..., None].expand(-1, -1, keys.shape[-1])).transpose(1, 2)
        like = like.masked_fill(~target.gather(1, where)[:, None], -torch.inf)
        into = where.gather(1, like.argmax(2))
        keep, joins = best | target, rest & ~target
        order = keep.long().argsort(dim=1, descending=True, stable=True)[:, : int(keep.sum(1).max()), None]
        members = (into[:, None] == order) & joins[:, None]
        own = order == torch.arange(keys.shape[1], device=order.device)
        return Selection(keep, weights=own + members / members.sum(2, keepdim=True).clamp(min=1))


@dataclass(frozen=True)
class Feather(Strategy):
    """FEATHER: attention without rotary embeddings and every third cell, then attention alone."""

    share: float = 0.3

    def needs(self, facts: Facts) -> Needs:
        return Needs(layer=(1, 3), signals=(Attention(0, rotary=False), Attention(2, rotary=False)))

    def at_layer(self, visuals: Visuals, index: int) -> Selection:
        scores = visuals.attention(index - 1, rotary=False)
        found = visuals.top(scores, self.share if index == 1 else self.share**2)
        if index > 1:
            return found
        grids = [torch.from_numpy((one.y % 3 == 0) & (one.x % 3 == 0)) for one in visuals.layout.pictures]
        grid = [cells[own.clamp(max=len(cells) - 1)] for cells, own in zip(grids, visuals.cells, strict=True)]
        return Selection((found.keep | torch.stack(grid)) & visuals.valid)


@dataclass(frozen=True)
class Dart(ScorePruner):
    """DART: pivots with the longest keys, of picture and text, and what is least like each of them."""

    stage = "layer"
    layer: int = 2
    pivots: int = 2

    def needs(self, facts: Facts) -> Needs:
        return Needs(signals=(LayerKeys(self.layer - 1),))

    def score(self, visuals: Visuals) -> Tensor:
        length = visuals.layer_keys(self.layer - 1).abs().sum((2, 3))
        words = length.masked_fill(~visuals.text(), -torch.inf).topk(self.pivots).indices[list(visuals.layout.owner)]
        own = visuals.keys(self.layer - 1).abs().sum((2, 3)).masked_fill(~visuals.valid, -torch.inf).topk(self.pivots)
        tokens = visuals.tokens
        row = torch.tensor(visuals.layout.owner)[:, None]
        pivots = torch.cat(
            [tokens.gather(1, own.indices[..., None].expand(-1, -1, tokens.shape[2])), visuals.hidden[row, words]], 1
        )
        score = torch.zeros_like(visuals.valid, dtype=torch.float32).scatter(1, own.indices, torch.inf)
        for pivot in pivots.unbind(1):
            alike = torch.cosine_similarity(tokens, pivot[:, None], dim=-1)
            least = alike.masked_fill(~visuals.valid | (score > 0), torch.inf).argmin(1, keepdim=True)
            score = score.scatter(1, least, score.gather(1, least).clamp(min=1.0))
        return score


@dataclass(frozen=True)
class Cdp(ScorePruner):
    """CDPruner: a determinantal process over features, weighed by what is not like the text."""

    keep: int = 4

    def needs(self, facts: Facts) -> Needs:
        return Needs(signals=(Relevance(),))

    def score(self, visuals: Visuals) -> Tensor:
        raw, out = -visuals.relevance(), ~visuals.valid
        low, high = raw.masked_fill(out, torch.inf).amin(1, True), raw.masked_fill(out, -torch.inf).amax(1, True)
        weight = ((raw - low + 1e-6) / (high - low + 1e-6)).masked_fill(out, 0)
        gain, unit = (weight * weight).masked_fill(out, -torch.inf), normalize(visuals.tokens.float(), dim=-1)
        rows = unit.new_zeros(*weight.shape, 0)
        score = torch.zeros_like(weight)
        for step in range(self.keep):
            at = gain.argmax(1)
            pick = torch.arange(len(at)), at
            score[pick] = self.keep - step
            row = (
                weight * weight[pick][:, None] * (unit @ unit[pick][..., None])[..., 0]
                - (rows @ rows[pick][..., None])[..., 0]
            )
            row = row / gain[pick].clamp(min=1e-12).sqrt()[:, None]
            rows, gain = (
                torch.cat([rows, row[..., None]], 2),
                (gain - row * row).index_put(pick, torch.tensor(-torch.inf)),
            )
        return score


@dataclass(frozen=True)
class Sparse(ScorePruner):
    """SparseVLM: what the words that the picture is about look at."""

    stage = "layer"
    layer: int = 2

    def needs(self, facts: Facts) -> Needs:
        return Needs(signals=(Attention(self.layer - 1, "raters"),))

    def score(self, visuals: Visuals) -> Tensor:
        return visuals.attention(self.layer - 1, "raters")


PRUNERS = ("feather", "dart(keep=0.5)", "cdp(keep=3)", "sparse(keep=0.5)", "zip")


@pytest.mark.parametrize("family", [one for one in EVERY if one != "qwen3_vl_moe"])
@pytest.mark.parametrize("spec", PRUNERS[:-1])
def test_they_prune_as_masking_would(family: str, spec: str) -> None:
    target, plain, batch = model(family, "pruned"), model(family, "plain", "eager"), ragged(family)
    with vtokens.attach(target, spec) as handle:
        got = target(**batch).logits
        dropped = dropped_keys(handle.report(), batch["attention_mask"])
    assert sum(part.sum() for part in dropped) > 0
    with masking(plain, dropped):
        expected = plain(**batch).logits
    stay = batch["attention_mask"].bool() & ~dropped[-1]
    close_pass(got[stay], expected[stay])


@pytest.mark.parametrize("family", ["llava_next", "qwen2_5_vl", "idefics3"])
@pytest.mark.parametrize("spec", PRUNERS)
def test_a_batch_answers_as_each_sample_alone(family: str, spec: str) -> None:
    target = model(family, "pruned")
    prompts = ["Is there a cat?", "Compare <image> with <image> please"]
    groups = [[image(100, 60, seed=0)], [image(84, 112, seed=1), image(60, 60, seed=2)]]
    options: dict[str, Any] = {
        "do_sample": False,
        "max_new_tokens": 3,
        "output_logits": True,
        "return_dict_in_generate": True,
    }
    with vtokens.attach(target, spec):
        together = target.generate(**inputs(family, prompts, groups), **options)
        for row in range(2):
            alone = target.generate(**inputs(family, prompts[row : row + 1], groups[row : row + 1]), **options)
            for mine, theirs in zip(together.logits, alone.logits, strict=True):
                close_pass(mine[row], theirs[0])


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
@pytest.mark.parametrize("beside", ["damro(k=3)", "pai", "avisc"])
@pytest.mark.parametrize("spec", PRUNERS)
def test_beside_others_a_batch_answers_as_alone(family: str, spec: str, beside: str) -> None:
    """Second sequences and changed heads read no signal of the wrong lane; a static cache changes nothing."""
    target = model(family, "pruned")
    prompts = ["Is there a cat?", "Compare <image> with <image> please"]
    groups = [[image(100, 60, seed=0)], [image(84, 112, seed=1), image(60, 60, seed=2)]]
    options: dict[str, Any] = {"do_sample": False, "max_new_tokens": 2, "min_new_tokens": 2}
    batch = inputs(family, prompts, groups)
    length = batch["input_ids"].shape[1]
    with vtokens.attach(target, f"{spec}+{beside}"):
        together = target.generate(**batch, **options)[:, length:]
        for row in range(2):
            alone = inputs(family, prompts[row : row + 1], groups[row : row + 1])
            found = target.generate(**alone, **options)[0, alone["input_ids"].shape[1] :]
            assert together[row].tolist() == found.tolist()
    with vtokens.attach(target, spec):
        dynamic = target.generate(**batch, **options)
        assert torch.equal(target.generate(**batch, **options, cache_implementation="static"), dynamic)


@pytest.mark.parametrize("family", ["llava", "qwen2_vl"])
def test_contextual_tokens_are_sums(family: str) -> None:
    """What enters the decoder, against VisionZip's loops over tokens."""
    target, batch = model(family, "pruned"), inputs(family, ["what is <image> this"], [[image(84, 60, seed=3)]])
    seen: list[Tensor] = []
    decoder = target.model.language_model
    hook = decoder.layers[0].register_forward_pre_hook(lambda *call: seen.append(call[1][0]))
    target(**batch)

    @dataclass(frozen=True)
    class Look(Strategy):
        def needs(self, facts: Facts) -> Needs:
            return Needs(signals=(Saliency(), TowerKeys()))

        def at_prompt(self, visuals: Visuals) -> None:
            seen.extend([visuals.saliency()[0], visuals.tower_keys()[0].mean(1)])

    with vtokens.attach(target, Look()):
        target(**batch)
    with vtokens.attach(target, "zip"):
        target(**batch)
    hook.remove()
    whole, score, keys, _, got = seen[0], *seen[1:3], *seen[3:]
    visual = (batch["input_ids"][0] == target.config.image_token_id).nonzero().flatten()
    tokens, keys = whole[0, visual], normalize(keys, dim=-1)
    best = score.topk(3).indices.tolist()
    rest = [one for one in range(len(tokens)) if one not in best]
    targets = rest[:: len(rest) // 2][:2]
    members: dict[int, list[int]] = {one: [] for one in targets}
    for one in rest:
        if one not in targets:
            members[max(targets, key=lambda other: float(keys[one] @ keys[other]))].append(one)
    made = {one: tokens[one] for one in best} | {
        one: tokens[one] + (tokens[own].mean(0) if own else 0) for one, own in members.items()
    }
    first, last = int(visual[0]), int(visual[-1])
    expected = torch.cat([whole[0, :first], torch.stack([made[one] for one in sorted(made)]), whole[0, last + 1 :]])
    close_pass(got[0], expected)


def test_the_determinant_grows_as_much_as_it_can() -> None:
    """Each pick of CDPruner's is that of the greatest determinant among all that could follow, tried one by one."""
    target, batch = model("llava", "pruned"), inputs("llava", ["what is <image> this"], [[image(56, 56, seed=3)]])
    seen: list[Any] = []

    @dataclass(frozen=True)
    class Look(Strategy):
        def needs(self, facts: Facts) -> Needs:
            return Needs(signals=(Relevance(),))

        def at_prompt(self, visuals: Visuals) -> None:
            seen.extend([visuals.relevance()[0], visuals.tokens[0], Cdp().score(visuals)[0]])

    with vtokens.attach(target, Look()):
        target(**batch)
    relevance, tokens, score = (part.double() for part in seen)
    weight = (-relevance - (-relevance).min() + 1e-6) / ((-relevance).max() - (-relevance).min() + 1e-6)
    unit = normalize(tokens, dim=-1)
    whole = weight[:, None] * (unit @ unit.T) * weight
    chosen: list[int] = []
    for _ in range(4):
        sizes = {
            one: float(torch.linalg.det(whole[[*chosen, one]][:, [*chosen, one]]))
            for one in range(len(tokens))
            if one not in chosen
        }
        chosen.append(max(sizes, key=sizes.__getitem__))
    assert score.argsort(descending=True)[:4].tolist() == chosen
