"""Every kind of file that we write and read again: a genuine one, how it is read, and what holds of what was read."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.tables import read as measured
from tests.eval import folders
from tests.filter.test_calibrator import NAMES, records
from tests.patterns.test_files import SOME
from vtokens.cli.profile_tables import tables
from vtokens.core.timing import Clock
from vtokens.eval import journal, manifest
from vtokens.eval.journal import Answer
from vtokens.eval.profile import ProfileSettings
from vtokens.eval.profile_job import Job, _begin
from vtokens.filter import saved as filters
from vtokens.filter.calibrators import records as labelled
from vtokens.filter.calibrators.calibrator import Calibrator
from vtokens.filter.datasets.output_log import OutputLog
from vtokens.filter.datasets.rows import DatasetRow, Refusal, digest
from vtokens.loading import saved
from vtokens.report import answers, reading
from vtokens.tables import patterns, sinks, thresholds

ROOT = Path(__file__).parents[2]
Read = Callable[[Path], bool | None]
SETTINGS = {"model": "scenes-llava", "keep": 0.25, "threshold": 0.5, "filter": None, "action": "flag"}


def _sinks(folder: Path) -> Path:
    sinks.Sinks("llama-2x64x128", (3, 17), 20.0, "a test").save(folder / "sinks.json")
    return folder / "sinks.json"


def _read_sinks(path: Path) -> None:
    found = sinks.read(path)
    assert 0 < found.tau < math.inf
    assert all(0 <= dim < 2**20 for dim in found.dims)
    # Without a dimension no layer is looked at.
    assert not found.dims or found.find(torch.zeros(1, 2, max(found.dims) + 1)).dtype == torch.bool


def _thresholds(folder: Path) -> Path:
    settings = tuple(thresholds.TargetThresholds(t, t, (0.1, 0.2), (0.9, 0.7)) for t in (0.15, 0.34))
    thresholds.Table("clip-2x32-14-56", (0.1, -0.2), "a test", settings).save(folder / "thresholds.json")
    return folder / "thresholds.json"


def _read_thresholds(path: Path) -> None:
    for setting in thresholds.read(path).settings:
        assert 0 < setting.target < 1
        assert 0 <= setting.left <= 1
        assert all(-2 <= value <= 2 for value in setting.thresholds)


def _patterns(folder: Path) -> Path:
    SOME.save(folder / "patterns.json")
    return folder / "patterns.json"


def _read_patterns(path: Path) -> None:
    found = patterns.read(path)
    assert 0 < found.ratio < math.inf
    for head in (head for layer in found.heads for head in layer):
        assert 0 <= head.density <= 1
        assert 0 <= head.recall <= 1
        assert 0 <= head.score < math.inf
        numbers = vars(head.run.intra).values() if head.run.intra is not None else ()
        assert all(0 <= value <= 2**24 for value in numbers if isinstance(value, int))


def _calibrator(folder: Path) -> Path:
    return Calibrator.fit(records(100), NAMES).save(folder / "calibrator.json")


def _probabilities(found: Calibrator) -> None:
    rng = np.random.default_rng(0)
    for size in (1, 1e3, 1e12):
        p = found.predict({name: rng.normal(scale=size, size=8) for name in found.names})
        assert ((p >= 0) & (p <= 1)).all(), p


def _read_calibrator(path: Path) -> None:
    _probabilities(Calibrator.load(path))


def _filter(folder: Path) -> Path:
    """The shipped one, with its first trees and responses only."""
    content = json.loads((filters.SHIPPED / "scenes-llava.json").read_text())
    for name in ("feature", "threshold", "left", "right", "value"):
        content["calibrator"]["estimator"][name] = content["calibrator"]["estimator"][name][:3]
    for name in ("x", "y"):
        content["calibrator"]["link"][name] = content["calibrator"]["link"][name][:6]
    for name in ("scores", "labels", "sentences"):
        content["calibration"][name] = content["calibration"][name][:6]
    (folder / "filter.json").write_text(json.dumps(content) + "\n")
    return folder / "filter.json"


def _read_filter(path: Path) -> None:
    found = filters.read_filter(path)
    if found.calibrator is not None:
        _probabilities(found.calibrator)
    if found.calibration is not None:
        threshold = found.calibration.certificate().threshold
        assert threshold is None or not math.isnan(threshold)


def _record(folder: Path) -> Path:
    labelled.write(folder / "records.jsonl", records(4))
    return folder / "records.jsonl"


def _read_record(path: Path) -> None:
    for record in labelled.read(path):
        assert all(math.isfinite(value) for values in record.signals.values() for value in values)
        assert len(record.labels) == len(record.mentions)


def _output_log(folder: Path) -> Path:
    found = {
        "line": 1, "field": "caption", "draft": "a dog.", "action": "flag", "calibrated": True, "threshold": 0.5,
        "mentions": [{"start": 0, "end": 5, "text": "a dog", "kind": "object", "name": "dog", "negated": False,
                      "sentence": 0, "p": 0.25, "flagged": False}],
        "sentences": [{"start": 0, "end": 6, "text": "a dog.", "p": 0.25, "mentions": [0]}],
        "edits": [{"what": "redacted", "before": "a dog.", "after": "", "p": 0.25, "by": ""}],
    }  # fmt: skip
    content = {"image": "0.png", "caption": "a dog."}
    with OutputLog(folder / "out.jsonl", SETTINGS) as log:
        for line in (1, 2):
            row = DatasetRow(line, content, "0.png", "?", "caption", "a dog.", json.dumps(content))
            log.put(
                [(row, {**content, "filter": {**found, "line": line}})], [Refusal(line + 2, "no: reason", "ra\udcffw")]
            )
    return folder / "out.jsonl"


def _read_output_log(path: Path) -> None:
    with OutputLog(path.parent / "out.jsonl", SETTINGS) as log:
        tally = log.tally
        assert 0 <= tally.flagged <= tally.mentions
        assert tally.rows + sum(tally.refused.values()) <= 4
        log.has(Refusal(9, "", ""))
    assert len(digest({})) == 16


def _strategy(folder: Path) -> Path:
    return saved.save_pretrained("cls(keep=0.5)+fastv(keep=0.25, layer=2)+vhr", folder)


def _read_strategy(path: Path) -> None:
    for strategy in saved.from_pretrained(path.parent):
        keep = getattr(strategy, "keep", 1)
        assert 0 < keep <= 1 or isinstance(keep, int)


def _answer(folder: Path) -> Path:
    row = Answer("scenes_vqa", 3, "red", 2, 160, 144, 36.5, 10, 40, 8, 32, 0.1, 0.001, 0.2, 0.05, 4, [1, 5], [12, 12])
    with journal.Journal(folder, "none#s0") as found:
        found.put(row, Answer(**{**vars(row), "doc": 4}))
    return found.path


def _read_answer(path: Path) -> None:
    with journal.Journal(path.parent, "none#s0") as found:
        for answer in found:
            assert 0 <= answer.first_token < math.inf


def _results(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        import vtokens

        model = vtokens.load("scenes-llava", strategy="none")[0]
        made = folders.write(folder / "x", model, ["none", "cls"], [0.5], 1, ["scenes_vqa"], questions=3, shown=1)
        return made / name

    return make


def _read_manifest(path: Path) -> bool:
    found = manifest.read(path.parent)
    assert manifest.settle(path.parent, {**found, "tasks": dict(found["tasks"])}) == found
    return _read_results(path)


def _read_results(path: Path) -> bool:
    """Whether something was left out, and told."""
    results = reading.read_results(path.parent)
    for setting in results.settings:
        for cost in setting.costs.values():
            assert not any(math.isinf(value) for value in vars(cost).values())
    found = answers.read_answers(results)
    assert found.count + found.unread <= 8
    return bool(results.notes) or found.unread > 0


def _profile(folder: Path) -> Path:
    """The rows of a real profile, under this machine's conditions."""
    content = {"schema": 1, **measured("profile-cpu")}
    content |= {"conditions": _begun(None)["conditions"], "models": content["models"][:1], "rows": content["rows"][:2]}
    content["rows"].append({**content["rows"][0], "batch": 2, "failed": {"all": "no memory"}})
    (folder / "profile.json").write_text(json.dumps(content) + "\n")
    return folder / "profile.json"


def _begun(out: Path | None) -> dict[str, Any]:
    device = torch.device("cpu")
    job = Job((), "preset", device, None, (), (1,), ProfileSettings(new_tokens=32), command="vtokens profile")
    return _begin(job, Clock(device, 1), out)


def _read_profile(path: Path) -> None:
    found = _begun(path)
    assert not any(row["failed"] for row in found["rows"])
    assert len(list(tables(found))) >= 1


KINDS: dict[str, tuple[Callable[[Path], Path], Read]] = {
    "sinks": (_sinks, _read_sinks),
    "thresholds": (_thresholds, _read_thresholds),
    "patterns": (_patterns, _read_patterns),
    "calibrator": (_calibrator, _read_calibrator),
    "filter": (_filter, _read_filter),
    "record": (_record, _read_record),
    "filtered": (_output_log, _read_output_log),
    "rejected": (lambda folder: _output_log(folder).with_name("out.rejected.jsonl"), _read_output_log),
    "settings": (lambda folder: _output_log(folder).with_name("out.settings.json"), _read_output_log),
    "strategy": (_strategy, _read_strategy),
    "answer": (_answer, _read_answer),
    "manifest": (_results("manifest.json"), _read_manifest),
    "result": (_results("results.jsonl"), _read_results),
    "summary": (_results("summary.json"), _read_results),
    "sample": (_results("samples.jsonl"), _read_results),
    "profile": (_profile, _read_profile),
}
