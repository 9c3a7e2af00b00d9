"""The filter on every family: what it says of a batch it says of each sample, and a stream tells what generate does."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

import vtokens
from tests.families import ALL, EVERY, OUTSIDE, STATEFUL, build
from tests.filter.traced import DEPTH, EVERYTHING, ask, check_by_hand, distances, everything, fixed
from tests.limits import close_pass
from vtokens import HallucinationFilter
from vtokens.filter.actions.generation import behind
from vtokens.filter.mentions.base import Found, Mention, Span, arrange
from vtokens.filter.trace.passes import generate, score
from vtokens.filter.trace.prompts import prompt_inputs
from vtokens.filter.trace.trace import Parts

LOW = 0.94


class Words:
    """Every word is a sentence that mentions itself."""

    name = "words"

    def sentences(self, text: str) -> list[Span]:
        return [found.span() for found in re.finditer(r"\S+", text)]

    def __call__(self, text: str, prompt: str = "") -> list[Mention]:
        spans = self.sentences(text)
        return arrange(text, [Found(a, b, "object", text[a:b]) for a, b in spans], spans)


def greedy(processor: Any) -> dict[str, Any]:
    """Sixteen tokens of Latin letters, no two alike."""
    special, tokenizer = set(processor.tokenizer.all_special_ids), processor.tokenizer
    texts = {number: tokenizer.decode([number]) for number in range(len(tokenizer)) if number not in special}
    plain = {number for number, text in texts.items() if text.isascii() and text.strip(" ").isalpha()}
    others = [number for number in range(len(tokenizer)) if number not in plain]
    return {"max_new_tokens": 16, "do_sample": False, "suppress_tokens": others, "repetition_penalty": 4.0}


@pytest.mark.parametrize(
    ("family", "spec"),
    [
        ("llava_next", "cls(keep=0.4)"),
        ("qwen3_vl", "none"),
        ("idefics3", "fastv(keep=0.5, layer=2)"),
        ("gemma3", "cls(keep=0.4)"),
        ("qwen3_vl_moe", "fastv(keep=0.5, layer=2)"),
        ("qwen2_5_omni_thinker", "cls(keep=0.4)"),
        ("kimi_k25", "cls(keep=0.4)"),
        ("qwen3_5", "fastv(keep=0.5, layer=2)"),
        ("qwen3_5_moe", "cls(keep=0.4)"),
    ],
)
def test_a_batch_is_filtered_as_each_sample_is_alone(family: str, spec: str) -> None:
    """Every signal, and retries behind what stays; given responses are judged as those that were written."""
    model, processor = build(family)
    images, prompts = ask(processor)
    more: dict[str, Any] = {"threshold": LOW, **greedy(processor)}
    with vtokens.attach(model, spec):
        found = HallucinationFilter(model, processor, "full", Words())
        written = found.generate(images, prompts, action="regenerate", **more)
        assert any(outcome.passes > 1 for outcome in written)
        for row, outcome in enumerate(written):
            alone = found.generate(images[row], prompts[row], action="regenerate", **more)
            assert (alone.text, alone.draft) == (outcome.text, outcome.draft)
            a, b = ([(edit.what, edit.before, edit.after) for edit in one.edits] for one in (alone, outcome))
            assert a == b
        read = found.check(images, prompts, [one.report.trace.ids.tolist() for one in written], threshold=LOW)
        for outcome, report in zip(written, read, strict=True):
            assert [one.mention for one in report.mentions] == [one.mention for one in outcome.report.mentions]
            for one, other in zip(report.mentions, outcome.report.mentions, strict=True):
                assert one.signals == pytest.approx(other.signals, abs=1e-3, rel=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("family", [*EVERY, *STATEFUL])
def test_what_is_written_on_sees_its_prompt_as_it_was(family: str) -> None:
    """Beginnings of several lengths move prompts in their padding, with all that is said of their positions."""
    model, processor = build(family)
    images, prompts = ask(processor)
    begun = ((20, 31, 42, 53, 64), (), (77,))
    together = model(**behind(model, prompt_inputs(processor, images, prompts, "cpu"), begun, 0)).logits[:, -1]
    for row, first in enumerate(begun):
        inputs = prompt_inputs(processor, [images[row]], [prompts[row]], "cpu")
        close_pass(together[row], model(**behind(model, inputs, [first], 0)).logits[0, -1])


@pytest.mark.parametrize("family", ["llava_next", "qwen3_vl_moe", "smolvlm", "gemma3", "qwen3_5"])
def test_a_stream_tells_what_generate_does(family: str) -> None:
    model, processor = build(family)
    images, prompts = ask(processor)
    found = HallucinationFilter(model, processor, "fast", Words())
    for action in ("redact", "regenerate"):
        given: dict[str, Any] = {"action": action, "threshold": LOW, **greedy(processor)}
        outcomes = found.generate(images, prompts, **given)
        assert any(outcome.edits for outcome in outcomes)
        for shown, asked, outcome in zip(images, prompts, outcomes, strict=True):
            assert "".join(event.text for event in found.stream(shown, asked, **given)) == outcome.text


def test_a_stream_over_latents_is_refused() -> None:
    """While it is written, attention is computed from cached keys, and Kimi caches what heads make theirs of."""
    model, processor = build("kimi_k25")
    images, prompts = ask(processor)
    found = HallucinationFilter(model, processor, "fast", Words())
    with pytest.raises(ValueError, match="layers that cache no keys of heads take generate"):
        list(found.stream(images[0], prompts[0], action="redact", threshold=LOW, **greedy(processor)))


@torch.no_grad()
@pytest.mark.parametrize("family", [family for family in ALL if family not in EVERY])
def test_traces_of_families_that_need_an_adapter_only(family: str) -> None:
    """What is written leaves the trace that reading it leaves, in a batch as alone; views without pictures too."""
    model, processor = build(family)
    images, prompts = ask(processor)
    written = generate(model, processor, images, prompts, EVERYTHING, **fixed(processor))
    read = score(model, processor, images, prompts, [trace.ids.tolist() for trace in written], EVERYTHING)
    for row, (one, other) in enumerate(zip(written, read, strict=True)):
        assert max(distances(one, other).values()) < 2e-4
        [alone] = score(model, processor, [images[row]], [prompts[row]], [one.ids.tolist()], EVERYTHING)
        assert max(distances(other, alone).values()) < 2e-4


@torch.no_grad()
@pytest.mark.parametrize("family", STATEFUL)
@pytest.mark.parametrize("kinds", ["lfll", "lllf", "fllf", "fflf"])
def test_traces_where_layers_have_no_attention(family: str, kinds: str) -> None:
    """Attention of those that have some and the states of all are those of the plain model in eager attention."""
    names = {"l": "conv" if family == "lfm2_vl" else "linear_attention", "f": "full_attention"}
    changed: dict[str, Any] = {"text_config": {"layer_types": [names[kind] for kind in kinds]}}
    model, processor = build(family, seed=1, **changed)
    eager = build(family, seed=1, attn_implementation="eager", **changed)[0]
    parts = everything(model)
    assert parts.layers == {layer for layer in range(DEPTH) if kinds[layer] == "f"}
    images, prompts = ask(processor, seed=5)
    written = generate(model, processor, images, prompts, parts, **fixed(processor))
    read = score(model, processor, images, prompts, [trace.ids.tolist() for trace in written], parts)
    for row, (one, other) in enumerate(zip(written, read, strict=True)):
        assert max(distances(one, other).values()) < 2e-4
        [alone] = score(model, processor, [images[row]], [prompts[row]], [one.ids.tolist()], parts)
        assert max(distances(other, alone).values()) < 2e-4
        check_by_hand(one, eager, processor, images[row], prompts[row], f"sample {row}")


@torch.no_grad()
@pytest.mark.parametrize("family", STATEFUL)
def test_states_that_enter_a_layer_without_attention_are_those_of_what_is_left(family: str) -> None:
    """Layer 2 is the first that sees fewer tokens: what stays is in it as without a pruner, and the rest is 0."""
    model, processor = build(family)
    parts, asked = Parts(states=frozenset({2}), image_states=frozenset({2}), lens=frozenset({2})), ask(processor)
    responses = [[20, 31, 42], [53], [64, 75]]
    whole = score(model, processor, *asked, responses, parts)
    with vtokens.attach(model, "fastv(keep=0.4, layer=2)"):
        pruned = score(model, processor, *asked, responses, parts)
    for before, after in zip(whole, pruned, strict=True):
        assert 0 < int(after.kept.sum()) < len(after.kept)
        close_pass(after.hidden, before.hidden)
        close_pass(after.image_hidden[:, after.kept], before.image_hidden[:, after.kept])
        close_pass(after.lens[..., after.kept], before.lens[..., after.kept])
        assert not bool(after.image_hidden[:, ~after.kept].any())
        assert bool((after.lens[..., ~after.kept] == -torch.inf).all())


@pytest.mark.parametrize(("kinds", "watched"), [("lflf", (1,)), ("lllf", (3,)), ("flll", (0,)), ("fffl", (0, 1, 2))])
def test_signals_watch_the_layers_that_have_attention(kinds: str, watched: tuple[int, ...]) -> None:
    """The middle of four layers are 0 to 2: those of them with attention, or the nearest, and sums over no other."""
    names = {"l": "linear_attention", "f": "full_attention"}
    model, processor = build("qwen3_5", text_config={"layer_types": [names[kind] for kind in kinds]})
    images, prompts = ask(processor)
    report = HallucinationFilter(model, processor, "full", Words()).check(images[0], prompts[0], "a red cat")
    trace, [first, *_] = report.trace, report.mentions
    assert trace is not None
    assert trace.layers == watched
    assert {name for name in first.signals if name.startswith("visual_profile")} == {
        f"visual_profile.{layer}" for layer in watched
    }
    share = trace.visual[..., list(first.mention.tokens)].double().mean((1, 2)).sum()
    assert first.signals["visual_share"] == pytest.approx(-float(share), abs=1e-6)


def test_a_layer_without_attention_that_is_named_is_refused_with_the_nearest() -> None:
    model, processor = build("qwen3_5")
    with pytest.raises(ValueError, match=r"decoder layer 2, .* layers 1, 3 have attention, the nearest is 1"):
        score(model, processor, *ask(processor), ["a cat"] * 3, Parts(layers=frozenset({2})))


@pytest.mark.parametrize("family", OUTSIDE)
def test_visual_tokens_outside_the_sequence_are_refused(family: str) -> None:
    """When the filter is made."""
    model, processor = build(family)
    with pytest.raises(ValueError, match="no positions of the decoder, but keys of its cross-attention layers"):
        HallucinationFilter(model, processor, signals=["nll"])
