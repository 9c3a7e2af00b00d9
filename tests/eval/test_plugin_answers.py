"""The plugin model under genuine lmms-eval: its answers are right in batches, and those of lmms-eval's own model."""

import dataclasses

import pytest

import vtokens
from tests.eval.lmms import ask, evaluate, old_names, request, texts
from vtokens.eval import Journal
from vtokens.eval.lmms.model import VTokens, VTokensSimple
from vtokens.scenes import embedded_path, examples
from vtokens.scenes.evaluation import answer

pytestmark = pytest.mark.filterwarnings("default::FutureWarning", "default::DeprecationWarning")

ALL = ("scenes_vqa", "scenes_pope", "scenes_caption", "scenes_ocr", "scenes_needle")
COSTS = ("encode", "select", "prefill", "decode", "batch", "flops", "flops_full", "kv_bytes", "kv_bytes_full")


@pytest.mark.parametrize("strategy", ["none", "fastv(keep=0.25)"])
def test_a_batch_of_eight_answers_as_one_does(shipped, scenes_tasks, tmp_path, strategy):
    found, rows = {}, {}
    for size in (1, 8):
        with Journal(tmp_path, f"batch{size}") as journal:
            model = VTokens.of(*shipped, strategy=strategy, batch_size=size, journal=journal, progress=False)
            found[size] = texts(evaluate(model, ALL, scenes_tasks))
            rows[size] = list(journal)
    assert len(found[1]) == 7 * 8
    assert found[8] == found[1]
    alike = [[dataclasses.replace(row, **dict.fromkeys(COSTS, 0)) for row in rows[size]] for size in (8, 1)]
    assert alike[0] == alike[1]
    assert {row.batch for row in rows[1]} == {1}
    assert max(row.batch for row in rows[8]) == 8


@pytest.mark.parametrize(("ours", "simple"), [(VTokens, False), (VTokensSimple, True)])
def test_none_answers_as_the_model_of_lmms_eval(shipped, scenes_tasks, ours, simple):
    pytest.importorskip("decord")  # lmms-eval's model imports it
    from lmms_eval.models import get_model

    with old_names():
        theirs = get_model("llava_hf", force_simple=simple).create_from_arg_string(
            f"pretrained={embedded_path('scenes-llava')},device=cpu,device_map=cpu,dtype=float32", {"batch_size": 1}
        )
        wanted = texts(evaluate(theirs, ALL, scenes_tasks))
    assert theirs.is_simple is ours.is_simple is simple
    assert len({*wanted.values()}) > 20  # captions, names, numbers: not one answer to everything
    found = texts(evaluate(ours.of(*shipped, batch_size=5, progress=False), ALL, scenes_tasks))
    assert found == wanted


def test_answers_come_in_the_order_asked_and_as_without_lmms_eval(shipped):
    sample = examples("test", 22, seed=3)
    model = VTokens.of(*shipped, batch_size=4, progress=False)
    asked = [request([e.image], e.question, doc, max_new_tokens=40) for doc, e in enumerate(sample)]
    wanted = answer(*shipped, sample, batch_size=1)
    assert ask(model, asked) == wanted
    assert ask(model, asked[::-1]) == wanted[::-1]


def test_the_model_is_left_alone_and_the_plugin_can_be_used_again(shipped, scenes_tasks):
    model = VTokens.of(*shipped, strategy="fastv", keep=0.1, batch_size=4, progress=False)
    first = texts(evaluate(model, ["scenes_vqa"], scenes_tasks))
    assert vtokens.attachment(shipped[0]) is None
    assert texts(evaluate(model, ["scenes_vqa"], scenes_tasks)) == first
    plain = texts(evaluate(VTokens.of(*shipped, progress=False), ["scenes_vqa"], scenes_tasks))
    assert first != plain  # at a tenth of the tokens something is lost: the strategy was really there


def test_a_resumed_run_gives_what_an_uninterrupted_one_gives(shipped, scenes_tasks, tmp_path):
    def run(folder):
        with Journal(folder, "cell") as journal:
            model = VTokens.of(*shipped, strategy="cls", keep=0.1, batch_size=5, journal=journal, progress=False)
            results = texts(evaluate(model, ["scenes_vqa", "scenes_caption"], scenes_tasks))
            return results, [dataclasses.replace(row, **dict.fromkeys(COSTS, 0)) for row in journal]

    whole = run(tmp_path / "whole")
    lines = (tmp_path / "whole" / "cell.rank0.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "torn").mkdir()
    torn = tmp_path / "torn" / "cell.rank0.jsonl"
    torn.write_bytes(b"".join(lines[:8]) + lines[8][:50])  # killed in the second batch, in the middle of a line
    assert run(tmp_path / "torn") == whole
    assert torn.read_bytes().splitlines(keepends=True)[:8] == lines[:8]  # what was there has not been asked again


def test_costs_are_those_of_the_report(shipped, scenes_tasks, tmp_path):
    with Journal(tmp_path, "cell") as journal:
        model = VTokens.of(
            *shipped, strategy="fastv(keep=0.25, layer=2)", batch_size=4, journal=journal, progress=False
        )
        results = evaluate(model, ["scenes_vqa", "scenes_needle"], scenes_tasks)
        rows = {task: [row for row in journal if row.task == task] for task in ("scenes_vqa", "scenes_needle")}
    for row in rows["scenes_vqa"]:
        assert (row.visual_tokens, row.kept_tokens) == (144, (2 * 144 + 6 * 36) / 8)
        assert (len(row.kept), row.grid) == (36, [12, 12])
        assert row.kept == sorted({*row.kept})
        assert row.kept[0] >= 0
        assert row.kept[-1] < 144
        assert 0 < row.flops < row.flops_full
        assert 0 < row.kv_bytes < row.kv_bytes_full
        assert row.encode > 0 < row.prefill > row.select > 0
    for row in rows["scenes_needle"]:
        assert (row.visual_tokens, row.kept_tokens) == (4 * 144, 4 * (2 * 144 + 6 * 36) / 8)
    counts = [sample["token_counts"][0] for sample in results["samples"]["scenes_vqa"]]
    assert counts == [
        {"input_tokens": row.prompt_tokens, "output_tokens": row.output_tokens} for row in rows["scenes_vqa"]
    ]
    kept = [row.kept_tokens for part in rows.values() for row in part]
    assert results["throughput"]["avg_kept_tokens"] == pytest.approx(sum(kept) / len(kept))
    assert results["throughput"]["total_gen_tokens"] == sum(row.output_tokens for part in rows.values() for row in part)
