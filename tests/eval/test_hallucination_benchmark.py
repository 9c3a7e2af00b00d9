"""What benchmarks/hallucination.py makes of replies, on replies whose figures are known beforehand."""

import dataclasses
import json

import pytest

import vtokens
from benchmarks.asking import ask, journal_at
from benchmarks.hallucination import cells, remembered
from benchmarks.hallucination_rows import adjust_together, against, make_row, partners
from vtokens.eval.hallucination import exam
from vtokens.eval.metrics import holm, mcnemar
from vtokens.scenes import PAIRS


@pytest.fixture(scope="module")
def asked():
    """Twelve questions a setting and eight captions, all with a trigger whose partner is missing."""
    return exam("partner-removed", questions=12, captions=8, seed=4)


def right(asked):
    return [e.answer for e in asked]


def test_right_replies(asked):
    row = make_row(asked, right(asked), None)
    for figures in row["pope"].values():
        assert figures["accuracy"]["value"] == figures["f1"]["value"] == 1
    assert row["chair"]["chair_i"]["value"] == row["chair"]["unread"] == 0
    assert row["chair"]["recall"]["value"] == 1
    assert "against" not in row
    assert json.loads(json.dumps(row, allow_nan=False)) == row


def test_the_same_replies_differ_in_nothing(asked):
    found = against(asked, right(asked), right(asked))
    assert found["same_replies"] == 1
    for tests in found["pope"].values():
        assert (tests["accuracy"]["p_value"], tests["says_yes"]["p_value"], tests["f1"]["value"]) == (1, 1, 0)
    assert found["chair"]["length"]["high"] == found["chair"]["chair_s"]["only_a"] == 0


def test_against_by_hand(asked):
    """Theirs say yes to everything and name one thing too many; ours are right."""
    lie = " , red circle" if not any("red circle" in e.answer for e in asked if e.kind == "caption") else " , cyan ring"
    theirs = [e.answer + lie if e.kind == "caption" else "yes" for e in asked]
    found, row = against(asked, right(asked), theirs), make_row(asked, theirs, None)
    for setting, tests in found["pope"].items():
        truths = [e.answer == "yes" for e in asked if e.kind == f"pope_{setting}"]
        no = truths.count(False)
        assert tests["accuracy"] == dataclasses.asdict(mcnemar([True] * 12, truths))
        assert (tests["accuracy"]["only_a"], tests["says_yes"]["only_b"]) == (no, no)
        assert tests["f1"]["value"] == pytest.approx(1 - 2 * (12 - no) / (24 - no))
        assert row["pope"][setting]["accuracy"]["value"] == pytest.approx(1 - no / 12, abs=1e-6)
    wrong = sum(lie.removeprefix(" , ") not in e.answer for e in asked if e.kind == "caption")
    assert found["chair"]["chair_s"]["only_a"] == wrong > 0
    assert found["chair"]["length"]["value"] == -1
    assert row["chair"]["repeats"] == pytest.approx(1 - wrong / 8)
    assert found["chair"]["recall"]["value"] == 0
    assert found["chair"]["chair_i"]["value"] == pytest.approx(-row["chair"]["chair_i"]["value"], abs=1e-6)


def test_missing_partners_are_counted_by_dose(asked):
    yes = ["yes" if e.kind != "caption" else "purple diamond" for e in asked]
    rows = partners(asked, yes)
    assert [row["dose"] for row in rows] == [pair.dose for pair in PAIRS]
    assert sum(row["says_yes"]["n"] for row in rows if row["says_yes"]) == sum(
        e.kind == "pope_adversarial" and e.answer == "no" for e in asked
    )
    assert {row["says_yes"]["value"] for row in rows if row["says_yes"]} == {1.0}
    named = {row["partner"]: row["names_it"]["value"] for row in rows if row["names_it"]}
    assert named == {name: float(name == "purple diamond") for name in named}


def test_settings_that_were_not_asked_have_no_figures(asked):
    part = [e for e in asked if e.kind != "pope_popular"]
    row = make_row(part, right(part), right(part))
    assert list(row["pope"]) == list(row["against"]["pope"]) == ["random", "adversarial"]
    assert adjust_together([row])[0]["against"]["pope"]["random"]["accuracy"]["holm"] == 1


def test_a_run_that_was_stopped_goes_on_behind_its_last_batch(asked, tmp_path):
    model, processor = vtokens.load("scenes-llava", "none")
    part, path = asked[:6], journal_at(tmp_path / "replies", spec="cls", split="test")
    assert path == journal_at(tmp_path / "replies", split="test", spec="cls")
    assert path != journal_at(tmp_path / "replies", split="test", spec="fastv")
    whole = ask(model, processor, "cls(keep=0.5)", part, 4)
    kept = ask(model, processor, "cls(keep=0.5)", part, 4, journal=path)
    assert (kept.texts, kept.tokens) == (whole.texts, whole.tokens)
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first.replace(kept.texts[0].encode(), b"as it was kept", 1) + second[:10])  # killed while it wrote
    again = ask(model, processor, "cls(keep=0.5)", part, 4, journal=path)
    assert again.texts == ["as it was kept", *whole.texts[1:]]
    assert path.read_bytes().count(b"\n") == 2


def test_p_values_are_adjusted_together(asked):
    theirs = ["yes" if e.kind != "caption" else "" for e in asked]
    rows = [make_row(asked, right(asked), None)] + [make_row(asked, right(asked), theirs) for _ in range(2)]
    found = adjust_together(rows)
    tests = [row["against"]["pope"][s]["accuracy"] for row in found[1:] for s in ("random", "popular", "adversarial")]
    tests += [row["against"]["chair"]["chair_s"] for row in found[1:]]
    assert [t["holm"] for t in tests] == pytest.approx(holm([t["p_value"] for t in tests]), abs=1e-5)


def test_cells_and_what_they_are_compared_with():
    class Options:
        bases, extras, alone = ["none", "cls(keep=0.25)"], ["var"], ["dymu"]

    assert cells(Options) == [
        ("none", None),
        ("var", "none"),
        ("cls(keep=0.25)", "none"),
        ("cls(keep=0.25)+var", "cls(keep=0.25)"),
        ("dymu", "none"),
    ]
    Options.bases = ["cls(keep=0.25)"]
    assert cells(Options) == [("cls(keep=0.25)", None), ("cls(keep=0.25)+var", "cls(keep=0.25)"), ("dymu", None)]


def test_a_cell_is_asked_once(tmp_path):
    identity, calls = {"spec": "fastv(keep=0.25)+var", "split": "test", "seed": 1}, []

    def run():
        calls.append(1)
        return {"texts": ["yes"], "tokens": 36.0, "seconds": 0.1}

    first = remembered(tmp_path, identity, run)
    assert remembered(tmp_path, identity, run) == first
    assert len(calls) == 1
    remembered(tmp_path, {**identity, "seed": 2}, run)
    assert len(calls) == 2
    with pytest.raises(KeyboardInterrupt):
        remembered(tmp_path, {**identity, "seed": 3}, lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    assert remembered(tmp_path, {**identity, "seed": 2}, run) == first
    assert len(calls) == 2
