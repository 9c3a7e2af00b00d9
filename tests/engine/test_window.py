"""Decoders with a sliding window: as without one while it cuts nothing; where it cuts, right for pruners or refused."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import pytest
import torch

import vtokens
from tests.engine.masked import dropped_keys, masking
from tests.families import build, image, inputs
from tests.limits import BLOCKS, close, close_pass
from vtokens.strategies import Attention, Facts, Needs, Strategy, Visuals

pytestmark = pytest.mark.usefixtures("no_grad")
LONG, SHORT = 4096, 40
DECODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "mistral": ("llava", {"model_type": "mistral", "num_key_value_heads": 2}),
    "qwen2": ("llava_onevision", {"use_sliding_window": True, "max_window_layers": 0}),
    "some layers": ("llava_onevision", {"use_sliding_window": True, "max_window_layers": 2}),
    "qwen2_vl": ("qwen2_vl", {"use_sliding_window": True, "max_window_layers": 1}),
}
SPECS = (
    "uniform(keep=0.5)", "fastv(keep=0.5, layer=2)", "vhr", "todre(keep=0.5, exit_threshold=2.0)", "pai", "damro(k=3)",
    "vhr(divergence='two_branch')", "dymu(thresholds=(0.2, 0.2, 0.2))", "cls(keep=0.5)+vcd",
)  # fmt: skip
PRUNERS = (
    "uniform(keep=0.5)", "cls(keep=0.3)", "random(keep=0.4)+fastv(keep=0.5, layer=2)", "fastv(keep=0.25, layer=1)",
    "fastv(keep=0.5, layer=3)",
)  # fmt: skip
REFUSED = (
    "vhr", "pai", "damro(k=3)", "vhr(divergence='two_branch')", "dymu(thresholds=(0.2, 0.2, 0.2))", "cls(keep=0.5)+vcd",
)  # fmt: skip
READERS = (
    "priortr(keep=0.5, layer=3)", "priortr(keep=0.5, layer=3, query=last)", "transprune(keep=0.25)",
    "sparsevlm(keep=0.25, recycle=False)",
)  # fmt: skip
"""They read the attention of several queries in a layer that has a window in each decoder."""
GREEDY: dict[str, Any] = {"do_sample": False, "max_new_tokens": 4, "min_new_tokens": 4, "output_logits": True}
DETAILS: dict[str, Any] = {**GREEDY, "return_dict_in_generate": True}


@dataclass(frozen=True)
class Probe(Strategy):
    """Notes the attention that it asked for and drops nothing."""

    layer: int = 0
    found: ClassVar[list[torch.Tensor]] = []

    def needs(self, facts: Facts) -> Needs:
        return Needs(signals=(Attention(self.layer, "last"),), layer=(self.layer + 1,))

    def at_layer(self, visuals: Visuals, index: int) -> None:
        self.found.append(visuals.received(self.layer, "last"))


@cache
def made(decoder: str, window: int | None) -> tuple[Any, Any]:
    """The same weights, whatever the window."""
    family, text = DECODERS[decoder]
    return build(family, text_config={**text, "sliding_window": window})


def batch(decoder: str, window: int | None, text: str = "what is <image> this?") -> dict[str, Any]:
    """Two rows, padded on the left."""
    pictures = [[image(84, 84, seed=0)], [image(84, 84, seed=1)]]
    return dict(inputs(made(decoder, window)[1], [text, "and <image>"], pictures))


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("decoder", DECODERS)
def test_a_window_that_cuts_nothing(decoder: str, spec: str) -> None:
    """What the same weights give without a window: in a plain pass, and in `generate`, with the window's own cache."""
    (windowed, _), (plain, _) = made(decoder, LONG), made(decoder, None)
    given = batch(decoder, LONG)
    for options in ({"use_cache": False}, {"use_cache": True}):
        with vtokens.attach(windowed, spec), vtokens.attach(plain, spec):
            torch.testing.assert_close(windowed(**given, **options).logits, plain(**given, **options).logits)
    with vtokens.attach(windowed, spec), vtokens.attach(plain, spec):
        got, expected = windowed.generate(**given, **DETAILS), plain.generate(**given, **DETAILS)
    assert torch.equal(got.sequences, expected.sequences)
    close_pass(torch.stack(got.logits), torch.stack(expected.logits))


@pytest.mark.parametrize("spec", PRUNERS)
@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("window", [5, 17, SHORT])
def test_pruned_equals_masked_where_a_window_cuts(decoder: str, spec: str, window: int) -> None:
    """Windows count fed positions: an untouched model that masks what was dropped says the same, step by step."""
    target, _ = made(decoder, window)
    given = batch(decoder, window, "what is <image> this? " + "tell me all about it " * 3)
    details: dict[str, Any] = {**DETAILS, "max_new_tokens": 9, "min_new_tokens": 9}
    for options in ({}, {"num_beams": 2}):
        with vtokens.attach(target, spec) as handle:
            got = target.generate(**given, **details, **options)
            report = handle.report()
        valid = given["attention_mask"].repeat_interleave(options.get("num_beams", 1), 0)
        with masking(target, dropped_keys(report, valid)):
            expected = target.generate(**given, **details, **options)
        assert torch.equal(got.sequences, expected.sequences)
        close_pass(torch.stack(got.logits), torch.stack(expected.logits))


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("window", [5, 17, SHORT])
def test_the_attention_that_a_layer_gives_inside_its_window(decoder: str, window: int) -> None:
    """What pruners read of a layer is what eager attention of the plain model gives there, from the last row."""
    target, _ = build(DECODERS[decoder][0], text_config={**DECODERS[decoder][1], "sliding_window": window})
    target.set_attn_implementation("eager")
    given = batch(decoder, window)
    weights = target(**given, output_attentions=True).attentions
    for layer in range(3):
        with vtokens.attach(target, Probe(layer)):
            target(**given)
        close(Probe.found.pop(), weights[layer][:, :, -1].mean(1), given["input_ids"].shape[1], BLOCKS)


@pytest.mark.parametrize("spec", REFUSED)
@pytest.mark.parametrize("decoder", DECODERS)
def test_a_window_that_cuts(decoder: str, spec: str) -> None:
    """Refused in a plain pass as in `generate`, with a cache or without; the model itself goes on."""
    target, _ = made(decoder, SHORT)
    given = batch(decoder, SHORT, "what is <image> this? " + "tell me all about it " * 3)
    assert given["input_ids"].shape[1] >= SHORT
    expected = target(**given).logits
    with vtokens.attach(target, spec):
        for options in ({"use_cache": False}, {"use_cache": True}, {"logits_to_keep": 1}):
            with pytest.raises(ValueError, match=f"sliding_window={SHORT}.*detach"):
                target(**given, **options)
        with pytest.raises(ValueError, match=f"sliding_window={SHORT}"):
            target.generate(**given, **GREEDY)
        text = target.model.language_model if hasattr(target.model, "language_model") else target.language_model
        ids = given["input_ids"][:, -1:].repeat(1, SHORT + 5)
        assert text(input_ids=ids).last_hidden_state.shape[1] == SHORT + 5  # text by itself is nobody's business
    assert torch.equal(target(**given).logits, expected)


@pytest.mark.parametrize("spec", READERS)
@pytest.mark.parametrize("decoder", DECODERS)
def test_attention_of_several_queries_is_not_read_where_a_window_cuts(decoder: str, spec: str) -> None:
    """Refused with the prompt; an answer that grows beyond the window is what it is with the dropped keys masked."""
    processor = made(decoder, None)[1]
    given = dict(inputs(processor, ["what is <image> this?"], [[image(84, 84, seed=0)]]))
    length = given["input_ids"].shape[1]
    room = {**DETAILS, "max_new_tokens": 8, "min_new_tokens": 8}
    exact = build(DECODERS[decoder][0], text_config={**DECODERS[decoder][1], "sliding_window": length})[0]
    with vtokens.attach(exact, spec), pytest.raises(ValueError, match=f"sliding_window={length}.*several queries"):
        exact(**given)
    wider = build(DECODERS[decoder][0], text_config={**DECODERS[decoder][1], "sliding_window": length + 2})[0]
    with vtokens.attach(wider, spec) as handle:
        got = wider.generate(**given, **room)
        report = handle.report()
    with masking(wider, dropped_keys(report, given["attention_mask"])):
        expected = wider.generate(**given, **room)
    assert torch.equal(got.sequences, expected.sequences)
    close_pass(torch.stack(got.logits), torch.stack(expected.logits))


@pytest.mark.parametrize("spec", REFUSED)
@pytest.mark.parametrize("decoder", DECODERS)
def test_an_answer_that_grows_to_the_window(decoder: str, spec: str) -> None:
    """Steps are right until the window would cut, and refused then, before a token comes from less than was meant."""
    plain, processor = made(decoder, None)
    given = dict(inputs(processor, ["what is <image>"], [[image(84, 84, seed=0)]]))
    length = given["input_ids"].shape[1]
    small = build(DECODERS[decoder][0], text_config={**DECODERS[decoder][1], "sliding_window": length + 4})[0]
    room = {**DETAILS, "max_new_tokens": 4, "min_new_tokens": 4}
    with vtokens.attach(small, spec), vtokens.attach(plain, spec):
        got, expected = small.generate(**given, **room), plain.generate(**given, **room)
        assert torch.equal(got.sequences, expected.sequences)
        close_pass(torch.stack(got.logits), torch.stack(expected.logits))
        with pytest.raises(ValueError, match=f"came to {length + 4} positions"):
            small.generate(**given, **{**room, "max_new_tokens": 5, "min_new_tokens": 5})


def test_another_prompt_that_is_longer() -> None:
    """The second sequence has a length of its own, and meets the window first."""
    windowed, processor = made("qwen2", SHORT + 80)
    given = dict(inputs(processor, ["<image>a"], [[image(56, 56, seed=0)]]))
    other = dict(inputs(processor, ["<image>" + "look at it for a good while " * 30], [[image(56, 56, seed=0)]]))
    assert given["input_ids"].shape[1] + 4 < SHORT + 80 <= other["input_ids"].shape[1]
    with (
        vtokens.attach(windowed, "lqcd") as handle,
        handle.negative_prompt(**other),
        pytest.raises(ValueError, match="sliding_window"),
    ):
        windowed.generate(**given, **GREEDY)


@pytest.mark.parametrize("spec", ["fastv(keep=0.5, layer=2)", "vhr", "pai"])
@pytest.mark.parametrize("decoder", DECODERS)
def test_beams_and_assistants(decoder: str, spec: str) -> None:
    """Cache layers of a window are reordered, repeated and cropped as others are."""
    (windowed, _), (plain, _) = made(decoder, LONG), made(decoder, None)
    given = batch(decoder, LONG)
    one = {
        name: part[:1] for name, part in given.items() if name in ("input_ids", "attention_mask", "mm_token_type_ids")
    }
    one |= {k: v[: len(v) // 2] for k, v in given.items() if k not in one}
    for rows, options in ((given, {"num_beams": 3}), (one, {"prompt_lookup_num_tokens": 2})):
        with vtokens.attach(windowed, spec), vtokens.attach(plain, spec):
            got, expected = (target.generate(**rows, **GREEDY, **options) for target in (windowed, plain))
        assert torch.equal(got, expected)
