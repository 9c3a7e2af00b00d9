"""What is told of each row of a batch is what the report says of that row by itself."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch

import vtokens
from tests.families import build, image, inputs

TEXTS = ("what is <image> this?", "look at <image> and at <image> well", "no picture here", "<image>")
PICTURES = ([image(84, 84, 1)], [image(56, 84, 2), image(84, 56, 3)], [], [image(56, 56, 4)])
GREEDY: dict[str, Any] = {"max_new_tokens": 1, "do_sample": False}
MIXED = ["cls(keep=0.25)", "fastv(keep=0.5, layer=2)", "none", "todre(keep=0.5)+vhr"]


@pytest.mark.parametrize(
    ("family", "programs"),
    [
        ("llava", MIXED),
        ("qwen2_5_vl", ["uniform(keep=0.3)", "none", "cls(keep=0.5)", "divprune(keep=0.2)"]),
        ("llava", ["dymu(thresholds=(0.3, 0.3, 0.3))"] * 4),
        ("llava", ["vispruner(keep=0.3)+vtw(layer=2)", "none", "vtw(layer=1)", "vtw(layer=3)"]),
        ("llava", ["shortv(layers=(1, 2))", "none", "shortv(layers=(1,))", "none"]),
    ],
)
def test_a_row_of_a_batch_is_reported_as_alone(family: str, programs: list[str]) -> None:
    model, processor = build(family)
    batch = dict(inputs(processor, list(TEXTS), [*PICTURES]))
    lengths = batch["attention_mask"].sum(1).tolist()
    with torch.no_grad(), vtokens.attach(model, "none") as handle:
        with handle.using(programs):
            before = handle.record
            model.generate(**batch, **GREEDY)
            rows = handle.row_reports(lengths, before)
        for number, (row, program) in enumerate(zip(rows, programs, strict=True)):
            assert row.length == lengths[number]
            if not PICTURES[number]:
                assert row.fed == row.length
                assert row.flops == row.flops_full
                assert row.sample.pictures == ()
                continue
            with handle.using(program):
                model.generate(**inputs(processor, [TEXTS[number]], [PICTURES[number]]), **GREEDY)
                report = handle.report()
            (sample,) = report.samples
            assert (row.flops, row.flops_full) == (report.flops, report.flops_full)
            assert row.sample.visual_tokens == sample.visual_tokens
            assert row.fed == sum(map(len, sample.positions)) / len(sample.positions)
            for mine, other in zip(row.sample.pictures, sample.pictures, strict=True):
                assert all((a == b).all() for a, b in zip(mine.kept, other.kept, strict=True))


def test_a_call_without_pictures_is_told_from_the_one_before() -> None:
    model, processor = build("llava")
    text = dict(inputs(processor, [TEXTS[2]], [[]]))
    with torch.no_grad(), vtokens.attach(model, "cls(keep=0.5)") as handle:
        model.generate(**inputs(processor, [TEXTS[0]], [PICTURES[0]]), **GREEDY)
        before = handle.record
        model.generate(**text, **GREEDY)
        (row,) = handle.row_reports([8], before)
        assert (row.length, row.fed, row.sample.average_tokens) == (8, 8.0, 0.0)
        assert row.flops == row.flops_full > 0
        (stale,) = handle.row_reports([25])
        assert stale.sample.average_tokens > 0


def test_a_call_without_pictures_is_told_from_one_of_a_thread_that_was_started() -> None:
    model, processor = build("llava")
    first, second = (dict(inputs(processor, [TEXTS[row]], [PICTURES[row]])) for row in (0, 1))
    text = dict(inputs(processor, [TEXTS[2]], [[]]))

    def streamed() -> None:
        with torch.no_grad():
            model.generate(**second, **GREEDY)

    with torch.no_grad(), vtokens.attach(model, "cls(keep=0.5)") as handle:
        model.generate(**first, **GREEDY)
        thread = threading.Thread(target=streamed)
        thread.start()
        thread.join()
        before = handle.record
        model.generate(**text, **GREEDY)
        (row,) = handle.row_reports([8], before)
        assert (row.length, row.fed, row.sample.pictures) == (8, 8.0, ())
        assert handle.record is before


def test_visual_tokens_outside_the_sequence() -> None:
    model, processor = build("mllama")
    given = dict(inputs(processor, [TEXTS[0]], [PICTURES[0]]))
    with torch.no_grad(), vtokens.attach(model, "uniform(keep=0.5)") as handle:
        before = handle.record
        model.generate(**given, **GREEDY)
        (row,), report = handle.row_reports(given["attention_mask"].sum(1).tolist(), before), handle.report()
    assert (row.flops, row.flops_full) == (report.flops, report.flops_full)
    assert row.fed == row.length == given["input_ids"].shape[1]


def test_what_could_run_is_told_without_running_it() -> None:
    model, _ = build("llava")
    with vtokens.attach(model, "none") as handle:
        assert handle.check("cls(keep=0.25)") == ()
        assert "auto stands for" in handle.check("auto")[0]
        with pytest.raises(ValueError, match="layer"):
            handle.check("fastv(layer=99)")
        dymu = "dymu(thresholds=(0.2, 0.2, 0.2))"
        for first, second, together in (
            ("cls", "none", True), ("cls", "vcd", True), ("vcd", "vcd", True), ("vcd", "m3id", False),
            (dymu, "none", False), (dymu, dymu, True),
        ):  # fmt: skip
            assert handle.beside(first, second) == handle.beside(second, first) == together
