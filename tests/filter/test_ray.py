"""The data-set filter over a local Ray cluster writes what one process writes."""

import json

import pytest

from tests.families import image
from tests.filter.filtering import SETTINGS, data_set, filtered, lines, made
from vtokens.filter.datasets.ray import _batch, _Opened, _received, _sent, _shown, spread
from vtokens.filter.datasets.rows import read_rows
from vtokens.filter.datasets.worker import Opener, Worker


def test_batches_travel_as_text(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'{"image": "a.png", "caption": "\\ud800 \xf0\x9f\x91\x8d", "n": [1]}\nbad \xff\n')
    batch = list(read_rows(path, "Describe."))
    assert _batch(_sent(batch)) == batch
    assert _received('[[], [{"line": 1, "reason": "a", "raw": "b"}]]')[1][0].reason == "a"


def test_no_workers_cannot_be():
    with pytest.raises(ValueError, match="workers=0"):
        list(spread(iter([]), made, Opener("."), workers=0))


def test_pictures_are_opened_in_front_of_the_workers(tmp_path):
    """What the stage sends is what a worker would have opened itself, or the reason why it could not."""
    for name, size in (("a.png", (5, 3)), ("b.png", (2, 7))):
        image(*size, seed=0).save(tmp_path / name)
    rows = [{"image": name, "caption": "c"} for name in ("a.png", "b.png", "a.png", "none.png", "../x.png")]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    batch, opener = list(read_rows(tmp_path / "in.jsonl", "Describe.")), Opener(tmp_path)
    sent = _Opened(opener)({"batch": _sent(batch)})
    shown = _shown(sent["names"], sent["pixels"])
    expected = opener(batch)
    assert list(shown) == ["a.png", "b.png", "none.png", "../x.png"]
    for name in ("a.png", "b.png"):
        assert shown[name].size == expected[name].size
        assert shown[name].tobytes() == expected[name].tobytes()
    assert "does not open" in shown["none.png"]
    assert "outside" in shown["../x.png"]
    assert [shown[name] for name in ("none.png", "../x.png")] == [expected[name] for name in ("none.png", "../x.png")]


@pytest.mark.slow
@pytest.mark.ray_smoke
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_a_local_cluster_writes_what_one_process_does(tmp_path):
    """Two workers, rows in any order; again over the finished file, which does nothing; and a worker that fails."""
    ray = pytest.importorskip("ray")
    source = data_set(tmp_path / "data", rows=12)
    with source.open("a") as file:
        file.write('{"image": "none.png", "caption": "red circle"}\nbad\n')
    opener = Opener(source.parent)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:

        def worker():
            return Worker(made(), "nowhere", **SETTINGS)  # which would find no picture by itself

        def work(batches):
            return spread(batches, worker, opener, workers=2)

        filtered(source, tmp_path / "one.jsonl", batch_size=3)
        tally = filtered(source, tmp_path / "ray.jsonl", batch_size=3, work=work)
        one, other = (sorted(lines(tmp_path / f"{n}.jsonl"), key=lambda r: r["filter"]["line"]) for n in ("one", "ray"))
        assert [row["caption"] for row in other] == [row["caption"] for row in one]
        assert lines(tmp_path / "ray.rejected.jsonl") == lines(tmp_path / "one.rejected.jsonl")
        assert (tally.rows, sum(tally.refused.values())) == (12, 2)
        before = (tmp_path / "ray.jsonl").read_bytes()
        filtered(source, tmp_path / "ray.jsonl", work=work)
        assert (tmp_path / "ray.jsonl").read_bytes() == before

        def broken():
            raise OSError("no such model anywhere")

        with pytest.raises(RuntimeError, match="a worker failed: OSError: no such model anywhere"):
            filtered(source, tmp_path / "bad.jsonl", work=lambda batches: spread(batches, broken, opener, workers=1))
    finally:
        ray.shutdown()
