"""What benchmarks/mitigation.py makes of replies, on replies whose figures are known beforehand."""

import json

import pytest

from benchmarks.mitigation import LEFT_OUT, PLANS, STAGES, Plan, asked, kept_at, mitigations, specs_on
from benchmarks.mitigation_page import change, glance, summary, verdict
from benchmarks.mitigation_rows import adjusted, flips, signs, table
from vtokens.eval.metrics import holm, mcnemar
from vtokens.strategies import parse
from vtokens.strategies.registry import describe, list_strategies

PLAN = Plan("float32", (("random", 4), ("popular", 4), ("adversarial", 24)), 10, 8, None)


@pytest.fixture(scope="module")
def exams():
    return {draw: PLAN.exam(draw) for draw in (7, 8)}


def cell(exam, answer):
    return {"texts": [answer(e) for e in exam], "tokens": 36.0}


def right(e):
    return e.answer


def yes(e):
    """Yes to everything, and captions that name nothing."""
    return "" if e.kind == "caption" else "yes"


def no(e):
    """No to everything, and captions with an object too many."""
    return f"{e.answer} , red circle" if e.kind == "caption" else "no"


def there(exam):
    """How many adversarial questions ask for something that is there."""
    return sum(e.kind == "pope_adversarial" and e.answer == "yes" for e in exam)


def test_every_strategy_that_changes_what_is_said_is_measured_or_left_out_for_a_reason():
    acting = {name for name in list_strategies() if STAGES & {*describe(name).stages}}
    assert {parse(spec)[0].name for spec in mitigations()} == acting - {*LEFT_OUT}
    assert {*LEFT_OUT} <= acting
    assert specs_on("none")[:1] == ["none"]
    assert specs_on("cls(keep=0.25)", ["vcd"]) == ["cls(keep=0.25)", "cls(keep=0.25)+vcd"]


def test_an_exam_is_the_same_for_a_draw_and_another_for_another(exams):
    kinds = [e.kind for e in exams[7]]
    assert (kinds.count("pope_adversarial"), kinds.count("caption"), len(kinds)) == (24, 10, 42)
    assert [e.question for e in PLAN.exam(7)] == [e.question for e in exams[7]] != [e.question for e in exams[8]]
    assert all(dict(plan.questions).keys() == {"random", "popular", "adversarial"} for plan in PLANS.values())


def test_draws_are_pooled_and_compared_with_the_base(exams):
    cells = {
        "none": {draw: cell(exam, right) for draw, exam in exams.items()},
        "vcd": {draw: cell(exam, yes) for draw, exam in exams.items()},
        "var": {7: cell(exams[7], right)},
        "pai": {draw: {"refused": "it cannot"} for draw in exams},
    }
    rows = table(["none", "vcd", "var", "pai", "m3id"], "none", cells, exams)
    plain, vcd, var, pai = rows  # m3id has not been asked
    assert [row.get("draws") for row in rows] == [[7, 8], [7, 8], [7], None]
    assert pai["refused"] == "it cannot"
    truths = [e.answer == "yes" for draw in exams for e in exams[draw] if e.kind == "pope_adversarial"]
    assert plain["pope"]["adversarial"]["accuracy"]["value"] == 1
    assert vcd["pope"]["adversarial"]["accuracy"]["n"] == len(truths) == 48
    accuracy = vcd["against"]["pope"]["adversarial"]["accuracy"]
    assert (accuracy["only_a"], accuracy["only_b"]) == (0, truths.count(False))
    assert vcd["flips"] == dict.fromkeys(vcd["flips"], 0) | {"made up": truths.count(False)}
    assert [part["recall"] for part in vcd["by_draw"]] == [0, 0]
    assert vcd["against"]["signs"]["length"]["only_b"] == 20
    assert var["against"]["same_replies"] == 1
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows


def test_a_pruner_is_compared_with_the_plain_model_and_what_is_behind_it_with_the_pruner(exams):
    cells = {"none": {7: cell(exams[7], right)}, "cls": {7: cell(exams[7], no)}, "cls+vcd": {7: cell(exams[7], no)}}
    pruner, behind = table(["cls", "cls+vcd"], "cls", cells, exams)
    assert pruner["flips"] == dict.fromkeys(pruner["flips"], 0) | {"lost": there(exams[7])}
    assert behind["flips"] == dict.fromkeys(behind["flips"], 0)
    assert pruner["against"]["signs"]["length"]["only_a"] == 10


def test_flips_and_signs_by_hand(exams):
    exam = exams[7]
    ours, theirs = [yes(e) for e in exam], [no(e) for e in exam]
    yeses, none = there(exam), dict.fromkeys(flips(exam, ours, ours), 0)
    assert flips(exam, ours, theirs) == none | {"made up": 24 - yeses, "found": yeses}
    assert flips(exam, theirs, ours) == none | {"no longer made up": 24 - yeses, "lost": yeses}
    assert flips(exam, [""] * len(exam), ours)["neither"] == 24
    found = signs(exam, ours, theirs)
    assert (found["length"]["only_a"], found["length"]["only_b"]) == (0, 10)
    assert found["length"]["p_value"] == pytest.approx(2 / 2**10)
    invented = sum("red circle" not in e.answer for e in exam if e.kind == "caption")
    assert (found["invented"]["only_a"], found["invented"]["only_b"]) == (0, invented)


@pytest.fixture(scope="module")
def rows(exams):
    """Of one draw: right answers, yes to everything, no to everything."""
    cells = {spec: {7: cell(exams[7], how)} for spec, how in (("none", right), ("vcd", yes), ("var", no))}
    return table(["none", "vcd", "var"], "none", cells, exams)


def test_all_p_values_of_a_table_are_adjusted_together(rows):
    tests = [test["accuracy"] for row in rows[1:] for test in row["against"]["pope"].values()]
    tests += [row["against"]["pope"]["adversarial"]["says_yes"] for row in rows[1:]]
    tests += [test for row in rows[1:] for test in row["against"]["signs"].values()]
    assert len(tests) == 14
    assert sorted(t["holm"] for t in tests) == pytest.approx(sorted(holm([t["p_value"] for t in tests])), rel=1e-4)
    assert adjusted([{"strategy": "none"}]) == [{"strategy": "none"}]


def test_marks_of_the_page(rows):
    def against(**signs_of):
        same, better, worse = mcnemar([True], [True]), {"only_a": 20, "only_b": 0}, {"only_a": 0, "only_b": 20}
        row = {"accuracy": vars(same), "says_yes": vars(same)}
        found = {"same_replies": 0.5, "pope": {name: dict(row) for name in ("random", "popular", "adversarial")}}
        found["signs"] = {name: vars(same) for name in ("invented", "recall", "length")}
        for name, more in signs_of.items():
            place = found["signs"] if name in found["signs"] else found["pope"]["adversarial"]
            place[name] = {**(better if more else worse), "holm": 0.001}
        for test in [*found["signs"].values(), *(t for part in found["pope"].values() for t in part.values())]:
            test.setdefault("holm", 1.0)
        return {"against": found}

    assert (verdict(against(invented=True), "invented"), change(against(invented=True), "invented")) == (-1, 1)
    assert summary(against(accuracy=True)) == summary(against(invented=False)) == "**helps**"
    assert summary(against(accuracy=False)) == summary(against(recall=False, length=True)) == "hurts †"
    assert summary(against(accuracy=True, recall=False)) == "trades"
    assert summary(against(length=True)) == summary(against(says_yes=False)) == ""
    plain, vcd, _ = glance([{**row, "evidence": "text"} for row in rows], {}).splitlines()[2:]
    told = rows[1]["pope"]["adversarial"]
    assert plain.startswith("| `none` | 1.000 | 1.000 |")
    assert f"| {told['accuracy']['value']:.3f} † | {told['f1']['value']:.3f} | 1.000 ↑ |" in vcd
    assert vcd.endswith("| hurts † | text | - |")


def test_what_is_kept_is_found_by_spec_and_draw(tmp_path):
    path = kept_at(tmp_path, "scenes-llava", 7, "cls(keep=0.25)+contrast(branch='cls(keep=0.1)')")
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"spec": "x", "draw": 7, "texts": []}), encoding="utf-8")
    assert asked(tmp_path, "scenes-llava") == {"x": {7: {"spec": "x", "draw": 7, "texts": []}}}
    assert asked(tmp_path, "scenes-smol") == {}
