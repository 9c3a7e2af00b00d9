"""SIGKILL at any moment: what was on disk stays, and the sweep that goes on ends as an uninterrupted one does."""

import random
import time

import pytest

from tests.eval.sweeping import TOTAL, answered, lasting, started

pytestmark = pytest.mark.filterwarnings("default::FutureWarning", "default::DeprecationWarning")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """A folder of a sweep that nobody disturbed."""
    out = tmp_path_factory.mktemp("sweep") / "whole"
    process = started(out)
    process.join(120)
    assert process.exitcode == 0
    assert answered(out) == TOTAL
    return out


def kill(out, after, pause):
    """Start or go on with a sweep, and kill it `pause` seconds after it has put `after` answers down."""
    process = started(out)
    try:
        deadline = time.monotonic() + 120
        while answered(out) < after and process.is_alive() and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(pause)
    finally:
        process.kill()
        process.join()


def finish(out, uninterrupted):
    """Let the sweep end; nothing that was there is asked again, and nothing tells of the interruption."""
    left = {path: path.read_bytes() for path in (out / "answers").glob("*.jsonl")}
    process = started(out)
    process.join(120)
    assert process.exitcode == 0
    for path, before in left.items():
        assert path.read_bytes().startswith(before[: before.rfind(b"\n") + 1])
    assert lasting(out) == lasting(uninterrupted)
    assert {path.name for path in out.iterdir()} == {path.name for path in uninterrupted.iterdir()}


def test_a_sweep_killed_again_and_again_ends_as_if_it_had_not_been(tmp_path, uninterrupted):
    out, moments = tmp_path / "killed", random.Random(3)
    before = 0
    for share in (0.2, 0.5, 0.8):
        kill(out, int(share * TOTAL), moments.uniform(0, 0.03))
        assert before < answered(out) < TOTAL  # each went on from the one before, and none came to its end
        before = answered(out)
    finish(out, uninterrupted)


@pytest.mark.slow
def test_twenty_moments_from_the_first_file_to_the_last(tmp_path, uninterrupted):
    moments, left = random.Random(0), []
    for number in range(20):
        out = tmp_path / str(number)
        kill(out, moments.randint(0, TOTAL), moments.uniform(0, 0.2))
        left.append(answered(out))
        finish(out, uninterrupted)
    assert sum(0 < there < TOTAL for there in left) >= 10
