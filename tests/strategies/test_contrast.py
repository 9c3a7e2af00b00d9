"""What contrastive strategies compute from two rows of logits, how they choose their branch, and what they refuse."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import vtokens
from tests.engine.contrasted import extended, ruled_out
from tests.families import FAMILIES
from tests.limits import close_pass
from tests.strategies.helpers import llava_scores, pair, qwen_scores, registry_restored, three_rows, top
from vtokens.strategies import Facts, describe, get, list_strategies, parse
from vtokens.strategies.base import needs_of
from vtokens.strategies.contrast.avisc import blind_tokens
from vtokens.strategies.views.logits import Logits, NoPicture, Pixels, Prompt, Same, Tokens

REAL, OTHER = [2.0, 1.0, 0.0, -3.0], [1.0, 2.0, 0.0, -3.0]
NAMES = ["avisc", "contrast", "damro", "iava", "lqcd", "m3id", "pai", "vcd"]
FACTS = Facts("llava", depth=4, tower_depth=4, has_cls=True)


def view(step: int | None = 1, real: list[float] = REAL, other: list[float] = OTHER) -> Logits:
    rows = (torch.tensor([[values]]) for values in (real, other))
    return Logits(*rows, None if step is None else torch.tensor([[step]]))


def test_they_are_the_strategies_of_the_stage() -> None:
    assert {*NAMES} <= {*list_strategies(stage="logits")}
    for name in NAMES:
        card, cls = describe(name), get(name)
        assert card.stages == (("attend", "logits") if name == "pai" else ("logits",))
        assert needs_of(cls(), FACTS).once
        assert all(f"{field.name}:" in (cls.__doc__ or "") for field in dataclasses.fields(cls))


@pytest.mark.parametrize("name", ["avisc", "contrast", "damro", "iava", "lqcd", "vcd"])
def test_the_formula_by_hand(name: str) -> None:
    """alpha=1, beta=.1: the cut is at 2 + log(.1) = -.3026, and [3, 0, 0, -inf] stays."""
    logits = view()
    out = get(name)(alpha=1.0, beta=0.1).at_logits(logits)
    assert out.tolist() == [[[3.0, 0.0, 0.0, -math.inf]]]
    assert [round(p, 4) for p in out.softmax(-1).flatten().tolist()] == [0.9094, 0.0453, 0.0453, 0.0]
    assert {name: value.tolist() for name, value in logits.metrics.items()} == {
        "plausible_tokens": [3.0],
        "changed_answers": [0.0],
    }


def test_pai_by_hand() -> None:
    """gamma=2: 2 (log p - log p') + log p', on log-probabilities."""
    real, other = (torch.tensor(values).log_softmax(-1) for values in (REAL, OTHER))
    expected = (2 * (real - other) + other).tolist()
    out = get("pai")(gamma=2.0, beta=0.1).at_logits(view())[0, 0].tolist()
    assert out == pytest.approx([*expected[:3], -math.inf])


@pytest.mark.parametrize("step", [1, 10, 50])
def test_m3id_by_hand(step: int) -> None:
    """The weight is exp(.02 t) - 1: .0202, .2214, 1.7183."""
    real, other = (torch.tensor(values).log_softmax(-1) for values in (REAL, OTHER))
    weight = {1: 0.0202013, 10: 0.2214028, 50: 1.7182818}[step]
    out = get("m3id")(beta=0.0).at_logits(view(step))[0, 0].tolist()
    assert out == pytest.approx((real + weight * (real - other)).tolist(), abs=1e-5)
    with pytest.raises(ValueError, match="does not know: leave use_cache=True, or use 'pai'"):
        get("m3id")().at_logits(view(None))


def test_the_cut() -> None:
    """0 rules nothing out, 1 all but the favourite, and it looks at the real branch alone."""
    assert view().plausible(0.0).all()
    assert view().plausible(1.0).tolist() == [[[True, False, False, False]]]
    assert view(real=[2.0, 2.0, 0.0, -3.0]).plausible(1.0).sum() == 2
    assert view(other=[9.0, 9.0, 9.0, 9.0]).plausible(0.1).tolist() == [[[True, True, True, False]]]
    logits = view()
    assert get("vcd")(alpha=3.0, beta=0.3).at_logits(logits).argmax() == 0
    assert get("vcd")(alpha=3.0, beta=0.3).at_logits(view(other=[3.0, 0.0, 0.0, 0.0])).argmax() == 1


@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        ("vcd", Pixels),
        ("avisc", Tokens),
        ("damro", Tokens),
        ("iava", Tokens),
        ("pai", NoPicture),
        ("m3id", NoPicture),
        ("lqcd", Prompt),
        ("contrast", Same),
    ],
)
def test_what_each_branch_holds(spec: str, kind: type) -> None:
    (strategy,) = parse(spec)
    assert isinstance(strategy.negative(FACTS), kind)


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("vcd(alpha=-1)", r"alpha=-1.0 is out of range: a finite number from 0 on"),
        ("vcd(alpha=inf)", r"alpha=inf is out of range"),
        ("damro(alpha=nan)", r"alpha=nan is out of range"),
        ("vcd(beta=1.5)", r"beta=1.5 is out of range"),
        ("pai(gamma=0.5)", r"gamma=0.5 is out of range: a finite number from 1 on"),
        ("m3id(forgetting=-0.1)", r"forgetting=-0.1 is out of range"),
        ("vcd(steps=1000)", r"steps=1000 is out of range: 0 to 999"),
        ("damro(k=0)", r"keep=0 keeps nothing"),
        ("avisc(others=zeros)", r"unknown others 'zeros'\. Did you mean 'zero'"),
        ("avisc(gamma=2)", r"gamma=2.0 is out of range"),
        ("vcd(alfa=1)", r"unknown field of strategy 'vcd': 'alfa'\. Did you mean 'alpha'"),
    ],
)
def test_bad_settings_say_what_is_wrong(spec: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse(spec)


@pytest.mark.parametrize(
    "spec", ["vcd(alpha=yes)", "vcd(seed=0.5)", "damro(k=2.5)", "pai(gamma=true)", "contrast(beta=a)"]
)
def test_bad_types_say_what_is_wrong(spec: str) -> None:
    with pytest.raises(TypeError, match="is not a"):
        parse(spec)


def test_noise_is_the_schedule_of_the_paper() -> None:
    """Step 0 leaves sqrt(1 - beta_0) of the picture, 999 next to nothing; one seed is one noise, whatever the batch."""
    pixels = torch.linspace(-1, 1, 2 * 3 * 8 * 8).view(2, 3, 8, 8)
    strategy = get("vcd")
    rest = strategy(steps=0).noised(pixels) - math.sqrt(1 - 1e-5 - 0.00499 / (1 + math.exp(6))) * pixels
    assert rest.abs().max() < 0.03
    assert 0.9 < strategy(steps=999).noised(torch.zeros(3, 64, 64)).std() < 1.05
    correlation = torch.corrcoef(torch.stack([strategy(steps=500).noised(10 * pixels).flatten(), pixels.flatten()]))
    assert 0.9 < correlation[0, 1] < 0.999
    assert torch.equal(strategy().noised(pixels)[1], strategy().noised(pixels[1:])[0])
    assert not torch.equal(strategy(seed=1).noised(pixels), strategy().noised(pixels))
    assert strategy().noised(pixels.to(torch.bfloat16)).dtype == torch.bfloat16


def test_layers_that_look_at_the_picture() -> None:
    """Masses .4, .3, .2, .1 at gamma=.5: two layers speak, as many as the release takes."""
    masses = torch.tensor([0.1, 0.4, 0.2, 0.3])
    attention = torch.zeros(4, 1, 8)
    # Each layer favours a token of its own.
    for layer, mass in enumerate(masses):
        attention[layer, 0, layer] = mass
    valid = torch.ones(1, 8, dtype=torch.bool)
    assert blind_tokens(attention, valid, 0.5, 1.0)[0].nonzero().flatten().tolist() == [1, 3]
    assert blind_tokens(attention, valid, 0.0, 1.0)[0].nonzero().flatten().tolist() == [1]
    assert blind_tokens(attention, valid, 1.0, 0.3)[0].nonzero().flatten().tolist() == [1, 2, 3]


def test_blind_tokens_do_not_depend_on_padding() -> None:
    """A shorter group beside a longer one has the blind tokens it has alone."""
    torch.manual_seed(0)
    attention, valid = torch.rand(3, 2, 9).square(), torch.ones(2, 9, dtype=torch.bool)
    valid[1, 5:] = False
    attention = attention * valid
    together = blind_tokens(attention, valid, 0.5, 0.5)
    alone = blind_tokens(attention[:, 1:, :5], valid[1:, :5], 0.5, 0.5)
    assert torch.equal(together[1, :5], alone[0])
    assert together.any(1).all()
    assert not together[1, 5:].any()


@torch.no_grad()
def test_the_example_of_the_page() -> None:
    """The strategy that docs/contrastive.md shows runs, and does what its formula says."""
    page = (Path(__file__).parents[2] / "docs" / "contrastive.md").read_text(encoding="utf-8")
    code = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)[1]
    target, batch = pair("llava")[0], three_rows("llava")
    with registry_restored():
        exec(compile(code, "docs/contrastive.md", "exec", dont_inherit=True), {"__name__": "docs_contrastive"})
        with vtokens.attach(target, "sharpen(weight=2)"):
            got = target(**batch, logits_to_keep=1).logits
        assert describe("sharpen").stages == ("logits",)
    real = target(**batch, logits_to_keep=1).logits
    with vtokens.attach(target, "uniform(keep=0.5)"):
        half = target(**batch, logits_to_keep=1).logits
    gain = (real.log_softmax(-1) - half.log_softmax(-1)).clamp(min=0)
    expected = (real + 2 * gain).masked_fill(real < real.amax(-1, keepdim=True) + math.log(0.1), -math.inf)
    close_pass(ruled_out(got[:2]), expected[:2])
    assert torch.equal(got[2], real[2])
    table = page.split("| the other prompt")[1].split("## Limits")[0]
    named = re.findall(r"^\| `(\w+)\(", table, re.MULTILINE)
    assert {cls.__name__ for cls in (NoPicture, Pixels, Tokens, Same, Prompt)} == set(named)


class Spy:
    """Writes down the branch's prompt as the language model gets it."""

    def __init__(self, target: Any) -> None:
        self.fed: list[Tensor] = []
        self._hook = target.model.language_model.register_forward_pre_hook(self._note, with_kwargs=True, prepend=True)

    def _note(self, module: Any, args: Any, kwargs: Any) -> None:
        self.fed.append(kwargs["inputs_embeds"])

    def __enter__(self) -> Spy:
        return self

    def __exit__(self, *error: Any) -> None:
        self._hook.remove()


@torch.no_grad()
@pytest.mark.parametrize("family", ["llava", "llava_next"])
def test_damro_keeps_the_outliers_of_the_tower(family: str) -> None:
    """The top k of each picture by an eager tower's [CLS] row, with the text, and nothing else."""
    target, batch = pair(family)[0], three_rows(family)
    image = batch["input_ids"] == target.config.image_token_id
    with Spy(target) as spy, vtokens.attach(target, "damro(k=3)") as handle:
        target(**batch)
        sizes = [len(part.picture) for sample in handle.report().samples for part in sample.pictures]
        real = [part.picture.view >= 0 for sample in handle.report().samples for part in sample.pictures]
    whole, short = spy.fed
    scores = llava_scores(family, batch, 2)
    places = image.flatten().nonzero().flatten().split(sizes)
    stay = ~image.flatten()
    for place, score, inside in zip(places, scores, real, strict=True):
        stay[place[torch.from_numpy(inside)][top(score, 3)]] = True
    for row in range(3):
        kept = stay.view_as(image)[row] & batch["attention_mask"][row].bool()
        expected = whole[row, kept]
        assert torch.equal(short[row, -len(expected) :], expected)


@torch.no_grad()
@pytest.mark.parametrize(
    ("family", "positions"),
    [*((family, "compact") for family in FAMILIES), ("llava_next", "original"), ("llava_onevision", "original")],
)
def test_damro_as_the_plain_model_answers(family: str, positions: str) -> None:
    """k tokens of each picture and the text: the most attended first and numbered anew, or in their places."""
    target, batch, compact = pair(family)[0], three_rows(family), positions == "compact"
    spec = f"damro(k=3, alpha=1.0, beta=0, positions={positions!r})"
    with Spy(target) as spy, vtokens.attach(target, spec) as handle:
        got = target.generate(
            **batch, do_sample=False, max_new_tokens=3, min_new_tokens=3, return_dict_in_generate=True,
            output_logits=True,
        )  # fmt: skip
        pictures = [sample.pictures for sample in handle.report().samples]
    qwen = family.startswith("qwen")
    scores = iter(
        qwen_scores(target, batch, 3) if qwen else llava_scores(family, batch, 3 if "onevision" in family else 2)
    )
    image, answers = batch["input_ids"] == target.config.image_token_id, got.sequences[:, -3:]
    rank = image.flatten().cumsum(0).view_as(image) - 1
    deeper = target.model.get_image_features(batch["pixel_values"], batch["image_grid_thw"]) if qwen else {}
    entries = [torch.cat(list(entry)) for entry in deeper.get("deepstack_features", ())]
    for row in range(3):
        places = image[row].nonzero().flatten().split([len(part.picture) for part in pictures[row]])
        chosen = {}
        for place, part in zip(places, pictures[row], strict=True):
            inside = place[torch.from_numpy(part.picture.view >= 0)]
            ranked = inside[next(scores).topk(3).indices].tolist()
            chosen[int(place[0])] = ranked if compact else sorted(ranked)
        text = (batch["attention_mask"][row].bool() & ~image[row]).nonzero().flatten().tolist()
        short = [at for key in sorted([*text, *chosen]) for at in chosen.get(key, [key])]
        for step, logits in enumerate(got.logits):
            said = answers[row : row + 1, :step]
            states = torch.cat([spy.fed[0][row : row + 1, short], target.get_input_embeddings()(said)], 1)
            padding, length = int((batch["attention_mask"][row] == 0).sum()), image.shape[1]
            kept = torch.tensor([*short, *range(length, length + step)]) - padding
            places = (torch.arange(len(kept)) if compact else kept)[None]
            places = places.expand(3, 1, -1) if qwen else places
            there = torch.nn.functional.pad(image[row, short], (0, step))[None]
            own = rank[row, short][image[row, short]]
            # Features that Qwen3-VL adds behind its first layers.
            more = {"visual_pos_masks": there, "deepstack_visual_embeds": [entry[own] for entry in entries]}
            negative = target.lm_head(
                target.model.language_model(
                    inputs_embeds=states,
                    position_ids=places,
                    attention_mask=torch.ones_like(states[..., 0]),
                    **(more if entries else {}),
                ).last_hidden_state[0, -1]
            )
            real = target(**extended(batch, answers[:, :step])).logits[row, -1]
            expected = 2 * real - negative if pictures[row] else real
            close_pass(logits[row], expected, passes=2)
            assert not pictures[row] or (real - negative).abs().max() > 0.01


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_avisc_zeroes_all_but_blind_tokens(family: str) -> None:
    """Blind tokens from an eager copy's own attention maps; the rest of the prompt is as it was."""
    target, batch = pair(family)[0], three_rows(family)
    eager = pair(family, attn_implementation="eager")[0]
    with Spy(target) as spy, vtokens.attach(target, "avisc") as handle:
        target(**batch)
        pictures = [sample.pictures for sample in handle.report().samples]
    whole, blanked = spy.fed
    maps = eager(**batch, output_attentions=True).attentions
    image = batch["input_ids"] == target.config.image_token_id
    for row in range(3):
        visual = torch.zeros_like(image[row])
        if pictures[row]:
            visual[image[row]] = torch.cat([torch.from_numpy(part.picture.view >= 0) for part in pictures[row]])
        assert torch.equal(blanked[row, ~visual], whole[row, ~visual])
        if not pictures[row]:
            continue
        seen = torch.stack([layer[row, :, -1].mean(0)[visual] for layer in maps])
        mass = seen.sum(1) / seen.sum()
        order = mass.sort(descending=True)
        count = int((order.values.cumsum(0) < 0.5).sum()) + 1
        mean = seen[order.indices[:count]].mean(0)
        blind = mean >= mean.mean() + mean.std()
        assert torch.equal(blanked[row, visual].abs().sum(-1) > 0, blind)
        assert 0 < blind.sum() < len(blind)
