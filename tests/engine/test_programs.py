"""Programs per row: a batch whose rows run under different strategies answers as each row would alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import vtokens
from tests.engine.cases import Case, cases, model, refused, share, specs
from tests.engine.state import snapshot
from tests.engine.test_combinations import alike
from tests.engine.test_logits_drawn import alone
from tests.families import EVERY, build, image, inputs
from tests.limits import close_pass
from vtokens.core.compat import as_cache, returned_cache

pytestmark = pytest.mark.usefixtures("no_grad")
GREEDY: dict[str, Any] = {
    "do_sample": False, "max_new_tokens": 4, "min_new_tokens": 4,
    "output_logits": True, "return_dict_in_generate": True,
}  # fmt: skip
TEXTS = ("what is <image> this?", "<image>", "look at <image> and at <image> well", "no picture here")
SIZES = ([(84, 84)], [(56, 56)], [(56, 84), (84, 56)], [])
INSIDE = ("none", "vhr", "vhr(divergence='two_branch')", "cls(keep=0.5)+vhr(alpha=1.5)", "fastv(keep=0.3, layer=1)+vhr")
CONTRASTS = ("pai(gamma=1.4, beta=0.02)", "m3id", "vcd(alpha=0.6)", "damro(k=3)", "contrast", "avisc(others=drop)")


def batch(family: str, rows: list[int]) -> dict[str, Any]:
    """Rows of other texts and pictures each, padded on the left."""
    processor = build(family)[1]
    pictures = [[image(*size, seed=10 * row + number) for number, size in enumerate(SIZES[row])] for row in rows]
    return dict(inputs(processor, [TEXTS[row] for row in rows], pictures))


def check(family: str, rows: list[int], programs: list[str], **options: Any) -> None:
    """A batch under a program a row, against each row by itself under its program."""
    target = model(family, "pruned")
    copies = options.get("num_return_sequences", 1)
    with vtokens.attach(target, "none") as handle, handle.using(programs):
        together = target.generate(**batch(family, rows), **GREEDY, **options)
    for number, (row, program) in enumerate(zip(rows, programs, strict=True)):
        with vtokens.attach(target, program):
            alone = target.generate(**batch(family, [row]), **GREEDY, **options)
        mine = slice(number * copies, (number + 1) * copies)
        assert torch.equal(together.sequences[mine, -4:], alone.sequences[:, -4:]), program
        if "num_beams" not in options:
            close_pass(torch.stack(together.logits)[:, mine], torch.stack(alone.logits))


@pytest.mark.parametrize("family", EVERY)
def test_each_row_answers_as_alone(family: str) -> None:
    check(family, [0, 1, 2], ["cls(keep=0.25)", "none", "fastv(keep=0.5, layer=2)"])


def test_a_count_of_one_is_not_the_share_of_all() -> None:
    """They are equal numbers, and the strategies equal dataclasses."""
    check("llava", [1, 1, 1, 1], ["cls(keep=1)", "cls(keep=1.0)", "cls(keep=1.0)", "cls(keep=1)"])


@pytest.mark.fuzz
@settings(max_examples=share(2))
@given(
    family=st.sampled_from(EVERY),
    case=cases().filter(lambda case: case.side == "left"),
    programs=st.lists(st.tuples(st.sampled_from(INSIDE) | specs(), st.booleans()), min_size=3, max_size=3),
    contrast=st.sampled_from(CONTRASTS),
)
def test_programs_drawn(family: str, case: Case, programs: list[tuple[str, bool]], contrast: str) -> None:
    """Any programs beside each other, with drawn settings, some rows under a contrast, some without pictures."""
    target, rows = model(family, "pruned", case.attention[0]), alone(family, case)
    used = [f"{spec}+{contrast}".removeprefix("none+") if more else spec for spec, more in programs[: len(rows)]]
    options = {**GREEDY, **({"num_beams": 2, "output_scores": True} if case.mode == "beam" else {})}
    assume(not any(refused(family, spec) for spec in used))
    with vtokens.attach(target, "none") as handle, handle.using(used):
        together = target.generate(**case.batch(family), **options)
    for number, (given_, program) in enumerate(zip(rows, used, strict=True)):
        with vtokens.attach(target, program):
            single = target.generate(**given_, **options)
        if case.mode == "beam":
            close_pass(together.sequences_scores[number], single.sequences_scores[0], passes=2)
        else:
            alike([step[number][None] for step in together.logits], list(single.logits))


@pytest.mark.parametrize("options", [{"num_beams": 2, "num_return_sequences": 2}, {"num_beams": 3}])
def test_beams_and_returned_sequences_run_the_program_of_their_row(options: dict[str, Any]) -> None:
    check("llava", [0, 2], ["cls(keep=0.25)", "fastv(keep=0.25, layer=1)+vhr"], **options)


@pytest.mark.parametrize(
    "programs",
    [
        ["vcd", "none", "vcd"],
        ["cls(keep=0.3)+contrast", "contrast", "vhr"],
        ["m3id", "cls(keep=0.5)+m3id", "uniform(keep=0.5)"],
    ],
)
def test_rows_with_a_contrast_and_rows_without(programs: list[str]) -> None:
    """Rows without one are left as they are; others have their own strategies in the negative prompt too."""
    check("llava", [0, 1, 2], programs)


def test_text_lanes_of_different_programs_do_not_meet() -> None:
    """Two that compare with the text by itself, each with a weight of its own, beside one that does not."""
    check("llava", [0, 1, 2], ["vhr(divergence='two_branch')", "vhr(divergence='two_branch', alpha=1.3)", "vhr"])


def test_a_second_turn_goes_on_under_the_same_programs() -> None:
    target, _ = build("llava")
    first, programs = batch("llava", [0, 2]), ["cls(keep=0.25)+vhr", "fastv(keep=0.5, layer=2)"]
    more = torch.full((2, 3), 9)

    def turns(given: dict[str, Any], more: torch.Tensor) -> torch.Tensor:
        begun = target(**given, use_cache=True)
        mask = torch.cat([given["attention_mask"], torch.ones_like(more)], 1)
        return target(input_ids=more, attention_mask=mask, **as_cache(target, returned_cache(begun))).logits

    with vtokens.attach(target, "none") as handle, handle.using(programs):
        together = turns(first, more)
    for number, row in enumerate((0, 2)):
        with vtokens.attach(target, programs[number]):
            close_pass(together[number : number + 1], turns(batch("llava", [row]), more[:1]))


def test_a_wrong_number_of_rows_is_refused_and_nothing_is_left() -> None:
    target, given = build("llava")[0], batch("llava", [0, 1])
    target(**given, output_hidden_states=True)  # transformers leaves hooks of its own from then on
    clean = snapshot(target)
    with vtokens.attach(target, "cls(keep=0.25)") as handle:
        expected = target(**given).logits
        with handle.using(["none", "cls", "fastv"]):
            for options in ({}, {"num_beams": 3}):
                with pytest.raises(ValueError, match=r"3 programs were given, and the batch has [26] rows"):
                    target.generate(**given, max_new_tokens=2, **options)
            with pytest.raises(ValueError, match="3 programs"):
                target(**given)
        with handle.using(["none"]), pytest.raises(ValueError, match="1 programs were given, and the batch has 2 rows"):
            target(**given)
        assert torch.equal(target(**given).logits, expected)
    assert snapshot(target) == clean


@pytest.mark.parametrize(
    ("programs", "error"),
    [
        ([], "one for each row"),
        (["vcd", "m3id"], "different negative prompts, 'm3id"),
        (["dymu(thresholds=(0.2, 0.2, 0.2))", "none"], "merges tokens"),
        (["cls", "fastv(layer=99)"], "layer"),
        (["cls", "no_such"], "no_such"),
    ],
)
def test_what_rows_cannot_run_beside_each_other(programs: list[str], error: str) -> None:
    target, _ = build("llava")
    clean = snapshot(target)
    with vtokens.attach(target, "none") as handle:
        before = snapshot(target)
        with pytest.raises(ValueError, match=error), handle.using(programs):
            pass
        assert snapshot(target) == before
    assert snapshot(target) == clean


def test_one_spec_for_all_rows() -> None:
    target, given = build("llava")[0], batch("llava", [0, 1])
    with vtokens.attach(target, "none") as handle:
        with handle.using("cls(keep=0.25)"):
            got = target(**given).logits
        with handle.using(["cls(keep=0.25)"] * 2):
            assert torch.equal(target(**given).logits, got)
    with vtokens.attach(target, "cls(keep=0.25)"):
        assert torch.equal(target(**given).logits, got)
