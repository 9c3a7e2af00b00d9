"""PaliGemma: prompts that see themselves both ways, answers that do not, windows that spare prompts, capped scores."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from transformers import PaliGemmaProcessor

import vtokens
from tests.engine.cases import model
from tests.engine.compare import DETAILS, check_rows_alone, one, ragged
from tests.engine.contrasted import check_answers, contrasted, expect
from tests.engine.masked import dropped_keys, masking
from tests.engine.test_logits import noised
from tests.engine.unmerged import before_and_with, copies, gone, unmerged
from tests.families import build, image, inputs
from tests.limits import close_pass
from tests.strategies.helpers import probe
from tests.strategies.layered import expect as layered
from tests.strategies.test_dola import formula as dola_formula
from vtokens.kernels import group_weights, reweigh
from vtokens.strategies import Attention, Evictor, Keys, Needs, Saliency, Selection, Strategy, Visuals
from vtokens.strategies.views.heads import Heads

pytestmark = pytest.mark.usefixtures("no_grad")
FAMILY = "paligemma"
LAYERS = ["sliding_attention", "full_attention"] * 2
ANSWER = torch.tensor([[20, 31, 42]])


@cache
def second(window: int = 4096, cap: float | None = 1.5, role: str = "") -> Any:
    """PaliGemma 2: the same weights for every window, cap and role."""
    text = {
        "model_type": "gemma2", "num_key_value_heads": 2, "query_pre_attn_scalar": 16, "layer_types": LAYERS,
        "sliding_window": window, "attn_logit_softcapping": cap, "final_logit_softcapping": 3.0,
    }  # fmt: skip
    return build(FAMILY, attn_implementation="eager", text_config=text)[0]


def answered(side: Any, short: int = 2) -> dict[str, Any]:
    """Two prompts with answers of 3 and `short` tokens behind them, padded on one side."""
    groups = [[image(84, 60, seed=1)], [image(60, 60, seed=2)]]
    rows = [
        inputs(FAMILY, [text], [group])
        for text, group in zip(("Is it <image>?", "What in all the world is <image> this"), groups, strict=True)
    ]
    parts: list[dict[str, Tensor]] = []
    for row, length in zip(rows, (3, short), strict=True):
        said = ANSWER[:, :length]
        parts.append(
            {
                "input_ids": torch.cat([row["input_ids"], said], 1),
                "attention_mask": torch.ones(1, row["input_ids"].shape[1] + length, dtype=torch.long),
                "token_type_ids": torch.cat([row["token_type_ids"], torch.ones_like(said)], 1),
                "labels": torch.cat([torch.full_like(row["input_ids"], -100), said], 1),
            }
        )
    fills = {"input_ids": 0, "attention_mask": 0, "token_type_ids": 0, "labels": -100}
    width = max(part["input_ids"].shape[1] for part in parts)
    batch: dict[str, Any] = {"pixel_values": torch.cat([row["pixel_values"] for row in rows])}
    for name, fill in fills.items():
        found = []
        for part in parts:
            more = width - part[name].shape[1]
            found.append(torch.nn.functional.pad(part[name], (more, 0) if side == "left" else (0, more), value=fill))
        batch[name] = torch.cat(found)
    return batch


@pytest.mark.filterwarnings("ignore:__array__ implementation")
def test_prompts_are_those_of_the_genuine_processor() -> None:
    """Which adds a thousand tokens to the vocabulary, so that tests write prompts by hand."""
    _, own = build(FAMILY)
    picture = image(84, 60, seed=1)
    mine = inputs(own, ["<image>is it red?"], [[picture]])
    genuine = PaliGemmaProcessor(own.image_processor, build(FAMILY)[1].tokenizer)
    theirs = genuine(images=[[picture]], text=["<image>is it red?"], return_tensors="pt")
    for name in ("input_ids", "attention_mask", "token_type_ids", "pixel_values"):
        assert torch.equal(mine[name], theirs[name]), name


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("spec", ["cls(keep=0.5)+fastv(keep=0.5, layer=2)", "fastv(keep=0.4, layer=1)"])
def test_answers_behind_prompts_are_causal(side: Any, spec: str) -> None:
    """Pruned equals masked where training or scoring feeds answers, of kind 1; padding on the right is of kind 0."""
    pruned, reference, batch = model(FAMILY, "pruned"), model(FAMILY, "plain", "eager"), answered(side)
    with vtokens.attach(pruned, spec) as handle:
        got, report = pruned(**batch), handle.report()
    with masking(reference, dropped_keys(report, batch["attention_mask"])):
        expected = reference(**batch)
    real = batch["attention_mask"].bool()
    close_pass(got.logits[real], expected.logits[real])
    close_pass(got.loss, expected.loss)


@pytest.mark.parametrize("make", [lambda: model(FAMILY, "pruned"), second])
def test_an_answer_that_is_fed_gets_what_it_gets_while_it_is_written(make: Any) -> None:
    target, batch = make(), answered("left", short=3)
    size = batch["input_ids"].shape[1] - 3
    prompt = {name: part[:, :size] for name, part in batch.items() if name not in ("pixel_values", "labels")}
    prompt["pixel_values"] = batch["pixel_values"]
    for spec in ("fastv(keep=0.4, layer=1, query_scope='all_text')", "vhr(layers=(1, 2))"):
        with vtokens.attach(target, spec):
            fed = target(**batch).logits[:, size - 1 : -1]
            written = target.generate(
                **prompt, do_sample=False, max_new_tokens=3, min_new_tokens=3, **DETAILS,
                prefix_allowed_tokens_fn=lambda row, ids: [int(ANSWER[0, len(ids) - size])],
            )  # fmt: skip
        close_pass(fed, torch.stack(written.logits, 1))


@pytest.mark.parametrize("rows", ["last", "text", "visual", "after"])
@pytest.mark.parametrize(("window", "layer"), [(4096, 0), (12, 0), (12, 1), (4096, 2)])
def test_attention_is_that_of_the_model(rows: Any, window: int, layer: int) -> None:
    """Capped, of the whole prompt, whatever the window: read off the eager model's matrix."""
    target = second(window)
    if window == 12 and layer == 0 and rows != "last":
        pytest.skip("several rows are refused where a window cuts")
    batch = dict(inputs(FAMILY, ["Look: <image> what?"], [[image(84, 60, seed=4)]]))
    maps = second(window, role="plain")(**batch, output_attentions=True).attentions[layer][0].mean(0)
    visual = batch["input_ids"][0] == target.config.image_token_id
    place = torch.arange(len(visual))
    first, end = int(visual.nonzero()[0]), int(visual.nonzero()[-1])
    chosen = {
        "last": place == len(visual) - 1,
        "text": (place > first) & ~visual,
        "visual": visual,
        "after": place == end + 1,
    }[rows]
    (found,) = probe(target, batch, Attention(layer, rows))[Attention(layer, rows)]
    close_pass(found[visual], maps[chosen].mean(0)[visual])
    if rows == "text" and layer == 0:  # the cap tells: without it, other attention
        assert (
            second(window, None)(**batch, output_attentions=True).attentions[layer][0].mean(0) - maps
        ).abs().max() > 0.01


@dataclass(frozen=True)
class Again(Strategy):
    """Computes head outputs again, from groups of keys."""

    name: ClassVar[str] = "again"

    def needs(self, facts: Any) -> Needs:
        return Needs(attend=range(facts.depth))

    def at_attend(self, heads: Heads) -> None:
        outputs, lse = heads.grouped(heads.visual.long(), 2, heads.answers)
        both = heads.reweighed(heads.visual.long(), 2, heads.answers, lambda shares: shares)[0]
        heads.replace(heads.answers, (reweigh(outputs, group_weights(lse)) + both) / 2)


def test_groups_of_keys_add_up_to_the_models_attention() -> None:
    """With caps, and with keys behind a row that it sees."""
    for target, batch in ((second(), ragged(FAMILY)), (model(FAMILY, "pruned"), answered("right"))):
        batch.pop("labels", None)
        expected, real = target(**batch).logits, batch["attention_mask"].bool()
        with vtokens.attach(target, Again()):
            close_pass(target(**batch).logits[real], expected[real])


def test_rows_of_a_batch_answer_as_alone() -> None:
    """Under windows that cut, which spare prompts."""
    check_rows_alone(second(12), FAMILY, "cls(keep=0.5)+fastv(keep=0.5, layer=2)")


def test_scores_are_those_of_an_eager_tower() -> None:
    target, batch = model(FAMILY, "pruned"), ragged(FAMILY)
    eager = build(FAMILY, attn_implementation="eager")[0]
    maps = eager.model.vision_tower(batch["pixel_values"], output_attentions=True).attentions[-1]
    close_pass(torch.stack(list(probe(target, batch, Saliency())[Saliency()])), maps.mean(1).sum(1))


def test_a_prompt_without_kinds_is_refused() -> None:
    """The model itself lets it see all, answers too, on SDPA without padding; elsewhere nothing behind a position."""
    target, batch = model(FAMILY, "pruned"), ragged(FAMILY)
    kinds = batch.pop("token_type_ids")
    with vtokens.attach(target, "cls(keep=0.5)"):
        with pytest.raises(ValueError, match=r"without token_type_ids sees all that comes after .*0 for the prompt"):
            target(**batch)
        kinds[:, -4] = 1  # an answer of one token
        with pytest.raises(ValueError, match=r"token_type_ids have positions of the prompt .* behind some"):
            target(**batch, token_type_ids=kinds)


def test_a_picture_behind_text_is_refused_where_a_window_cuts() -> None:
    target = second(12)
    text, shown = inputs(FAMILY, ["Well then"]), inputs(FAMILY, ["<image> what?"], [[image(60, 60, seed=1)]])
    more = {name: torch.cat([text[name], shown[name]], 1) for name in ("attention_mask", "token_type_ids")}
    with vtokens.attach(target, "cls(keep=0.5)"):
        cache = target(**text, use_cache=True).past_key_values
        with pytest.raises(ValueError, match="pictures behind other text would see more of it than the window leaves"):
            target(input_ids=shown["input_ids"], pixel_values=shown["pixel_values"], past_key_values=cache, **more)


def test_unmerged_is_full_length() -> None:
    """Merged tokens see, and are seen, at all of their positions, both ways."""
    target, reference, batch = model(FAMILY, "pruned"), model(FAMILY, "plain", "eager"), answered("left")
    batch.pop("labels")
    spec = "dymu(thresholds=(0.3, 0.3, 0.3))"
    before, report, features = before_and_with(target, spec, batch)
    numbers = copies(target, batch, features, before)
    with vtokens.attach(target, spec):
        got = target(**batch).logits
    with unmerged(reference, numbers, gone(report, numbers, batch["attention_mask"]), [(batch, features)]):
        expected = reference(**batch).logits
    real = batch["attention_mask"].bool()
    close_pass(got[real], expected[real])


@dataclass(frozen=True)
class Recent(Evictor):
    """Keeps later keys."""

    name: ClassVar[str] = "recent"

    def score(self, keys: Keys) -> Tensor:
        place = torch.arange(keys.key.shape[2], device=keys.key.device).float()
        return place.expand(len(keys.key), -1)


@dataclass(frozen=True)
class Sized(Strategy):
    """Lets kept tokens count for several."""

    name: ClassVar[str] = "sized"

    def needs(self, facts: Any) -> Needs:
        return Needs(sizes=True)

    def at_prompt(self, visuals: Visuals) -> Selection | None:
        return None


@pytest.mark.parametrize("strategy", ["dymu(thresholds=(0.3, 0.3, 0.3))", Sized(), Recent()])
def test_what_adds_to_capped_scores_is_refused(strategy: Any) -> None:
    with pytest.raises(ValueError, match=r"a PaliGemmaFor\w+ caps attention scores \(attn_logit_softcapping=1.5\)"):
        vtokens.attach(second(), strategy)


@pytest.mark.parametrize("name", ["contrast", "dola"])
def test_logits_that_a_strategy_compares_with_are_capped_as_the_models_own(name: str) -> None:
    """In the prefill, and in steps; to the answer of an untouched model that is fed each prompt whole."""
    plain, target, batch = second(cap=None, role="plain"), second(cap=None), one(FAMILY)
    options: dict[str, Any] = {"do_sample": False, "max_new_tokens": 3, "eos_token_id": 10**6}
    assert float(plain(**batch).logits.abs().max()) < 3
    if name == "dola":
        formula = dola_formula((0, 3), 0.0, True)
        expected, spec = layered(plain, batch, [batch], formula, **options), "dola(layers=(0, 3), beta=0, normed=true)"
    else:
        pixels = {**batch, "pixel_values": noised(FAMILY, batch, 500, 0)["pixel_values"]}
        expected, spec = expect(plain, batch, [pixels], contrasted(1.0, 0.0), **options), "vcd(beta=0)"
    with vtokens.attach(target, spec):
        check_answers(target.generate(**batch, **options, return_dict_in_generate=True, output_scores=True), expected)
