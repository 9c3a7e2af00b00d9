"""What is recorded is what eager attention does, whether the model reads or writes, and nothing of it stays."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

import vtokens
from tests.engine.state import snapshot
from tests.families import EVERY, build
from tests.filter.traced import DEPTH, EVERYTHING, ask, check_by_hand, distances, fixed, written
from vtokens.core.compat import returned_cache
from vtokens.filter.trace.passes import generate, score
from vtokens.filter.trace.prompts import prompt_inputs
from vtokens.filter.trace.recorder import recording
from vtokens.filter.trace.trace import Parts

pytestmark = pytest.mark.usefixtures("no_grad")
ATTENTION = Parts(layers=frozenset({1, 2}), states=frozenset({3, DEPTH}), image_states=frozenset({DEPTH}))


@pytest.mark.parametrize("family", EVERY)
def test_rows_equal_eager_attention(family: str) -> None:
    """Attention, states, lens and likelihood of each sample of a padded batch, against one eager pass a sample."""
    _, processor, (images, prompts), traces = written(family)
    eager = build(family, attn_implementation="eager")[0]
    for row, trace in enumerate(traces):
        assert len(trace) == 6
        check_by_hand(trace, eager, processor, images[row], prompts[row], f"sample {row}")


@pytest.mark.parametrize("family", EVERY)
def test_reading_equals_writing(family: str) -> None:
    model, processor, asked, traces = written(family)
    read = score(model, processor, *asked, [trace.ids.tolist() for trace in traces], EVERYTHING)
    for one, other in zip(traces, read, strict=True):
        assert max(distances(one, other).values()) < 2e-4


@pytest.mark.parametrize("family", ["llava", "llava_onevision", "qwen2_5_vl"])
@pytest.mark.parametrize(
    "spec",
    [
        "cls(keep=0.3)",
        "fastv(keep=0.4, layer=2)",
        "todre(keep=0.4)",
        "dymu(thresholds=(0.5, 0.4, 0.4))",
        "dymu(thresholds=(0.5, 0.4, 0.4), unmerge=False)",
        "todre(keep=0.5)+vhr",
    ],
)
def test_behind_strategies(family: str, spec: str) -> None:
    """Ragged batches that a pruner cuts anew: reading equals writing, a batch equals each sample alone."""
    model, processor = build(family)
    images, prompts = ask(processor)
    handle = vtokens.attach(model, spec)
    options = fixed(processor, 5)
    plain = model.generate(**prompt_inputs(processor, images, prompts, "cpu"), **options)
    traces = generate(model, processor, images, prompts, EVERYTHING, **options)
    ids = [trace.ids.tolist() for trace in traces]
    assert ids == plain[:, -5:].tolist()
    assert vtokens.attachment(model) is handle
    read = score(model, processor, images, prompts, ids, EVERYTHING)
    for row, (one, other) in enumerate(zip(traces, read, strict=True)):
        assert max(distances(one, other).values()) < 5e-4
        [alone] = score(model, processor, [images[row]], [prompts[row]], [ids[row]], EVERYTHING)
        assert max(distances(one, alone).values()) < 5e-4
    if "keep" in spec:
        dropped = ~traces[0].kept
        assert dropped.any()
        # FastV's first layers saw what it dropped.
        assert (traces[0].gaze[:, dropped] > 0).any() == ("fastv" in spec)


def test_a_merged_token_has_the_state_of_the_one_it_went_into() -> None:
    """Where attention is shown merged tokens at all of their positions, each has the state that all of them share."""
    model, processor = build("llava")
    with vtokens.attach(model, "dymu(thresholds=(0.3, 0.2, 0.2))"):
        images, prompts = ask(processor)
        traces = score(model, processor, images, prompts, [[20, 31]] * 3, EVERYTHING)
    for trace in traces:
        assert bool(trace.image_hidden.any(-1).all())
        assert len(trace.image_hidden[1].unique(dim=0)) < trace.image_hidden.shape[1]


@pytest.mark.parametrize("spec", ["none", "cls(keep=0.3)", "fastv(keep=0.4, layer=2)"])
def test_a_static_cache_is_recorded_as_a_dynamic_one(spec: str) -> None:
    """A quantised one does not give its keys back: what was written is read."""
    with vtokens.attach(build("llava")[0], spec):
        model, processor, asked, traces = written("llava")
        for one, other in zip(written("llava", cache_implementation="static")[3], traces, strict=True):
            assert max(distances(one, other).values()) < 2e-4
        fp8 = {"cache_implementation": "quantized", "cache_config": {"backend": "fp8"}}
        rough = written("llava", ATTENTION, **fp8)[3]
        read = score(model, processor, *asked, [trace.ids.tolist() for trace in rough], ATTENTION)
        for one, other in zip(rough, read, strict=True):
            assert max(distances(one, other).values()) < 2e-4


def test_beams_and_returned_sequences_and_samples() -> None:
    """Beams fall back on reading; samples are followed row by row."""
    model, processor = build("llava")
    images, prompts = ask(processor)
    beams: Any = {**fixed(processor), "num_beams": 3, "num_return_sequences": 2}
    traces = generate(model, processor, images, prompts, EVERYTHING, **beams)
    assert len(traces) == 6
    plain = model.generate(**prompt_inputs(processor, images, prompts, "cpu"), **beams)
    for row, trace in enumerate(traces):
        assert trace.ids.tolist() == plain[row, -6:].tolist()[: len(trace)]
        [read] = score(model, processor, [images[row // 2]], [prompts[row // 2]], [trace.ids.tolist()], EVERYTHING)
        assert max(distances(trace, read).values()) < 2e-4
    torch.manual_seed(3)
    drawn = generate(
        model, processor, images, prompts, ATTENTION, max_new_tokens=20, do_sample=True, top_k=0, num_return_sequences=2
    )
    assert len({tuple(trace.ids.tolist()) for trace in drawn}) > 3
    ids = [trace.ids.tolist() for trace in drawn]
    each = [number for number in range(3) for _ in range(2)]
    read = score(model, processor, [images[i] for i in each], [prompts[i] for i in each], ids, ATTENTION)
    for one, other in zip(drawn, read, strict=True):
        assert max(distances(one, other).values()) < 2e-4


def test_whether_the_recorder_follows() -> None:
    """It follows greedy decoding, over more steps than it holds logits for, and neither beams nor an assistant."""
    model, processor = build("llava")
    inputs = prompt_inputs(processor, *ask(processor), "cpu")
    for options, follows in (({}, True), ({"num_beams": 2}, False), ({"prompt_lookup_num_tokens": 3}, False)):
        batch = (
            inputs if "prompt_lookup_num_tokens" not in options else prompt_inputs(processor, *ask(processor, 1), "cpu")
        )
        with recording(model, ATTENTION) as (tape, _):
            sequences = model.generate(**batch, max_new_tokens=37, do_sample=False, **options)
        assert tape.follows(sequences) is follows
        assert not tape.follows(sequences.flip(1))


def test_a_response_that_ends_early() -> None:
    """Rows that ended are cut at the end token, others go on."""
    model, processor = build("llava")
    images, prompts = ask(processor)
    first = generate(model, processor, images, prompts, **fixed(processor, 8))
    end = first[0].ids[3].item()
    traces = generate(model, processor, images, prompts, ATTENTION, max_new_tokens=8, do_sample=False, eos_token_id=end)
    for before, trace in zip(first, traces, strict=True):
        ids = before.ids.tolist()
        assert trace.ids.tolist() == (ids[: ids.index(end)] if end in ids else ids)
        assert trace.visual.shape[-1] == trace.gaze.shape[0] == trace.hidden.shape[1] == len(trace)
    nothing = generate(
        model, processor, images, prompts, ATTENTION, max_new_tokens=8, do_sample=False,
        eos_token_id=[trace.ids[0].item() for trace in first],
    )  # fmt: skip
    assert [len(trace) for trace in nothing] == [0, 0, 0]
    assert nothing[0].gaze.shape[0] == 0


@pytest.mark.parametrize("spec", [None, "fastv(keep=0.4, layer=2)", "vcd"])
def test_nothing_is_left_behind(spec: str | None) -> None:
    """Neither on the model nor in what it says, also when generation fails half way."""
    model, processor = build("llava")
    images, prompts = ask(processor)
    inputs = prompt_inputs(processor, images, prompts, "cpu")
    options = fixed(processor, 4)
    model.generate(**inputs, **options)
    clean = snapshot(model)
    handle = vtokens.attach(model, spec) if spec else None
    tokens = model.generate(**inputs, **options)
    assert torch.equal(
        torch.stack([t.ids for t in generate(model, processor, images, prompts, EVERYTHING, **options)]), tokens[:, -4:]
    )

    def broken(input_ids: Any, scores: Any) -> Any:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        generate(model, processor, images, prompts, EVERYTHING, logits_processor=[broken], **options)
    assert vtokens.attachment(model) is handle
    assert torch.equal(model.generate(**inputs, **options), tokens)
    vtokens.detach(model)
    assert snapshot(model) == clean


def test_the_cache_stays_a_stock_one() -> None:
    """Who only looks leaves the cache as transformers made it."""
    model, processor = build("llava")
    with recording(model, ATTENTION):
        output = model.generate(
            **prompt_inputs(processor, *ask(processor), "cpu"),
            max_new_tokens=3,
            do_sample=False,
            return_dict_in_generate=True,
        )
    assert {type(layer).__name__ for layer in returned_cache(output).layers} == {"DynamicLayer"}


def test_what_is_changed_between_two_calls_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another attention implementation, another decoder and an attachment act in the next call, and go again."""
    model, processor = build("llava_next")
    asked, said = ask(processor), [[5, 6, 7], [7, 8], [9]]
    first = score(model, processor, *asked, said, ATTENTION)
    model.set_attn_implementation("eager")
    eager = build("llava_next", attn_implementation="eager")[0]
    changed, expected = (score(one, processor, *asked, said, ATTENTION) for one in (model, eager))
    assert all(max(distances(one, other).values()) == 0 for one, other in zip(changed, expected, strict=True))
    model.set_attn_implementation("sdpa")
    with vtokens.attach(model, "cls(keep=0.3)"):
        pruned = score(model, processor, *asked, said, ATTENTION)
    assert all(not trace.kept.all() for trace in pruned)
    other = copy.deepcopy(model.model.language_model)
    other.layers[1].self_attn.q_proj.weight.mul_(2)
    with monkeypatch.context() as patch:
        patch.setitem(model.model._modules, "language_model", other)
        moved = score(model, processor, *asked, said, ATTENTION)
    again = score(model, processor, *asked, said, ATTENTION)
    for one, elsewhere, same in zip(first, moved, again, strict=True):
        assert not torch.allclose(one.visual, elsewhere.visual)
        assert max(distances(one, same).values()) == 0
