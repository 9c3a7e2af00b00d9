"""Ministral 3's text: attention scales queries by their positions, which layers are told where tokens were dropped."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

import vtokens
from tests.engine import compare
from tests.engine.cases import Case, cases, refused
from tests.engine.compare import ANSWER, DETAILS, GREEDY, check_tokens
from tests.engine.contrasted import Partly, check_answers, contrasted, expect, guided, ruled_out, without_pictures
from tests.engine.masked import dropped_keys, masking
from tests.engine.test_pruned_equals_masked import REFUSED, check_forward, check_generate, check_keep_all
from tests.families import build, inputs
from tests.limits import close_pass
from tests.strategies.helpers import Probe
from vtokens.core.compat import as_cache, returned_cache
from vtokens.strategies import Attention, Facts, Needs, Strategy
from vtokens.strategies.views.heads import Heads

pytestmark = pytest.mark.usefixtures("no_grad")
# Positions count in steps of three, so that most queries of a prompt are scaled, and neighbours otherwise.
SCALED = {"rope_type": "default", "rope_theta": 10000.0, "llama_4_scaling_beta": 0.4}
TEXT = {
    "model_type": "ministral3",
    "head_dim": 16,
    "rope_parameters": {**SCALED, "original_max_position_embeddings": 3},
}
SPECS = ["cls(keep=0.4)", "fastv(keep=0.4, layer=2)", "cls(keep=0.6)+fastv(keep=0.5, layer=1)"]


@cache
def tiny(role: str, attention: str = "sdpa") -> Any:
    return build("mistral3", text_config=TEXT, attn_implementation=attention)[0]


one = partial(compare.two, "mistral3")


def test_the_scale_matters() -> None:
    """Or no test of this file could fail."""
    plain, batch = build("mistral3", text_config=TEXT)[0], one()
    expected = plain(**batch).logits
    plain.config.text_config.rope_parameters["llama_4_scaling_beta"] = 0.0
    assert (plain(**batch).logits - expected).abs().max() > 0.1


@pytest.mark.fuzz
@settings(max_examples=-(-settings.default.max_examples // 4))
@given(case=cases())
def test_pruned_equals_masked(case: Case) -> None:
    """In one pass, in what is generated, with beams, padded on either side; `keep=1.0` changes no bit."""
    with torch.no_grad():
        pruned, reference = tiny("pruned", case.attention[0]), tiny("plain", case.attention[1])
        batch = case.batch("mistral3")
        if (why := refused(pruned, case.spec)) is not None:
            assert re.search(REFUSED, why), why
            return
        check_forward(batch, pruned, reference, case.spec)
        # `generate` counts from the first token behind padding, a plain call from the first of all if not told:
        # to other families that is the same, as it is to ranks of these scores, mostly.
        counted = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
        with vtokens.attach(pruned, case.spec) as handle:
            pruned(**batch, position_ids=counted)
            report = handle.report()
        check_generate(batch, pruned, reference, case, report)
        check_keep_all(batch, pruned, tiny("plain", case.attention[0]), case)


@pytest.mark.parametrize("spec", SPECS)
def test_a_second_turn(spec: str) -> None:
    target, plain, batch = tiny("pruned"), tiny("plain", "eager"), one()
    more = inputs("mistral3", ["And why is it so?"])["input_ids"]
    with vtokens.attach(target, spec) as handle:
        got = target.generate(**batch, **GREEDY, **DETAILS)
        with masking(plain, dropped_keys(handle.report(), batch["attention_mask"])):
            expected = plain.generate(**batch, **GREEDY, **DETAILS)
            ids = torch.cat([got.sequences, more], 1)
            turn = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **GREEDY, **DETAILS}
            second = target.generate(**turn, **as_cache(target, returned_cache(got)))
            wanted = plain.generate(**turn, **as_cache(plain, returned_cache(expected)))
    check_tokens(second, wanted, GREEDY["max_new_tokens"])


def test_fixed_slots() -> None:
    """A static cache, whose masks are made over fed positions."""
    target, plain, batch = tiny("pruned"), tiny("plain", "eager"), one()
    with vtokens.attach(target, SPECS[-1]) as handle:
        got = target.generate(**batch, **GREEDY, **DETAILS, cache_implementation="static")
        report = handle.report()
    with masking(plain, dropped_keys(report, batch["attention_mask"])):
        check_tokens(got, plain.generate(**batch, **GREEDY, **DETAILS), GREEDY["max_new_tokens"])


def test_second_sequences() -> None:
    """PAI's prompt without pictures and `lqcd`'s other one are numbered, and scaled, as the untouched model does."""
    target, plain, batch, other = (
        tiny("pruned"),
        tiny("plain"),
        one(),
        one("Or <image> rather, and <image> this: what?"),
    )
    with vtokens.attach(target, "pai(gamma=1.5, beta=0.02)"):
        got = target.generate(**batch, **ANSWER, **DETAILS)
    check_answers(got, expect(plain, batch, [without_pictures(batch, plain)], guided(1.5, 0.02), **ANSWER))
    with vtokens.attach(target, "lqcd(alpha=1.0, beta=0.02)") as handle, handle.negative_prompt(**other):
        got = target.generate(**batch, **ANSWER, **DETAILS)
    check_answers(got, expect(plain, batch, [other], contrasted(1.0, 0.02), **ANSWER))


def test_two_sequences_of_which_one_is_numbered_compactly() -> None:
    """Each step is the formula of what the compact prompt says alone, and of the untouched model's text."""
    target, plain, batch, compact = tiny("pruned"), tiny("plain"), one(), "cls(keep=0.4, positions='compact')"
    with vtokens.attach(target, f"{compact}+pai(gamma=1.5, beta=0.02)"):
        got = target.generate(**batch, **ANSWER, **DETAILS)
    answer = got.sequences[:, batch["input_ids"].shape[1] :]
    real, text, combine = [], Partly(without_pictures(batch, plain)), guided(1.5, 0.02)
    with vtokens.attach(target, compact):
        output = target(**batch, use_cache=True)
        for number in range(4):
            real.append(output.logits[0, -1])
            mask = torch.ones(1, batch["input_ids"].shape[1] + number + 1)
            cache = as_cache(target, returned_cache(output))
            output = target(input_ids=answer[:, number : number + 1], attention_mask=mask, **cache)
    for number, logits in enumerate(real):
        expected = combine(logits, text.logits(plain, answer[:, :number]), number + 1)
        mine = ruled_out(got.scores[number][0])
        assert torch.equal(mine.isinf(), expected.isinf())
        close_pass(mine.log_softmax(-1), expected.log_softmax(-1), passes=2)


def test_compact_numbers_scale_too() -> None:
    """The decoder gives what it gives of the kept embeddings by themselves, and goes on as from them."""
    target, plain, batch, fed = tiny("pruned"), tiny("plain"), one(), []
    hook = plain.model.language_model.register_forward_pre_hook(
        lambda *call: fed.append(call[2]["inputs_embeds"]), with_kwargs=True
    )
    plain(**batch)
    hook.remove()
    with vtokens.attach(target, "cls(keep=0.4, positions='compact')") as handle:
        output = target(**batch, use_cache=True)
        kept = torch.from_numpy(handle.report().samples[0].positions[0])
        step = {"input_ids": torch.tensor([[70]]), "attention_mask": torch.ones(1, batch["input_ids"].shape[1] + 1)}
        behind = target(**step, **as_cache(target, returned_cache(output))).logits
    short = plain.model.language_model(inputs_embeds=fed[0][:, kept], use_cache=True)
    close_pass(output.logits[0, kept], plain.lm_head(short[0])[0])
    word = plain.get_input_embeddings()(step["input_ids"])
    after = plain.model.language_model(
        inputs_embeds=word, **as_cache(plain.model.language_model, returned_cache(short))
    )
    close_pass(behind, plain.lm_head(after[0]))


@dataclass(frozen=True)
class Alone(Strategy):
    """Notes what heads give where the prompt ends if it has no pictures."""

    name = "alone"
    log: dict[str, Tensor] = field(default_factory=dict, compare=False)

    def needs(self, facts: Facts) -> Needs:
        return Needs(attend=(2,), text_lane=True)

    def at_attend(self, heads: Heads) -> None:
        if heads.text_lane is not None:
            self.log["heads"] = heads.text_lane


def test_text_by_itself() -> None:
    """What VHR compares heads with: those of the untouched model that reads the prompt without its pictures."""
    target, plain, batch, noting, seen = tiny("pruned"), tiny("plain"), one(), Alone(), []
    with vtokens.attach(target, noting):
        target(**batch)
    project = plain.model.language_model.layers[2].self_attn.o_proj
    hook = project.register_forward_pre_hook(lambda module, args: seen.append(args[0][0, -1]))
    plain(**without_pictures(batch, plain))
    hook.remove()
    close_pass(noting.log["heads"][0].flatten(), seen[0])


def test_what_counts_on_turning_last_is_refused() -> None:
    """Queries are scaled behind the rotation, which virtual unmerging and un-rotated signals undo."""
    unturned = Probe(wanted=(Attention(1, rotary=False),), layers=(2,))
    for strategy in ("dymu(thresholds=(0.3, 0.3, 0.3))", unturned):
        with pytest.raises(ValueError, match="behind all else that is done to queries and keys"):
            vtokens.attach(tiny("pruned"), strategy)


def test_flash_attention_is_refused() -> None:
    """It reads gaps in positions as packing: at attach, and where it is chosen later, before the pass."""
    target = build("mistral3", text_config=TEXT)[0]
    decoder = target.model.language_model
    with vtokens.attach(target, "cls(keep=0.5)"):
        decoder.config._attn_implementation_internal = "flash_attention_2"
        with pytest.raises(ValueError, match="takes the gaps that dropped tokens leave in them"):
            target(**one())
    with pytest.raises(ValueError, match=r"'flash_attention_2' takes the gaps .* use attn_implementation='sdpa'"):
        vtokens.attach(target, "cls(keep=0.5)")
