"""What the report computes, on cases small enough to work out by hand."""

import dataclasses
import math

import numpy as np
import pytest
from PIL import Image

from vtokens.eval.metrics.paired import holm, mcnemar
from vtokens.report import palette
from vtokens.report.answers import Answers, GivenAnswer, Question
from vtokens.report.charts import ChartMark, against_speed, against_tokens, apart, pareto, summary_charts
from vtokens.report.findings import findings, least, podiums
from vtokens.report.flips import Flip, draw, flips, pick, spread
from vtokens.report.phases import bars_of
from vtokens.report.pictures import caption, drawn, shown
from vtokens.report.relative import average, averaged, table
from vtokens.report.results import NAN, Cost, Metric, Results, Score, StrategyAtKeep
from vtokens.report.scatter import panel
from vtokens.report.text import breaks, figure, p_text, share, signed

VQA, CHAIR = Metric("vqa", "exact", 1, True), Metric("caption", "chair_s", -1, True)


def setting(name, keep, exact, chair, speedup, p=NAN, kept=72.0):
    cost = Cost(kept, 144.0, 0.5, 0.4, 4e-3, 1e-3, 6e-3, 2e-3, speedup, speedup, speedup)
    scores = {
        ("vqa", "exact"): Score(exact, exact - 0.05, exact + 0.05, 500, 1, p),
        ("caption", "chair_s"): Score(chair, chair, chair, 500, 1, NAN),
    }
    return StrategyAtKeep(name, keep, (name,), scores, {"vqa": cost, "caption": cost})


def results(*settings):
    return Results(None, {}, settings, (VQA, CHAIR), (VQA, CHAIR), {}, ())


@pytest.fixture
def four(tmp_path):
    return results(
        setting("none", None, 0.8, 0.1, 1.0, kept=144.0),
        setting("cls", 0.5, 0.76, 0.2, 1.5, p=0.2),
        setting("fastv", 0.5, 0.84, 0.05, 1.2, p=0.01),
        setting("cls", 0.1, 0.4, 0.6, 3.0, p=0.001),
    )


def marks(*pairs):
    return [ChartMark(StrategyAtKeep(str(n), None), x, y, NAN, NAN) for n, (x, y) in enumerate(pairs)]


def test_the_pareto_front_keeps_what_nothing_beats():
    points = marks((1, 0.9), (2, 0.8), (1.5, 0.7), (3, 0.5), (3, 0.4), (2, 0.8))
    assert [(m.x, m.value) for m in pareto(points, 1)] == [(1, 0.9), (2, 0.8), (3, 0.5)]
    assert [(m.x, m.value) for m in pareto(points, -1)] == [(3, 0.4)]
    assert pareto(points, 0) == ()


def test_no_point_of_a_front_is_beaten_and_every_other_is():
    rng = np.random.default_rng(0)
    points = marks(*rng.integers(0, 8, (60, 2)).tolist())
    front = pareto(points, 1)
    for mark in points:
        beaten = any(
            (o.x >= mark.x and o.value > mark.value) or (o.x > mark.x and o.value >= mark.value) for o in points
        )
        assert any((mark.x, mark.value) == (f.x, f.value) for f in front) != beaten


def test_percentages_are_of_none_and_where_less_is_better_there_are_differences(four):
    rows = {row.setting.label: row for row in table(four)}
    assert list(rows) == ["none", "cls 0.5", "fastv 0.5", "cls 0.1"]
    exact, chair = rows["cls 0.5"].entries
    assert exact.percent == pytest.approx(95.0)
    assert exact.change == pytest.approx(-0.04)
    assert math.isnan(chair.percent)
    assert chair.change == pytest.approx(0.1)
    assert rows["cls 0.5"].average == pytest.approx(95.0)  # captions are left out
    assert averaged(four) == [VQA]
    assert [rows[name].leads for name in rows] == [True, True, False, True]


def test_the_best_of_a_keep_and_significance_are_marked(four):
    rows = {row.setting.label: row for row in table(four)}
    assert [entry.best for entry in rows["fastv 0.5"].entries] == [True, True]
    assert [entry.best for entry in rows["cls 0.5"].entries] == [False, False]
    assert not any(entry.best for entry in rows["cls 0.1"].entries)  # alone at its keep
    told = {name: (row.entries[0].worse, row.entries[0].better) for name, row in rows.items()}
    assert told == {
        "none": (False, False), "cls 0.5": (False, False), "fastv 0.5": (False, True), "cls 0.1": (True, False),
    }  # fmt: skip


def test_more_of_what_should_be_less_is_worse():
    base = setting("none", None, 0.8, 0.1, 1.0)
    more = setting("cls", 0.5, 0.8, 0.3, 1.5)
    where = ("caption", "chair_s")
    more.scores[where] = Score(0.3, 0.3, 0.3, 500, 1, 0.001)
    entry = table(results(base, more))[1].entries[1]
    assert (entry.worse, entry.better) == (True, False)


def test_an_average_needs_every_task(four):
    ocr = Metric("ocr", "exact", 1, True)
    for number, part in enumerate(four.settings):
        if number != 1:
            part.scores["ocr", "exact"] = part.scores["vqa", "exact"]
    three = Results(None, {}, four.settings, (VQA, CHAIR, ocr), (VQA, CHAIR, ocr), {}, ())
    rows = table(three)
    assert math.isnan(rows[1].average)
    assert rows[1].entries[2] is None
    assert rows[2].average == pytest.approx(105.0)


def test_tints_grow_with_the_loss(four):
    rows = {row.setting.label: row for row in table(four)}
    assert rows["cls 0.1"].entries[0].loss == pytest.approx(1.0)  # half of the value lost
    assert rows["cls 0.5"].entries[0].loss == pytest.approx(0.1)
    assert rows["cls 0.5"].entries[1].loss == pytest.approx(0.2)  # 10 points more
    assert rows["fastv 0.5"].entries[0].loss == 0
    assert rows["fastv 0.5"].entries[1].loss == 0


def test_without_none_nothing_is_relative():
    alone = results(setting("cls", 0.5, 0.7, 0.2, NAN))
    assert [math.isnan(row.average) for row in table(alone)] == [True]
    assert findings(alone, table(alone)) == []
    assert podiums(table(alone)) == []
    assert summary_charts(alone) is None
    assert flips(alone, Answers((), 0, {}, 0, 0)) == []


def test_none_that_scores_nothing_has_no_percentages():
    zero = results(setting("none", None, 0.0, 0.1, 1.0), setting("cls", 0.5, 0.2, 0.1, 1.5))
    assert math.isnan(table(zero)[1].entries[0].percent)
    assert averaged(zero) == []
    assert math.isnan(average(zero, zero.settings[1]))


def test_findings_name_the_fastest_that_qualifies(four):
    same, near = findings(four, table(four))
    assert same.label == "cls 0.5"  # fastv differs, but for the better; it is slower
    assert "on 1 task with 500 questions or more each" in same.text
    assert "First token 1.50 times sooner, 40% of the KV cache, 95.0% of none." in same.text
    assert near.label == "cls 0.5"
    (podium,) = podiums(table(four))
    assert [row.setting.label for row in podium.rows] == ["fastv 0.5", "cls 0.5"]


def test_findings_say_so_where_nothing_qualifies():
    bad = results(setting("none", None, 0.8, 0.1, 1.0), setting("cls", 0.1, 0.2, 0.5, 2.0, p=0.001))
    same, near = findings(bad, table(bad))
    assert (same.label, near.label) == (None, None)
    assert near.text == "No pruned setting reaches 95% of the unpruned model on average."


@pytest.mark.parametrize("tests", [1, 2, 3, 9, 10, 60, 500])
def test_what_the_least_number_of_questions_can_see(tests):
    """A loss of 5% is significant after Holm's correction by the worst of the tests, and one question less is not."""
    lost = round(0.05 * least(tests))
    worst = [mcnemar([True] * lost, [False] * lost).p_value] + [1.0] * (tests - 1)
    assert holm(worst)[0] < 0.05
    one_less = [mcnemar([True] * (lost - 1), [False] * (lost - 1)).p_value] + [1.0] * (tests - 1)
    assert holm(one_less)[0] >= 0.05


@pytest.mark.parametrize(("n", "seeds", "few"), [(1, 1, 1), (4, 1, 4), (12, 3, 4), (119, 1, 119), (300, 3, 100)])
def test_too_few_questions_claim_nothing(n, seeds, few):
    """Neither that nothing was lost nor that 95% was kept, however good the figures look."""
    base, same = setting("none", None, 1.0, 0.0, 1.0), setting("cls", 0.5, 1.0, 0.0, 2.0, p=1.0)
    for part in (base, same):
        score = part.scores["vqa", "exact"]
        part.scores["vqa", "exact"] = dataclasses.replace(score, n=n, seeds=seeds)
    small = results(base, same)
    (only,) = findings(small, table(small))
    assert (only.title, only.label) == ("Too few questions", None)
    assert only.text.startswith(f"A task has {few} question{'' if few == 1 else 's'}: ")
    assert "With 1 comparison it takes 120 of a task to see a loss of 5%." in only.text
    same.scores["vqa", "exact"] = dataclasses.replace(same.scores["vqa", "exact"], n=120, seeds=1)
    assert [found.label for found in findings(small, table(small))] == ["cls 0.5", "cls 0.5"]


@pytest.mark.parametrize("speedup", [0.63, 0.99, 1.0, 1.004])
def test_nothing_is_called_faster_that_is_not(speedup):
    """A setting that loses nothing and takes as long, or longer, is no finding of speed."""
    slow = results(setting("none", None, 0.8, 0.1, 1.0), setting("cls", 0.5, 0.8, 0.1, speedup, p=1.0))
    same, near = findings(slow, table(slow))
    assert (same.label, near.label) == (None, None)
    for found in (same, near):
        assert found.text.startswith("No setting ")
        assert "is faster than none: cls 0.5 comes nearest" in found.text
        assert f"after {1 / speedup:.2f} times as long" in found.text
        assert "sooner" not in found.text
        assert "fastest" not in found.text


def test_charts_hold_what_was_measured(four):
    chart = against_tokens(four, VQA)
    assert [(m.setting.label, m.x, m.value) for m in chart.marks][1] == ("cls 0.5", 72.0, 0.76)
    assert chart.baseline.setting is four.settings[0]
    assert not chart.log
    assert chart.front == ()
    speed = against_speed(four, CHAIR)
    assert [mark.setting.label for mark in speed.front] == ["fastv 0.5", "cls 0.5", "cls 0.1"]
    tokens, _ = summary_charts(four)
    assert [round(m.x) for m in tokens.marks] == [100, 50, 50, 50]
    assert [m.value for m in tokens.marks] == pytest.approx([100, 95, 105, 50])


def test_gaps_are_not_drawn(four):
    gap = setting("todre", 0.5, NAN, 0.2, 2.0)
    slow = setting("uniform", 0.5, 0.5, 0.2, NAN)
    more = results(*four.settings, gap, slow)
    assert "todre 0.5" not in [m.setting.label for m in against_tokens(more, VQA).marks]
    assert "uniform 0.5" in [m.setting.label for m in against_tokens(more, VQA).marks]
    assert "uniform 0.5" not in [m.setting.label for m in against_speed(more, VQA).marks]


def test_a_wide_range_of_tokens_is_logarithmic(four):
    wide = results(*four.settings, setting("cls", 0.05, 0.3, 0.6, 3.0, kept=7.0))
    drawing = panel(against_tokens(wide, VQA), palette.styles(wide.names))
    assert drawing.chart.log
    assert [text for _, text in drawing.x_ticks] == ["10", "20", "50", "100"]
    gaps = np.diff([x for x, _ in drawing.x_ticks])
    assert gaps[0] == pytest.approx(gaps[2], abs=0.2)  # 10 to 20 is as far as 50 to 100


def test_more_is_right_and_up(four):
    drawing = panel(against_speed(four, VQA), palette.styles(four.names))
    dots = {dot.mark.setting.label: dot for dot in drawing.dots}
    assert dots["none"].x < dots["fastv 0.5"].x < dots["cls 0.5"].x < dots["cls 0.1"].x
    assert dots["fastv 0.5"].y < dots["none"].y < dots["cls 0.5"].y < dots["cls 0.1"].y
    assert all(dot.high < dot.y < dot.low for dot in dots.values())
    one = next(x for x, text in drawing.x_ticks if text == "1")
    assert dots["none"].x == pytest.approx(one)


@pytest.mark.parametrize("count", [1, 2])
def test_a_chart_of_few_points_has_axes(count):
    few = results(*[setting("none", None, 0.8, 0.1, 1.0), setting("cls", 0.5, 0.8, 0.1, 1.0)][:count])
    drawing = panel(against_speed(few, VQA), palette.styles(few.names))
    assert all(0 < dot.x < 380 and 0 < dot.y < 272 for dot in drawing.dots)
    assert len(drawing.y_ticks) >= 2


def test_marks_of_the_same_x_stand_side_by_side():
    assert apart(marks((72, 0.1), (72, 0.2), (36, 0.5), (72, 0.3))) == [-1, 0, 0, 1]
    assert max(apart(marks(*[(72, 0.1)] * 20))) < 2.5


def test_labels_do_not_cover_points_or_one_another():
    rng = np.random.default_rng(3)
    many = [setting("none", None, 0.9, 0.1, 1.0)]
    many += [setting(f"s{n}", 0.5, v, 0.1, u) for n, (v, u) in enumerate(rng.uniform([0.3, 1], [0.9, 3], (40, 2)))]
    drawing = panel(against_speed(results(*many), VQA), palette.styles(["none", *(f"s{n}" for n in range(40))]))
    boxes = []
    for label in drawing.labels:
        width = 6.3 * len(label.text)
        left = label.x - {"start": 0, "middle": width / 2, "end": width}[label.anchor]
        boxes.append((left, label.y - 9, left + width, label.y + 2))
    assert len(boxes) >= 2
    for box in boxes:
        assert not any(box[0] < d.x < box[2] and box[1] < d.y < box[3] for d in drawing.dots)
        assert all(box[0] >= o[2] or o[0] >= box[2] or box[1] >= o[3] or o[1] >= box[3] for o in boxes if o != box)


def test_selecting_is_taken_out_of_prefill(four):
    bar = bars_of(four)[1]
    assert bar.seconds == pytest.approx({"encode": 4e-3, "select": 1e-3, "prefill": 5e-3, "decode": 2e-3})
    assert bar.total == pytest.approx(12e-3)
    assert bars_of(results(StrategyAtKeep("none", None))) == []


def question(doc, given, picture=None, task="vqa"):
    return Question(task, 0, doc, f"q{doc}", "yes", picture, given)


def given(correct, kept=None):
    return GivenAnswer("yes" if correct else "no", correct, kept, None if kept is None else (2, 2))


def test_flips_go_both_ways(four):
    pairs = [(True, True), (True, False), (True, False), (True, False), (False, True), (None, True), (False, False)]
    asked = [question(n, {"none": given(a), "cls@0.5": given(b)}) for n, (a, b) in enumerate(pairs)]
    (found,) = flips(four, Answers((*asked, question(9, {"none": given(True)})), 0, {}, 0, 0))
    assert found.setting.label == "cls 0.5"
    assert found.compared == 6
    assert [flip.question.doc for flip in found.lost] == [1, 2, 3]
    assert [flip.question.doc for flip in found.gained] == [4]
    assert found.p_value == pytest.approx(2 * (1 + 4) / 16)  # 1 of 4 fair coins or fewer, two-sided


def test_groups_take_turns():
    assert spread([[1, 2, 3], [4], [5, 6]], 5) == [1, 4, 5, 2, 6]
    assert spread([], 3) == []
    some = [Flip(question(n, {}), StrategyAtKeep(name, None), True) for name in "ab" for n in range(50)]
    chosen = draw(some, 10)
    assert [flip.setting.name for flip in chosen] == ["a", "b"] * 5
    assert len({(flip.setting.name, flip.question.doc) for flip in chosen}) == 10
    assert draw(some, 10) == chosen
    assert draw(some, 10, pictured=True) == []


def test_the_most_telling_questions_are_picked(tmp_path):
    kept = np.array([0])
    asked = [
        question(0, {name: given(True, kept) for name in "abcd"}, tmp_path),
        question(1, {name: given(name in "ab", kept) for name in "abcd"}, tmp_path),
        question(2, {name: given(name == "a", kept) for name in "abcd"}, tmp_path),
        question(3, {name: given(name in "ab") for name in "abcd"}),
        question(0, {"a": given(None, kept)}, tmp_path, task="ocr"),
    ]
    chosen = pick(Answers(tuple(asked), 0, {}, 0, 0), 4)
    assert [(q.task, q.doc) for q in chosen] == [("vqa", 1), ("ocr", 0), ("vqa", 2), ("vqa", 0)]


def test_pictures_dim_what_was_dropped(tmp_path):
    path = tmp_path / "0.png"
    Image.new("RGB", (96, 96), "white").save(path)
    asked = question(0, {}, path)
    image = drawn(asked, given(True, np.array([1, 99])))  # a cell outside of the grid is passed over
    assert image.size == (192, 192)
    light = np.asarray(image).reshape(2, 96, 2, 96, 3).mean((1, 3, 4))
    assert light[0, 1] == 255
    assert (light.ravel()[[0, 2, 3]] < 110).all()
    assert "2 of 4 patches kept" in caption(asked, given(True, np.array([1, 2])), "cls 0.5")
    assert drawn(question(0, {}), given(True, np.array([1]))) is None


@pytest.mark.parametrize(("size", "out"), [((960, 480), (192, 96)), ((100, 40), (100, 40)), ((2, 2), (192, 192))])
def test_pictures_are_brought_to_size(tmp_path, size, out):
    Image.new("RGB", size).save(tmp_path / "a.png")
    assert shown(tmp_path / "a.png").size == out


def test_a_broken_picture_is_named(tmp_path):
    (tmp_path / "a.png").write_text("this is no picture")
    with pytest.raises(OSError, match=r"cannot read the picture .*a\.png"):
        shown(tmp_path / "a.png")


def test_figures_as_text():
    assert figure(0.12345, 1, 100) == "12.3"
    assert figure(NAN) == "–"
    assert [share(0.5, True), share(1.5, False), share(1432.25, False), share(NAN, True)] == [
        "50.0",
        "1.500",
        "1432.2",
        "–",
    ]
    assert [p_text(v) for v in (1e-9, 0.0321, 1.0, NAN)] == ["<0.001", "0.032", "1.000", "–"]
    assert [signed(-3, None), signed(0.041, True), signed(-0.5, False)] == ["−3", "+4.1", "−0.5"]
    assert [signed(0, None), signed(-0.0004, True)] == ["0", "0.0"]
    assert breaks("a<b>(x=1)+c") == "a&lt;b&gt;(<wbr>x=1)+<wbr>c"


def test_strategies_look_different_and_none_apart():
    styles = palette.styles(["none", *(f"s{n}" for n in range(56))])
    assert styles["none"].colour is None
    looks = [(style.colour, style.marker) for style in styles.values()]
    assert len(set(looks)) == 57
    first = looks[1:8]
    assert len({colour for colour, _ in first}) == len({marker for _, marker in first}) == 7
