"""Contrastive strategies around the formula: what changes nothing, is refused, is left behind, is told."""

from __future__ import annotations

import copy
import threading
from typing import Any

import pytest
import torch
from transformers import TextIteratorStreamer

import vtokens
from tests.engine.cases import model
from tests.engine.compare import DETAILS, one, ragged
from tests.engine.state import snapshot
from tests.engine.test_cache import step
from tests.engine.test_logits import GREEDY
from tests.families import FAMILIES, build, inputs
from tests.families.processors import tokenizer
from tests.limits import BLOCKS, WIDTH, close_pass, rounding
from vtokens.core.compat import as_cache, returned_cache
from vtokens.core.costs import kv_bytes, prefill_flops

pytestmark = pytest.mark.usefixtures("no_grad")
CONTRASTS = ["vcd", "avisc", "avisc(others=drop)", "damro(k=3)", "pai", "m3id", "contrast"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["vcd", "avisc", "damro", "contrast"])
def test_no_weight_and_no_cut_change_no_bit(name: str, family: str) -> None:
    """alpha=0, beta=0, in a batch, at every step."""
    target, batch = model(family, "pruned"), ragged(family)
    expected = model(family, "plain").generate(**batch, **GREEDY, **DETAILS)
    with vtokens.attach(target, f"{name}(alpha=0, beta=0)"):
        got = target.generate(**batch, **GREEDY, **DETAILS)
    assert torch.equal(got.sequences, expected.sequences)
    assert torch.equal(got.logits[0], expected.logits[0])
    for mine, theirs in zip(got.logits, expected.logits, strict=True):
        close_pass(mine, theirs)  # a pass of twice the rows may round otherwise


@pytest.mark.parametrize("spec", ["pai(gamma=1.0, beta=0)", "m3id(forgetting=0, beta=0)"])
def test_no_weight_changes_no_probability(spec: str) -> None:
    target, batch = model("llava", "pruned"), ragged("llava")
    expected = model("llava", "plain").generate(**batch, **GREEDY, **DETAILS)
    with vtokens.attach(target, spec):
        got = target.generate(**batch, **GREEDY, **DETAILS)
    for mine, theirs in zip(got.logits, expected.logits, strict=True):
        close_pass(mine.log_softmax(-1), theirs.log_softmax(-1))


@pytest.mark.parametrize("spec", CONTRASTS)
def test_the_strictest_cut_leaves_the_favourite(spec: str) -> None:
    """beta=1: greedy answers are the plain ones, whatever the contrast."""
    target, batch = model("llava", "pruned"), ragged("llava")
    expected = model("llava", "plain").generate(**batch, **GREEDY)
    (strategy,) = vtokens.strategies.parse(spec)
    with vtokens.attach(target, {**vtokens.strategies.to_dict(strategy), "beta": 1.0}):
        assert torch.equal(target.generate(**batch, **GREEDY), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_text_alone_is_untouched(family: str) -> None:
    """No negative prompt, the same bits, nothing to report."""
    target, batch = model(family, "pruned"), inputs(family, ["hello there, what is this?", "a"])
    expected = model(family, "plain").generate(**batch, **GREEDY, **DETAILS)
    with vtokens.attach(target, "vcd") as handle:
        got = target.generate(**batch, **GREEDY, **DETAILS)
        assert all(torch.equal(a, b) for a, b in zip(got.logits, expected.logits, strict=True))
        with pytest.raises(RuntimeError, match="no pictures went through"):
            handle.report()


@pytest.mark.parametrize("family", FAMILIES)
def test_all_logits_of_a_pass(family: str) -> None:
    """Text behind the first picture is contrasted, what comes before it and pictures are not."""
    target, plain, batch = model(family, "pruned"), model(family, "plain"), one(family)
    expected = plain(**batch).logits
    with vtokens.attach(target, "pai(gamma=3, beta=0)"):
        got = target(**batch).logits
        last = target(**batch, logits_to_keep=3).logits
        chosen = target(**batch, logits_to_keep=torch.tensor([0, expected.shape[1] - 1])).logits
        several = target(**batch, return_dict=False)[0]
    picture = batch["input_ids"][0] == plain.config.image_token_id
    behind = (picture.cumsum(0) > 0) & ~picture
    same = (got - expected).abs().amax(-1)[0] <= rounding(expected, WIDTH, BLOCKS)
    assert same[~behind].all()
    assert not same[behind].any()
    close_pass(last, got[:, -3:], passes=2)
    close_pass(chosen, got[:, [0, -1]], passes=2)
    assert torch.equal(several, got)


@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_states_are_those_of_the_prompt(family: str) -> None:
    """A pass of twice the rows shows the caller its own, and the cache it gave."""
    target, batch = model(family, "pruned"), ragged(family)
    expected = model(family, "plain").generate(**batch, **GREEDY, **DETAILS, output_hidden_states=True)
    with vtokens.attach(target, "contrast(alpha=0, beta=0)"):
        got = target.generate(**batch, **GREEDY, **DETAILS, output_hidden_states=True)
    for mine, theirs in zip(got.hidden_states, expected.hidden_states, strict=True):
        for a, b in zip(mine, theirs, strict=True):
            close_pass(a, b)
    assert type(returned_cache(got)) is type(returned_cache(expected))
    fed = returned_cache(expected).get_seq_length()
    assert {layer.get_seq_length() for layer in returned_cache(got).layers} == {fed}
    assert len(returned_cache(got).layers[0].keys) == 3


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("vcd+pai", r"'vcd\+pai' would contrast logits twice: keep one of them"),
        ("vcd+vcd", r"names 'vcd' twice"),
        ("contrast(branch=vcd)", r"branch='vcd': 'vcd' acts on logits, which a negative prompt has not to itself"),
        ("contrast(branch=dymu)", r"branch='dymu': 'dymu' acts on encode, prompt"),
        ("vcd(branch='rando(keep=0.1)')", r"unknown strategy 'rando'\. Did you mean 'random'"),
        ("contrast(branch='fastv(layer=9)')", r"layer=9 is out of range"),
    ],
)
def test_what_cannot_be_attached(spec: str, reason: str) -> None:
    target = build("llava")[0]
    before = snapshot(target)
    with pytest.raises(ValueError, match=reason):
        vtokens.attach(target, spec)
    assert snapshot(target) == before


def test_a_model_without_logits_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"'pai' changes logits, and a LlavaModel makes none: attach it to the \.\.\.For"
    ):
        vtokens.attach(model("llava", "pruned").model, "pai")


@pytest.mark.parametrize(
    ("spec", "options", "reason"),
    [
        ("pai", {"output_attentions": True}, r"output_attentions=True cannot be met"),
        ("m3id", {"use_cache": False}, r"m3id weighs by how many tokens were generated.*leave use_cache=True"),
        ("lqcd", {}, r"another prompt, and none was given: with vtokens\.attachment\(model\)\.negative_prompt"),
    ],
)
def test_what_cannot_be_generated(spec: str, options: dict[str, Any], reason: str) -> None:
    """And the next call works as if nothing had been asked."""
    target, batch = model("llava", "pruned"), one("llava")
    expected = model("llava", "plain").generate(**batch, **GREEDY)
    with vtokens.attach(target, spec), pytest.raises(ValueError, match=reason):
        target.generate(**batch, **GREEDY, **options)
    assert torch.equal(target.generate(**batch, **GREEDY), expected)


def test_labels_are_refused() -> None:
    """With pictures, and in later passes; for text alone they mean what they always do."""
    target, batch = model("llava", "pruned"), one("llava")
    text = dict(inputs("llava", ["hello there"]))
    expected = model("llava", "plain")(**text, labels=text["input_ids"]).loss
    with vtokens.attach(target, "pai"):
        with pytest.raises(ValueError, match=r"labels under a contrastive strategy"):
            target(**batch, labels=batch["input_ids"])
        cache = returned_cache(target(**batch, use_cache=True))
        after = step("llava", batch["attention_mask"])
        with pytest.raises(ValueError, match=r"labels under a contrastive strategy"):
            target(**after, **as_cache(target, cache), labels=after["input_ids"])
        assert torch.equal(target(**text, labels=text["input_ids"]).loss, expected)


@pytest.mark.parametrize("beams", [1, 3])
def test_both_go_through_the_model_at_once(beams: int) -> None:
    """Two passes over the prompt, then one for each token, with twice the rows: layers and head alike."""
    target, batch = build("llava")[0], one("llava")
    rows: dict[str, list[int]] = {"layer": [], "head": []}
    layer, head = target.model.language_model.layers[0].mlp, target.lm_head
    with (
        vtokens.attach(target, "pai"),
        layer.register_forward_hook(lambda module, args, output: rows["layer"].append(len(args[0]))),
        head.register_forward_pre_hook(lambda module, args: rows["head"].append(len(args[0]))),
    ):
        target.generate(**batch, **GREEDY, num_beams=beams)
    assert rows == {name: [beams, beams, *[2 * beams] * 4] for name in rows}


def test_another_prompt_must_fit() -> None:
    """Rows, pictures, padding and the strategy that asks for it."""
    target, batch = model("llava", "pruned"), one("llava")
    text = dict(inputs("llava", ["no picture"]))
    with vtokens.attach(target, "lqcd") as handle:
        with handle.negative_prompt(**text), pytest.raises(ValueError, match=r"hold \[0\] image placeholder.*\[16\]"):
            target.generate(**batch, **GREEDY)
        rows = {name: value.repeat(2, *[1] * (value.dim() - 1)) for name, value in batch.items()}
        with handle.negative_prompt(**rows), pytest.raises(ValueError, match="has 2 rows, the batch 1"):
            target.generate(**batch, **GREEDY)
        right = {**batch, "attention_mask": batch["attention_mask"].clone()}
        right["attention_mask"][:, -1] = 0
        with handle.negative_prompt(**right), pytest.raises(ValueError, match="pad on the left"):
            target.generate(**batch, **GREEDY)
        with pytest.raises(TypeError, match="needs the input_ids"), handle.negative_prompt(prompt="text"):
            pass
        with handle.negative_prompt(**batch):
            target.generate(**batch, **GREEDY)
        with pytest.raises(ValueError, match="none was given"):
            target.generate(**batch, **GREEDY)
    with (
        vtokens.attach(target, "vcd") as handle,
        pytest.raises(ValueError, match="'vcd' holds the answer against no other prompt"),
        handle.negative_prompt(**batch),
    ):
        pass


@pytest.mark.parametrize("spec", CONTRASTS)
def test_nothing_stays(spec: str) -> None:
    """The model is as it was, to the bit, after generating and after failing; a copy of it works by itself."""
    target, batch = build("qwen2_5_vl")[0], one("qwen2_5_vl")
    expected = target.generate(**batch, **GREEDY, **DETAILS)
    before = snapshot(target)
    with vtokens.attach(target, spec):
        contrasted = target.generate(**batch, **GREEDY)
        assert torch.equal(copy.deepcopy(target).generate(**batch, **GREEDY), contrasted)
        with (
            target.model.language_model.norm.register_forward_pre_hook(_fail),
            pytest.raises(RuntimeError, match="broken off"),
        ):
            target.generate(**batch, **GREEDY)
        assert torch.equal(target.generate(**batch, **GREEDY), contrasted)
    assert snapshot(target) == before
    got = target.generate(**batch, **GREEDY, **DETAILS)
    assert all(torch.equal(a, b) for a, b in zip(got.logits, expected.logits, strict=True))


def _fail(module: Any, args: Any) -> None:
    raise RuntimeError("broken off")


@pytest.mark.parametrize("spec", ["cls(keep=0.5)+vcd(branch=random(keep=0.2))", "fastv(keep=0.5)+damro(k=3)", "pai"])
@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_the_report_tells_both_apart(family: str, spec: str) -> None:
    """The prefill is that of the others alone; the negative prompt has its own tokens, FLOPs and bytes."""
    target, batch = model(family, "pruned"), one(family)
    config = target.model.language_model.config
    others = spec.rsplit("+", 1)[0] if "+" in spec else "none"
    with vtokens.attach(target, others) as handle:
        target(**batch)
        alone = handle.report()
    with vtokens.attach(target, spec) as handle:
        target.generate(**batch, **GREEDY)
        report = handle.report()
    assert alone.negative is None
    assert (report.flops, report.kv_bytes, report.flops_full) == (alone.flops, alone.kv_bytes, alone.flops_full)
    assert [sample.visual_tokens for sample in report.samples] == [sample.visual_tokens for sample in alone.samples]
    fed = report.negative
    assert fed is not None
    full = int((batch["input_ids"] == target.config.image_token_id).sum())
    tokens = {"pai": 0, "damro": 3}.get(spec.rsplit("+", 1)[-1].split("(")[0], max(1, int(full * 0.2 + 0.5)))
    width = batch["input_ids"].shape[1] - full + tokens
    assert (fed.positions, fed.visual_tokens) == (width, tokens)
    assert fed.flops == prefill_flops(config, [width] * 4)
    assert fed.kv_bytes == kv_bytes(config, [width] * 4, 4)
    assert f"negative prompt: {tokens:.1f} visual tokens" in str(report)
    figures = report.contributions[-1].figures
    assert 1 <= figures["plausible_tokens"] <= target.config.text_config.vocab_size
    assert figures["changed_answers"] in (0, 1)


def test_threads_keep_their_prompts_apart() -> None:
    """Two threads with other prompts, one model: each gets what it gets alone."""
    target, batch = model("llava", "pruned"), one("llava")
    others = [dict(inputs("llava", [text], [[]])) for text in ("a", "b")]
    others = [{k: torch.cat([other[k], batch[k]], 1) for k in ("input_ids", "attention_mask")} for other in others]
    found: dict[int, Any] = {}
    with vtokens.attach(target, "lqcd(beta=0)") as handle:

        def work(number: int) -> None:
            with torch.no_grad(), handle.negative_prompt(**others[number]):
                found[number] = target.generate(**batch, **GREEDY, **DETAILS)

        for number in range(2):
            work(number)
        alone = dict(found)
        threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not torch.equal(alone[0].logits[0], alone[1].logits[0])
    for number in range(2):
        assert torch.equal(found[number].sequences, alone[number].sequences)


def test_streamers_see_the_contrasted_answer() -> None:
    target, batch = model("llava", "pruned"), one("llava")
    with vtokens.attach(target, "vcd(beta=0)"):
        expected = target.generate(**batch, **GREEDY)[0, batch["input_ids"].shape[1] :]
        streamer = TextIteratorStreamer(tokenizer("llava"), skip_prompt=True)
        target.generate(**batch, **GREEDY, streamer=streamer)
    assert "".join(streamer) == tokenizer("llava").decode(expected)


def test_half_precision_keeps_its_type() -> None:
    target, batch = build("llava")[0].to(torch.bfloat16), one("llava")
    batch["pixel_values"] = batch["pixel_values"].to(torch.bfloat16)
    with vtokens.attach(target, "vcd"):
        assert target(**batch, logits_to_keep=1).logits.dtype == torch.bfloat16
        assert target.generate(**batch, **GREEDY).shape[1] == batch["input_ids"].shape[1] + 5


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_attention_implementations_agree(attention: str) -> None:
    target, batch = model("qwen2_vl", "pruned", attention), ragged("qwen2_vl")
    with vtokens.attach(target, "cls(keep=0.5)+vhr+vcd(beta=0)"):
        got = target.generate(**batch, **GREEDY, **DETAILS)
    with vtokens.attach(model("qwen2_vl", "pruned"), "cls(keep=0.5)+vhr+vcd(beta=0)"):
        expected = model("qwen2_vl", "pruned").generate(**batch, **GREEDY, **DETAILS)
    close_pass(got.logits[-1], expected.logits[-1], passes=2)
