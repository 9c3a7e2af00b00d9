"""The data-set filter over a local Ray cluster writes what one process writes."""

import pytest

from tests.filter.filtering import SETTINGS, data_set, filtered, lines, made
from vtokens.filter.datasets.ray import _batch, _received, _sent, spread
from vtokens.filter.datasets.rows import read_rows
from vtokens.filter.datasets.worker import Worker


def test_batches_travel_as_text(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'{"image": "a.png", "caption": "\\ud800 \xf0\x9f\x91\x8d", "n": [1]}\nbad \xff\n')
    batch = list(read_rows(path, "Describe."))
    assert _batch(_sent(batch)) == batch
    assert _received('[[], [{"line": 1, "reason": "a", "raw": "b"}]]')[1][0].reason == "a"


def test_no_workers_cannot_be():
    with pytest.raises(ValueError, match="workers=0"):
        list(spread(iter([]), made, workers=0))


@pytest.mark.slow
@pytest.mark.ray_smoke
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_a_local_cluster_writes_what_one_process_does(tmp_path):
    """Two workers, rows in any order; again over the finished file, which does nothing; and a worker that fails."""
    ray = pytest.importorskip("ray")
    source = data_set(tmp_path / "data", rows=12)
    with source.open("a") as file:
        file.write('{"image": "none.png", "caption": "red circle"}\nbad\n')
    folder = str(source.parent)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:

        def worker():
            return Worker(made(), folder, **SETTINGS)

        def work(batches):
            return spread(batches, worker, workers=2)

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
            filtered(source, tmp_path / "bad.jsonl", work=lambda batches: spread(batches, broken, workers=1))
    finally:
        ray.shutdown()
