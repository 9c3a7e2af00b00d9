"""Several processes: each takes its share of the documents, and the first puts the results together once."""

import socket
import subprocess
import sys

import pytest

from tests.eval.sweeping import TOTAL, lines, small, started

pytestmark = pytest.mark.filterwarnings("default::FutureWarning", "default::DeprecationWarning")

COMMAND = ["-m", "vtokens", "eval", "--tasks", "scenes_vqa,scenes_pope_random"]
COMMAND += [
    "--strategies",
    "none,random,fastv",
    "--keep",
    "0.25",
    "--limit",
    "12",
    "--batch-size",
    "4",
    "--max-new-tokens",
    "64",
]
KEYS = ("cell", "task", "doc", "text", "kept", "question", "target", "correct", "metrics")


def launched(*launcher, out):
    """Run the small sweep in two processes."""
    done = subprocess.run([*launcher, *COMMAND, "--out", str(out)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done


def told(out):
    """What the samples say, however they were dealt out."""
    return [{key: row[key] for key in KEYS} for row in lines(out / "samples.jsonl")]


def shares(out):
    """Answers by process."""
    files = {rank: (out / "answers").glob(f"*.rank{rank}.jsonl") for rank in (0, 1)}
    return {rank: sum(path.read_bytes().count(b"\n") for path in paths) for rank, paths in files.items()}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process finds."""
    out = tmp_path_factory.mktemp("one") / "out"
    small(out)
    return told(out)


def test_two_processes_share_a_sweep_and_one_goes_on_with_it(tmp_path, alone):
    out = tmp_path / "out"
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    # What torchrun tells its processes.
    common = {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    ranks = [common | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in (0, 1)]
    both = [started(out, variables=variables, limit=11) for variables in ranks]  # which two cannot share evenly
    for process in both:
        process.join(400)  # two on one core beside others have taken more than two minutes
        assert process.exitcode == 0
    fewer = [row for row in alone if row["doc"] < 11]
    assert shares(out) == {0: 6 * 6, 1: 6 * 5}
    assert told(out) == fewer

    for path in (out / "answers").glob("*.rank1.*"):
        whole = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(whole[:4]))
    (out / "samples.jsonl").unlink()
    small(out, limit=11)
    assert shares(out) == {0: 6 * 6 + 3 * 6, 1: 3 * 4}  # what the lost process had kept counts, and is not asked again
    assert told(out) == fewer


def test_the_module_that_launchers_were_given_before_still_runs_and_warns():
    done = subprocess.run([sys.executable, "-m", "vtokens.eval", "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: vtokens eval ")
    assert "DeprecationWarning: python -m vtokens.eval ... is now python -m vtokens eval" in done.stderr


@pytest.mark.slow
def test_torchrun_launches_two_processes(tmp_path, alone):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = launched(*torchrun, out=tmp_path / "out")
    assert done.stdout.count("results:") == 1
    assert shares(tmp_path / "out") == {0: TOTAL / 2, 1: TOTAL / 2}
    assert told(tmp_path / "out") == alone


@pytest.mark.slow
def test_accelerate_launches_two_processes(tmp_path, alone):
    accelerate = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launched(*accelerate, out=tmp_path / "out")
    assert shares(tmp_path / "out") == {0: TOTAL / 2, 1: TOTAL / 2}
    assert told(tmp_path / "out") == alone
