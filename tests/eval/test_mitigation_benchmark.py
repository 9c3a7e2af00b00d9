"""What benchmarks/mitigation.py makes of replies, on replies whose figures are known beforehand."""

import copy
import json
from argparse import Namespace

import pytest
import torch

import vtokens
from benchmarks import mitigation_page, tables
from benchmarks.asking import ask
from benchmarks.common import Clock, conditions
from benchmarks.mitigation import PLANS, Plan, asked, kept_at, tabulate
from benchmarks.mitigation_look import row as margins_row
from benchmarks.mitigation_look import uncut
from benchmarks.mitigation_page import adjusted, changed, glance, rates, said, summary
from benchmarks.mitigation_recipes import again, asker, below, recipe_in
from benchmarks.mitigation_rows import LEFT_OUT, POOLED, STAGES, flips, mitigations, specs_on, table
from vtokens.eval.metrics import holm
from vtokens.recipes import parse_recipe
from vtokens.recipes.looking.registry import recipes
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
    assert all(dict(plan.questions).keys() == {"random", "popular", "adversarial"} for plan in [PLANS["scenes-llava"]])


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
    assert vcd["against"]["chair"]["length"]["high"] < 0
    assert var["against"]["same_replies"] == 1
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows


def test_answers_of_several_seeds_are_pooled(tmp_path):
    """Each model has its rows, and all of them together have rows of all their answers."""
    exam, cpu = PLANS["scenes-llava"].exam(7), torch.device("cpu")
    about = conditions(cpu, Clock(cpu, 1), vtokens.load("scenes-llava", strategy="none")[0], draws=[7])
    answers = {"scenes-llava": right, "runs/seed1": yes}
    for model, how in answers.items():
        for spec, told in (("none", right), ("vcd", how)):
            path = kept_at(tmp_path / "replies", model, 7, spec)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"spec": spec, "draw": 7, "about": about, **cell(exam, told)}))
    options = Namespace(pooled=list(answers), replies=tmp_path / "replies", output=tmp_path / "out")
    tabulate(options)
    rows = {(row["model"], row["strategy"]): row for row in tables.read(tmp_path / "out")["rows"]}
    falls = sum(e.answer == "no" for e in exam if e.kind == "pope_adversarial")
    for model, lost, asked_of in (("scenes-llava", 0, 100), ("seed1", falls, 100), (POOLED, falls, 200)):
        row = rows[model, "vcd"]
        assert row["pope"]["adversarial"]["n"] == asked_of
        assert row["against"]["pope"]["adversarial"]["accuracy"]["only_b"] == lost
    assert rows[POOLED, "vcd"]["draws"] == ["scenes-llava 7", "seed1 7"]
    first, _, plain, vcd, _, told = mitigation_page.seeds(tables.read(tmp_path / "out")).splitlines()
    assert first.startswith("| | `scenes-llava` | `seed1` | together |")
    assert plain.startswith("| `none` | 1.000 | 1.000 | 1.000 |")
    share = 1 - falls / 100
    assert vcd.startswith(f"| `vcd` | 1.000 | {share:.3f} | {(1 + share) / 2:.3f} † |")
    assert vcd.endswith("| hurts † |")
    assert told == "2 models, 200 adversarial questions and 120 captions together."


def test_replies_of_other_weights_do_not_count(tmp_path):
    """A folder whose model was trained anew has the name that it had."""
    texts = cell(PLANS["scenes-llava"].exam(7), right)
    for spec, weights in (("none", "a"), ("vcd", "b")):
        path = kept_at(tmp_path, "seed1", 7, spec)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"spec": spec, "draw": 7, "about": {"weights": weights}, **texts}))
        if spec == "none":
            assert {*asked(tmp_path, "seed1", "a")} == {"none"}
            with pytest.raises(ValueError, match=r"replies of seed1 .* are of other weights than these: delete them"):
                asked(tmp_path, "seed1", "b")
    with pytest.raises(ValueError, match="of other weights"):
        asked(tmp_path, "seed1")


def test_a_pruner_is_compared_with_the_plain_model_and_what_is_behind_it_with_the_pruner(exams):
    cells = {"none": {7: cell(exams[7], right)}, "cls": {7: cell(exams[7], no)}, "cls+vcd": {7: cell(exams[7], no)}}
    pruner, behind = table(["cls", "cls+vcd"], "cls", cells, exams)
    assert pruner["flips"] == dict.fromkeys(pruner["flips"], 0) | {"lost": there(exams[7])}
    assert behind["flips"] == dict.fromkeys(behind["flips"], 0)
    assert pruner["against"]["chair"]["length"]["value"] == 1


def test_flips_by_hand(exams):
    exam = exams[7]
    ours, theirs = [yes(e) for e in exam], [no(e) for e in exam]
    yeses, none = there(exam), dict.fromkeys(flips(exam, ours, ours), 0)
    assert flips(exam, ours, theirs) == none | {"made up": 24 - yeses, "found": yeses}
    assert flips(exam, theirs, ours) == none | {"no longer made up": 24 - yeses, "lost": yeses}
    assert flips(exam, [""] * len(exam), ours)["neither"] == 24


@pytest.fixture(scope="module")
def rows(exams):
    """Of one draw: right answers, yes to everything, no to everything."""
    cells = {spec: {7: cell(exams[7], how)} for spec, how in (("none", right), ("vcd", yes), ("var", no))}
    return table(["none", "vcd", "var"], "none", cells, exams)


def test_all_p_values_of_a_table_are_adjusted_together(rows):
    tests = [test["accuracy"] for row in rows[1:] for test in row["against"]["pope"].values()]
    tests += [row["against"]["pope"]["adversarial"]["says_yes"] for row in rows[1:]]
    tests += [row["against"]["chair"]["chair_s"] for row in rows[1:]]
    assert len(tests) == 10
    adjusted(rows)
    assert [test["holm"] for test in tests] == pytest.approx(holm([test["p_value"] for test in tests]))


def test_a_summary_is_of_what_is_significant():
    def row(accuracy=0, chair_s=0, recall=0.0, f1=0.0, same=0.5):
        def test(sign):
            return {
                "only_a": 20 * (sign > 0),
                "only_b": 20 * (sign < 0),
                "p_value": 0.01,
                "holm": 0.02 if sign else 0.5,
            }

        def interval(high):
            return {"value": high - 0.01, "low": high - 0.02, "high": high}

        hard = {"accuracy": test(accuracy), "says_yes": test(-1), "f1": interval(f1)}
        chair = {
            "chair_s": test(chair_s),
            "recall": interval(recall),
            "chair_i": interval(-0.5),
            "length": interval(-1),
        }
        return {"against": {"same_replies": same, "pope": {"adversarial": hard}, "chair": chair}}

    assert summary({}) == ""
    assert summary(row()) == summary(row(recall=-0.009)) == "nothing shown"
    assert summary(row(same=1)) == "same answers"
    assert summary(row(accuracy=1)) == summary(row(chair_s=1)) == "**helps**"
    assert summary(row(accuracy=-1)) == summary(row(recall=-0.011)) == summary(row(f1=-0.02)) == "hurts †"
    assert summary(row(accuracy=1, recall=-0.05)) == summary(row(accuracy=-1, chair_s=1)) == "trades"
    assert [changed(row(), name) for name in ("says_yes", "chair_i", "accuracy")] == [-1, -1, 0]
    assert changed(row(accuracy=1), "accuracy", "popular") == 0  # which was not asked


def test_marks_of_the_page(rows):
    plain, vcd, _ = glance(adjusted(rows), {}).splitlines()[2:]
    told = rows[1]["pope"]["adversarial"]
    assert plain.startswith("| `none` | 24 / 10 | 1.000 | 1.000 |")
    figures = f"{told['accuracy']['value']:.3f} † | {told['f1']['value']:.3f} ↓ | 1.000 ↑"
    assert vcd.startswith(f"| `vcd` | 24 / 10 | {figures} | 0.000 | - | 0.000 ↓ | 0.00 ↓ | hurts † |")
    cost = {"prefill": {"over_plain": {"median": 2.0912}}, "token": {"over_plain": {"median": 1.4}}}
    assert "| text | 2.09, 1.40 |" in glance(rows, {"vcd": cost})
    refused = {"strategy": "cls+vhr", "base": "cls", "refused": "it cannot"}
    assert glance([refused], {}).splitlines()[2].startswith("| `vhr` | - |")
    assert said([refused]).count("\n") == 2


def test_how_often_yes_is_said_to_what_is_there_and_to_what_is_not(rows):
    assert [rates(row) for row in rows] == [pytest.approx(two) for two in ((1, 0), (1, 1), (0, 0))]


def test_a_method_is_shown_once_where_most_was_asked(rows, tmp_path, monkeypatch):
    none, vcd, var = (row | {"model": "m"} for row in copy.deepcopy(rows))
    more = copy.deepcopy([none, vcd])
    for row in more:
        row["pope"]["adversarial"]["n"] = 48
    for name, part in (("small", [none, vcd, var]), ("large", more)):
        tables.write(tmp_path / name, {"conditions": {"x": 1}, "rows": part})
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    monkeypatch.setattr(mitigation_page, "RESULTS", tmp_path)
    monkeypatch.setattr(mitigation_page, "EXAMS", {"m": ("small", "large", "not there")})
    shown = mitigation_page.gathered("m", "none")
    assert [(row["strategy"], mitigation_page.asked(row)[0]) for row in shown] == [
        ("none", 24),
        ("var", 24),
        ("none", 48),
        ("vcd", 48),
    ]


def test_margins_that_part_and_margins_that_lean(exams):
    exam = [e for e in exams[7] if e.kind == "pope_adversarial"]
    sure = margins_row("m", "none", [3.0 if e.answer == "yes" else 2.0 for e in exam], exam)
    assert sure["auroc"]["value"] == sure["says_yes"]["missing"]["value"] == 1  # parts both, and says yes to both
    assert (sure["margins"]["there"]["middle"], sure["margins"]["missing"]["high"]) == (3, 2)
    assert [getattr(one, "beta", None) for one in uncut("cls(keep=0.5)+vcd")] == [None, 0]
    assert uncut("act") == [*parse("act")]  # whose beta is no cut


def test_what_is_kept_is_found_by_spec_and_draw(tmp_path):
    path = kept_at(tmp_path, "scenes-llava", 7, "cls(keep=0.25)+contrast(branch='cls(keep=0.1)')")
    path.parent.mkdir(parents=True)
    kept = {"spec": "x", "draw": 7, "texts": [""] * 260}
    path.write_text(json.dumps(kept), encoding="utf-8")
    assert asked(tmp_path, "scenes-llava") == {"x": {7: kept}}
    assert asked(tmp_path, "scenes-smol") == {}
    for other in ({"texts": [""] * 259}, {"plan": repr(PLAN)}):  # of another exam
        path.write_text(json.dumps(kept | other), encoding="utf-8")
        assert asked(tmp_path, "scenes-llava") == {}


def test_every_recipe_is_a_row_with_its_passes(exams):
    assert {one.split("(")[0] for one in again()} == {*recipes(), "opera"}
    assert not {*recipes(), "opera"} & {*list_strategies()}
    assert specs_on("census(keep=0.25)")[-1] == "census(keep=0.25)+opera"
    two = [(recipe_in(spec), below(spec)) for spec in ("crop(method='gradient')", "cls(keep=0.25)+crop", "cls+vcd")]
    assert two == [("crop(method='gradient')", "none"), ("crop", "cls(keep=0.25)"), (None, "cls+vcd")]
    cells = {"cls": {7: cell(exams[7], right)}, "cls+crop": {7: cell(exams[7], yes) | {"passes": 3.0}}}
    [_, row] = table(["cls", "cls+crop"], "cls", cells | {"none": cells["cls"]}, exams)
    line = glance(adjusted([row]), {}).splitlines()[2]
    assert row["passes"] == 3
    assert line.startswith("| `crop` | 24 / 10 |")
    assert line.endswith("| text | 3 passes |")


def test_a_recipe_asks_one_by_one_and_goes_on_where_it_was(tmp_path, shipped):
    model, processor = shipped
    exam = Plan("float32", (("adversarial", 2),), 1, 1, None).exam(3)
    asking = asker(model, processor, "crop", tmp_path / "album", None)
    expected = [parse_recipe("crop")(model, processor, e.image, e.question) for e in exam]
    kept = tmp_path / "kept.jsonl"
    first = ask(model, processor, "none", exam[:2], 2, journal=kept, again=asking)
    whole = ask(model, processor, "none", exam, 2, journal=kept, again=asking)
    assert first.texts == whole.texts[:2]
    assert whole.texts == [one.text for one in expected]
    assert whole.figures == {"passes": 3}
    assert whole.tokens == [288] * 3
