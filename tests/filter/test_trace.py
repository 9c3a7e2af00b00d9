"""Traces: what they hold, what they say is missing; the numbers they are made of, against float64."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.families import build
from tests.filter.test_signals import DEPTH, TRACE, T, random_trace
from tests.filter.traced import ask, distances, fixed
from tests.limits import close_pass
from vtokens.core.facts import Facts
from vtokens.filter.trace import measure
from vtokens.filter.trace.passes import generate, score
from vtokens.filter.trace.trace import Parts, Trace


def test_parts_are_joined() -> None:
    one = Parts(layers=frozenset({1}), contrasts=frozenset({"blank"}))
    two = Parts(layers=frozenset({2}), states=frozenset({0}), divergence=True)
    both = one | two
    assert both == Parts(frozenset({1, 2}), frozenset({0}), contrasts=frozenset({"blank"}), divergence=True)
    assert (one.passes, two.passes, both.passes, Parts().passes) == (1, 1, 2, 0)
    assert Parts.union([one, two, Parts()]) == both
    assert Parts.union([]) == Parts()


def test_stretches_are_the_layers_in_them_that_have_attention() -> None:
    """Qwen3.5 has attention in every fourth layer; where a stretch has none, the nearest to its middle is taken."""
    facts = Facts("any", 32, 0, False, linear=tuple(layer for layer in range(32) if layer % 4 != 3))
    parts = Parts(layers=frozenset({31}), stretches=frozenset({range(5, 19), range(3), range(4, 7)}))
    assert parts.on(facts.attending) == Parts(layers=frozenset({3, 7, 11, 15, 31}))
    every = Facts("any", 32, 0, False)
    assert Parts(stretches=frozenset({range(5, 19)})).on(every.attending) == Parts(layers=frozenset(range(5, 19)))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (Parts(layers=frozenset({8})), "layers=8 is out of range for a model with 8 layers"),
        (Parts(states=frozenset({9})), "states=9 is out of range: a model with 8 layers has states 0 to 8"),
        (Parts(lens=frozenset({-1})), "lens=-1 is out of range"),
        (Parts(stretches=frozenset({range(6, 9)})), "stretches=8 is out of range for a model with 8 layers"),
        (Parts(stretches=frozenset({range(3, 3)})), "a stretch has at least one decoder layer"),
        (Parts(contrasts=frozenset({"no_imag"})), "Did you mean 'no_image'"),
    ],
)
def test_parts_that_a_model_has_not(parts: Parts, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parts.check(8)


def test_states_of_the_tokens_themselves() -> None:
    """Row k + 1 is token k; the last token was never fed."""
    own = TRACE.own(2)
    torch.testing.assert_close(own[:-1], TRACE.hidden[2, 1:])
    torch.testing.assert_close(own[-1], TRACE.hidden[2, -1])
    torch.testing.assert_close(TRACE.at_prompt(2), TRACE.hidden[2, 0])
    torch.testing.assert_close(TRACE.contrast("blank"), TRACE.logprob - TRACE.contrasts["blank"])
    assert len(TRACE) == T


def test_what_is_missing() -> None:
    with pytest.raises(ValueError, match=r"holds layers \[0, 1, 2, 3, 4, 5, 6, 7\], not \[8, 9\]"):
        TRACE.where("layers", [7, 8, 9])
    bare = random_trace()
    bare.contrasts = {"blank": bare.logprob}
    with pytest.raises(ValueError, match=r"not contrasted with 'no_image' \(with blank\)"):
        bare.contrast("no_image")


def test_moving_moves_every_tensor() -> None:
    moved = TRACE.to("meta")
    for part in dataclasses.fields(Trace):
        value = getattr(moved, part.name)
        for tensor in value.values() if isinstance(value, dict) else [value]:
            assert not isinstance(tensor, torch.Tensor) or tensor.device.type == "meta"
    assert moved.depth == DEPTH


@given(
    batch=st.integers(1, 3), shared=st.integers(1, 3), rows=st.integers(1, 5), prompt=st.integers(1, 9),
    seed=st.integers(0, 999), chunk=st.sampled_from([1, 40, 1 << 22]),
)  # fmt: skip
def test_where_rows_look(batch: int, shared: int, rows: int, prompt: int, seed: int, chunk: int) -> None:
    """Shares, entropies and what each key receives, row by row, with padding and shared keys."""
    torch.manual_seed(seed)
    keys, heads = prompt + rows - 1, 2 * shared
    query, key = torch.randn(batch, heads, rows, 8), torch.randn(batch, 2, keys, 8)
    visual = torch.rand(batch, keys) < 0.5
    visual[:, prompt:] = False
    valid = torch.rand(batch, keys) < 0.8
    valid[:, prompt - 1 :] = True
    before, measure._CHUNK = measure._CHUNK, chunk
    try:
        found = measure.look(query, key, 0.4, valid, visual, prompt - 1)
    finally:
        measure._CHUNK = before
    for b in range(batch):
        for r in range(rows):
            seen = valid[b] & (torch.arange(keys) < prompt + r)
            received = torch.zeros(keys, dtype=torch.double)
            for h in range(heads):
                scores = key[b, h // shared].double() @ query[b, h, r].double() * 0.4
                row = scores.masked_fill(~seen, -torch.inf).softmax(0)
                on_picture = row[visual[b]]
                mass = on_picture.sum()
                share = on_picture[on_picture > 0] / mass
                assert found.visual[b, h, r] == pytest.approx(float(mass), abs=1e-6)
                assert found.spread[b, h, r] == pytest.approx(float(-(share * share.log()).sum()), abs=1e-4)
                assert found.generated[b, h, r] == pytest.approx(float(row[prompt:].sum()), abs=1e-6)
                received += row / heads
            close_pass(found.received[b, r], received)


@given(seed=st.integers(0, 999), words=st.integers(2, 50), chunk=st.sampled_from([1, 100, 1 << 22]))
def test_how_likely_tokens_were(seed: int, words: int, chunk: int) -> None:
    """Also of words that are ruled out, and of logits far from zero."""
    torch.manual_seed(seed)
    logits = 5 * torch.randn(7, words) + 1000
    logits[:, 0] = -torch.inf
    ids = torch.randint(1, words, (7,))
    before, measure._CHUNK = measure._CHUNK, chunk
    try:
        found = measure.likelihood(logits, ids)
    finally:
        measure._CHUNK = before
    p = logits.double().softmax(-1)
    top = p.sort(-1, descending=True).values
    torch.testing.assert_close(found.logprob.double(), p.log().gather(1, ids[:, None])[:, 0], atol=5e-4, rtol=1e-5)
    torch.testing.assert_close(found.entropy.double(), -torch.xlogy(p, p).sum(-1), atol=5e-4, rtol=1e-4)
    torch.testing.assert_close(found.margin.double(), top[:, 0] - top[:, 1], atol=5e-4, rtol=1e-4)


def test_bfloat16() -> None:
    """Everything is float32, and reading agrees with writing as far as that precision goes."""
    model, processor = build("qwen2_5_vl")
    model = model.bfloat16()
    parts = Parts(frozenset({1, 2}), frozenset({2, 4}), frozenset({4}), frozenset({4}), frozenset({"no_image"}), True)
    asked = ask(processor)
    traces = generate(model, processor, *asked, parts, **fixed(processor))
    read = score(model, processor, *asked, [trace.ids.tolist() for trace in traces], parts)
    for one, other in zip(traces, read, strict=True):
        assert one.hidden.dtype == one.image_hidden.dtype == one.lens.dtype == one.logprob.dtype == torch.float32
        far = distances(one, other)
        assert max(far[name] for name in ("visual", "generated", "gaze", "margin")) < 0.05
        assert far["logprob"] < 0.3
