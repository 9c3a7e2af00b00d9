"""`auto`: what is chosen of measured results, by a rule worked by hand; what stands for it on a model, and says so."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import vtokens
from benchmarks import choose
from tests.families import image, inputs
from tests.strategies.helpers import pair
from vtokens.adapters.fits import fit
from vtokens.strategies import format_spec, get, parse
from vtokens.tables import choices


def test_the_table_is_what_the_results_give() -> None:
    assert choose.TABLE.read_text(encoding="utf-8") == choose.text(choose.table()), "run: python benchmarks/choose.py"


def test_each_entry_is_the_best_of_its_result() -> None:
    """Read from the rows as they are: nobody of the same budget is ahead of it beyond its interval."""
    for one in choices.known():
        source = next(part for part in choose.SOURCES if part.folder == one.source)
        with (choose.RESULTS / one.source / f"{source.rows}.csv").open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["keep"] == str(one.keep)]
        rows = [row for row in rows if source.split in (None, row.get("split"))]
        whole = {"accuracy/overall/n", "accuracy/all/n"} & {*rows[0]}
        names = [f"accuracy/{part}" if part and whole else part for part in source.tasks[one.task]]
        names = [name or "accuracy" for name in names]
        right = {row["strategy"]: sum(correct(row, part) for part in names) for row in rows}
        asked = {row["strategy"]: sum(int(row[f"{part}/n"]) for part in names) for row in rows}
        shares = {name: right[name] / asked[name] for name in right}
        tokens = {row["strategy"]: float(row.get("tokens_per_layer") or 1) for row in rows}
        assert shares[one.spec] == pytest.approx(one.share, abs=1e-4)
        assert shares["random"] == pytest.approx(one.random, abs=1e-4)
        assert one.n == asked[one.spec]
        fair = [share for name, share in shares.items() if tokens[name] <= 1.1 * tokens["random"]]
        assert max(fair) <= one.high + 1e-4
        assert one.ahead == (one.low > one.random)


def correct(row: dict[str, str], part: str) -> float:
    """How many questions of a part were answered rightly, told as a count or as a share of them."""
    told = row.get(f"{part}/correct")
    return float(row[f"{part}/value"]) * int(row[f"{part}/n"]) if told is None else float(told)


def row(strategy: str, tokens: float, share: float, overall: float, n: int = 100) -> dict[str, Any]:
    digits = {"value": share, "low": share - 0.05, "high": share + 0.05, "n": n}
    every = {"value": overall, "low": overall - 0.02, "high": overall + 0.02, "n": 5 * n}
    return {"strategy": strategy, "keep": 0.1, "tokens_per_layer": tokens, "accuracy": {"digits": digits, "all": every}}


def test_the_rule_by_hand(tmp_path: Path) -> None:
    """Of pruners that spend as much, and that cannot be told from the best at reading, the best at everything."""
    measured = [
        row("none", 144, 0.99, 0.99),
        row("random", 14, 0.40, 0.50),
        row("reader", 14, 0.80, 0.60),  # best at reading
        row("level", 15, 0.76, 0.75),  # its interval reaches 0.80, and it is better at everything
        row("behind", 14, 0.74, 0.90),  # 0.79 does not
        row("spends", 46, 0.95, 0.95),  # three times as many tokens a layer
    ]
    source = choose.Source("board", "rows", "llava", "tiny", {"ocr": ("digits",), "general": ("all",)})
    second = choose.Source("later", "rows", "llava", "tiny", {"ocr": ("digits",), "yes_no": ("all",)})
    from benchmarks.tables import write

    write(tmp_path / "board", {"conditions": {}, "rows": measured})
    write(tmp_path / "later", {"conditions": {}, "rows": [row("random", 14, 0.3, 0.3), row("other", 14, 0.99, 0.31)]})
    missing = choose.Source("nowhere", "rows", "llava", "tiny", {"ocr": ("digits",)})
    found = {one.task: one for one in choose.table(tmp_path, (missing, source, second))}
    told = {task: (one.spec, one.share, one.random, one.ahead, one.source) for task, one in found.items()}
    assert told == {
        "ocr": ("level", 0.76, 0.40, True, "board"),
        "general": ("behind", 0.90, 0.50, True, "board"),
        "yes_no": ("other", 0.31, 0.30, False, "later"),
    }
    assert choices.parse(json.loads(choose.text(list(found.values())))) == list(found.values())


def entry(keep: float, spec: str, task: str = "ocr") -> choices.Chosen:
    return choices.Chosen("llava", task, keep, spec, 0.8, 0.7, 0.9, 90, 0.4, True, "tiny", "board")


@pytest.mark.parametrize(("keep", "spec"), [(0.5, "a"), (0.3, "b"), (0.16, "b"), (0.15, "c"), (0.01, "c"), (1.0, "a")])
def test_the_nearest_budget_counts_as_ratios_go(keep: float, spec: str) -> None:
    """Between 0.25 and 0.1 the middle is sqrt(0.025), 0.158."""
    assert choices.choose("llava", "ocr", keep, [entry(0.5, "a"), entry(0.25, "b"), entry(0.1, "c")]).spec == spec


@pytest.mark.parametrize("task", [task for task in choices.TASKS if task != "video"])
@torch.no_grad()
def test_what_is_chosen_runs_in_its_place(task: str) -> None:
    """It keeps what the pruner keeps that is named, in handle, report and blocks; the reason is told."""
    model, processor = pair("llava")
    batch = inputs(processor, ["what is <image> this?"], [[image(56, 56, seed=4)]])
    found = choices.choose("llava", task, 0.3)
    spec = format_spec(parse(found.spec, 0.3))
    with vtokens.attach(model, f"auto(task={task})", keep=0.3) as handle:
        logits, report = model(**batch).logits, handle.report()
        with handle.using(["auto(task=yes_no, keep=0.5)"]):
            block = model(**batch).logits
    assert handle.strategy == report.strategy == spec
    (why,) = report.choices
    assert why == handle.choices[0]
    written = format_spec(parse(f"auto(task={task}, keep=0.3)"))
    assert why.startswith(f"{written} stands for {spec}: measured on scenes-llava only, at keep=")
    assert why in str(report)
    assert why.split(": ")[0] in report._repr_html_().replace("&#x27;", "'")
    with vtokens.attach(model, spec) as handle:
        assert torch.equal(model(**batch).logits, logits)
        assert handle.choices == handle.report().choices == ()
    with vtokens.attach(model, choices.choose("llava", "yes_no", 0.5).spec, keep=0.5):
        assert torch.equal(model(**batch).logits, block)


@torch.no_grad()
def test_beside_others_and_at_everything() -> None:
    model, processor = pair("llava")
    batch = inputs(processor, ["what is <image> this?"], [[image(56, 56, seed=4)]])
    plain = model(**batch).logits
    with vtokens.attach(model, "auto(keep=1.0)") as handle:
        assert handle.strategy == "none"
        assert torch.equal(model(**batch).logits, plain)
    chosen = choices.choose("llava", "ocr", 0.5).spec
    with vtokens.attach(model, "auto(task=ocr, keep=0.5)+pai") as handle:
        assert handle.strategy == f"{format_spec(parse(chosen, 0.5))}+pai"
    assert format_spec(parse("auto(task=ocr)+vhr")) == "auto(task='ocr')+vhr"  # without a model it is itself


def test_every_choice_can_be_made() -> None:
    for one in choices.known():
        assert parse(one.spec, one.keep)
        assert 0 <= one.low <= one.share <= one.high <= 1
    for family in {one.family for one in choices.known()}:
        assert fit("auto", family) == ("yes" if "general" in choices.tasks(family) else "with `task=video`")
    assert fit("auto", "qwen3_vl") == "no (nothing was measured on it)"


@pytest.mark.parametrize(
    ("family", "spec", "says"),
    [
        ("llava", "auto(task=read)", "unknown task 'read'.*ocr"),
        ("llava", "auto(keep=64)", "keep=64 is a count.*share"),
        ("llava", "auto(task=video)", "task='video' was not measured on a model of the 'llava' family.*'ocr'"),
        (
            "qwen2_5_vl",
            "auto(task=caption)",
            "task='caption' was not measured on a model of the 'qwen2_5_vl' family.*'video'",
        ),
        (
            "llava_next",
            "auto",
            r"no pruner was measured on a model of the 'llava_next' family.*'llava' \(of scenes-llava\)",
        ),
    ],
)
def test_nothing_is_guessed(family: str, spec: str, says: str) -> None:
    model, _ = pair(family)
    with pytest.raises(ValueError, match=says):
        vtokens.attach(model, spec)
    assert vtokens.attachment(model) is None


def test_an_unknown_task_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"unknown task 'ocrs'\. Did you mean 'ocr'"):
        choices.choose("llava", "ocrs", 0.5)
    assert get("auto")().task == "general"
