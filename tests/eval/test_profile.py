"""Profiles of tiny genuine models: what the rows say is what the formula, the report and the cache say."""

import dataclasses

import pytest
import torch

import vtokens
from tests.families import FAMILIES, build
from vtokens.adapters import adapter_for
from vtokens.core.costs import call_flops
from vtokens.core.timing import Clock, peak_bytes, ran_out_of_memory, ratio, rounds, summary
from vtokens.eval import profile as profiling
from vtokens.eval.cells import cells
from vtokens.eval.profile import ProfileSettings, profile
from vtokens.eval.synthetic import prompts

CLOCK = Clock(torch.device("cpu"), threads=1)


def few(family, **changes):
    """Settings for a quick run on a tiny model."""
    size = (168, 140) if family.startswith("qwen") else None
    return dataclasses.replace(ProfileSettings(text=8, size=size, new_tokens=4, rounds=2), **changes)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_agrees_with_the_report_the_formula_and_itself(family):
    model, _ = build(family)
    settings = few(family)
    rows = list(profile(model, cells(["cls", "fastv(layer=1)"], [0.25]), [2], settings, CLOCK))
    assert [row["strategy"] for row in rows] == ["cls", "fastv(keep=0.25, layer=1)"]
    adapter = adapter_for(model)
    batch = prompts(adapter, (8, 8), settings.size)
    length = batch["input_ids"].shape[1]
    for row in rows:
        with vtokens.attach(model, row["strategy"]) as handle:
            model.generate(**batch, max_new_tokens=1)
            report = handle.report()
        assert row["failed"] == {}
        assert (row["batch"], row["prompt_tokens"], row["new_tokens"], row["keep"]) == (2, length, 4, 0.25)
        assert row["kept_tokens"] == report.samples[0].average_tokens
        assert row["visual_tokens"] == report.samples[0].pictures[0].picture.tokens
        assert (row["kv_bytes"], row["kv_bytes_full"]) == (report.kv_bytes, report.kv_bytes_full)
        assert (row["flops"]["prefill"], row["flops_full"]["prefill"]) == (report.flops, report.flops_full)
        full = call_flops(adapter.language_model.config, adapter.encoding("image", batch), [length] * 4, 4, batch=2)
        assert row["flops_full"]["total"] == full.total
        assert row["flops"]["total"] < row["flops_full"]["total"]
        for name, phases in row["seconds"].items():
            middle = {phase: value["median"] for phase, value in phases.items()}
            assert min(middle[phase] for phase in ("encode", "prefill", "decode", "request")) > 0
            assert middle["select"] > 0 if name == "pruned" else middle["select"] == 0
            assert middle["first_token"] + middle["decode"] < 1.5 * middle["request"]
            assert row["tokens_per_second"][name] == 8 / middle["request"]
        assert set(row["seconds"]) == {"unpruned", "pruned", "ideal"}
        assert 0 < row["peak_bytes"]["pruned"] <= 1.1 * row["peak_bytes"]["unpruned"]
        assert all(row[kind][what]["rounds"] == 2 for kind in ("speed_up", "of_ideal") for what in profiling.COMPARED)
    assert vtokens.attachment(model) is None


def test_what_drops_nothing_costs_and_keeps_as_much():
    """`none` and strategies inside attention have rows like any other."""
    model, _ = build("llava")
    for row in profile(model, cells(["none", "vhr"]), [1], few("llava", new_tokens=1), CLOCK):
        assert row["flops"] == row["flops_full"]
        assert row["kept_tokens"] == row["visual_tokens"]
        assert row["seconds"]["pruned"]["decode"]["median"] == 0  # one token is never fed back


def test_what_does_not_fit_is_said_and_the_rest_goes_on():
    """The row of an impossible batch is marked as failed; the one after it is measured."""
    model, _ = build("llava", vision_config={"image_size": 560})
    rows = list(profile(model, cells(["random"], [0.5]), [10**6, 1], few("llava"), CLOCK))  # 4 TB of pixels
    assert rows[0]["batch"] == 10**6
    assert rows[0]["failed"]["all"].startswith("out of memory")
    assert "seconds" not in rows[0]
    assert rows[1]["failed"] == {}
    assert "seconds" in rows[1]


def test_a_pruned_model_that_fits_where_the_unpruned_one_does_not():
    """Memory runs out where one decoder layer meets the whole prompt: only the unpruned call fails."""
    model, _ = build("llava")

    def hungry(module, args):
        if args[0].shape[1] > 20:
            torch.empty(10**15)

    hook = model.model.language_model.layers[1].register_forward_pre_hook(hungry)
    (row,) = profile(model, cells(["random"], [0.5]), [1], few("llava"), CLOCK)
    hook.remove()
    assert set(row["failed"]) == {"unpruned"}
    assert row["speed_up"] == {"first_token": None, "request": None}
    assert row["of_ideal"]["request"]["median"] > 0
    assert "unpruned" not in row["seconds"]


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    model, _ = build("llava")
    hook = model.lm_head.register_forward_hook(lambda *_: torch.zeros(2) @ torch.zeros(3))
    with pytest.raises(RuntimeError, match="size"):
        list(profile(model, cells(["none"]), [1], few("llava"), CLOCK))
    hook.remove()
    assert not ran_out_of_memory(ValueError("out of range"))
    assert ran_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))


@pytest.mark.parametrize(
    ("changes", "batches", "says"),
    [
        ({"new_tokens": 0}, [1], "new_tokens=0 is not possible"),
        ({"rounds": 0}, [1], "rounds=0 is not possible"),
        ({}, [1, 0], "a batch of 0 prompts is not possible"),
        ({"text": 1}, [1], "1 text tokens are too few"),
    ],
)
def test_settings_that_cannot_be(changes, batches, says):
    model, _ = build("llava")
    with pytest.raises(ValueError, match=says):
        list(profile(model, cells(["none"]), batches, few("llava", **changes), CLOCK))


def test_rounds_interleave_and_turn_round():
    """Two runs, three rounds after a warm-up: the order turns from round to round, and the warm-up is not counted."""
    order = []
    runs = {name: (lambda name=name: order.append(name) or len(order)) for name in "ab"}
    assert rounds(runs, 3) == {"a": [4, 5, 8], "b": [3, 6, 7]}
    assert "".join(order) == "abbaabba"


def test_ratios_are_taken_within_rounds():
    assert ratio([2.0, 30.0, 8.0], [1.0, 10.0, 2.0]) == {"median": 3.0, "q1": 2.0, "q3": 4.0, "rounds": 3}
    assert summary([5.0]) == {"median": 5.0, "q1": 5.0, "q3": 5.0, "rounds": 1}


def test_the_peak_is_the_most_that_lives_at_once():
    """Three tensors of a megabyte, never more than two at a time."""

    def run():
        first = torch.ones(2**18)
        second = first + 1
        del first
        return second * 2

    assert 2 * 2**20 <= peak_bytes(run, torch.device("cpu")) < 2.1 * 2**20


def test_the_clock_follows_the_device_and_the_threads():
    assert CLOCK.kind == "cpu seconds"
    assert Clock(torch.device("cpu"), threads=2).kind == "wall seconds"
    assert CLOCK.time(lambda: sum(range(10**6))) > 0


@pytest.mark.gpu
def test_a_profile_on_a_gpu():
    """Device time by events in bfloat16; the phases fit into the request."""
    model, _ = build("llava")
    model = model.to("cuda", torch.bfloat16)
    clock = Clock(model.device, torch.get_num_threads())
    (row,) = profile(model, cells(["cls"], [0.25]), [2], few("llava", new_tokens=16), clock)
    assert clock.kind == "wall seconds"
    for phases in row["seconds"].values():
        assert 0 < phases["first_token"]["median"] < phases["request"]["median"]
    assert row["peak_bytes"]["pruned"] > 0
