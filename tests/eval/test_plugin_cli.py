"""The plugin through the real `lmms-eval` command line, whose exit status says nothing: results are looked for."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

TASKS = "scenes_pope,scenes_caption,scenes_needle"


def lmms_eval(tasks, out, *arguments, launcher=(sys.executable, "-m")):
    """Run the command line in a process of its own; returns its output."""
    command = [*launcher, "lmms_eval", "eval", "--include_path", str(tasks), *arguments]
    environment = os.environ | {"HF_HOME": str(out.parent / "hf"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=300,
        env=environment | {"COLUMNS": "200"},
        cwd=out.parent,
        check=False,
    )
    return done.stdout + done.stderr


def outcome(out, log):
    """What the run under the folder `out` wrote: its results, and its samples by task and document."""
    files = list(Path(out).glob("*/*_results.json"))
    assert len(files) == 1, log[-4000:]
    samples = {}
    for path in Path(out).glob("*/*_samples_*.jsonl"):
        task = path.stem.partition("_samples_")[2]
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            samples[task, row["doc_id"]] = row["filtered_resps"][0]
    return json.loads(files[0].read_text(encoding="utf-8")), samples


def arguments(out, strategy, batch_size, tasks=TASKS):
    """Those of a run on the embedded model."""
    return [
        *("--model", "vtokens", "--model_args", f"pretrained=scenes-llava,device=cpu,{strategy}", "--tasks", tasks),
        *("--batch_size", str(batch_size), "--output_path", str(out), "--log_samples", "--verbosity", "DEBUG"),
    ]


def check(results, samples, share):
    """Results of all tasks, with costs at `share` of the visual tokens."""
    assert len(samples) == 5 * 8
    assert {*results["results"]} == {
        *("scenes_pope", "scenes_pope_random", "scenes_pope_popular", "scenes_pope_adversarial"),
        *("scenes_caption", "scenes_needle"),
    }
    assert results["results"]["scenes_pope_random"]["accuracy,none"] >= 0.75
    throughput = results["throughput"]
    assert throughput["avg_kept_tokens"] == pytest.approx(share * throughput["avg_visual_tokens"])
    assert throughput["avg_ttft"] > 0
    assert (throughput["avg_flops_ratio"] < 1) == (share < 1)


@pytest.mark.eval_smoke
def test_a_run_leaves_its_results(scenes_tasks, tmp_path):
    out = tmp_path / "out"
    log = lmms_eval(scenes_tasks, out, *arguments(out, "strategy=fastv,keep=0.25", 4))
    check(*outcome(out, log), share=(2 + 6 / 4) / 8)


@pytest.mark.eval_smoke
def test_one_process_runs_several_and_those_that_fail_say_why(scenes_tasks, tmp_path):
    runs = [
        {"tasks": TASKS, "model_args": "pretrained=scenes-llava,device=cpu,strategy=none"},
        {"tasks": "scenes_vqa", "model_args": "pretrained=scenes-llava,strategy=fastvv"},
        {"tasks": "scenes_vqx", "model_args": "pretrained=scenes-llava,strategy=none"},
        {"tasks": "scenes_vqa", "model_args": "pretrained=some-owner/some-model,strategy=none"},
    ]
    common = {"model": "vtokens", "batch_size": 4, "log_samples": True, "include_path": str(scenes_tasks)}
    config = tmp_path / "runs.yaml"
    numbered = [common | run | {"output_path": str(tmp_path / str(i))} for i, run in enumerate(runs)]
    config.write_text(json.dumps(numbered), encoding="utf-8")
    log = lmms_eval(scenes_tasks, tmp_path / "out", "--config", str(config))
    check(*outcome(tmp_path / "0", log), share=1.0)
    assert "unknown strategy 'fastvv'. Did you mean 'fastv'?" in log
    assert "Tasks not found: scenes_vqx" in log
    assert "cannot load the model 'some-owner/some-model'" in log
    assert not [path for i in (1, 2, 3) for path in (tmp_path / str(i)).glob("**/*_results.json")]


def test_two_processes_share_a_run(scenes_tasks, tmp_path):
    found = {}
    for name, launcher in {
        "one": (sys.executable, "-m"),
        "two": (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m"),
    }.items():
        out = tmp_path / name / "out"
        out.parent.mkdir()
        given = arguments(out, "strategy=cls,keep=0.5", 3, "scenes_vqa,scenes_ocr")
        found[name] = outcome(out, lmms_eval(scenes_tasks, out, *given, "--limit", "7", launcher=launcher))
    assert len(found["one"][1]) == 2 * 7  # an odd number: one process gets a request to pad its share
    assert found["two"][1] == found["one"][1]
    scores = [{task: row["exact,none"] for task, row in results["results"].items()} for results, _ in found.values()]
    assert scores[0] == scores[1]
