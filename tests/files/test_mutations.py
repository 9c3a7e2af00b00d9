"""Files broken in one place: each is refused in one line that names file and field, or is read and in its range."""

import re
import time

import pytest

from tests.files.kinds import KINDS
from tests.files.mutations import mutated

COUNT = 500
_WHOLE = re.compile(  # what is said of JSON as such, which has no fields yet
    "no number of JSON|too large for a number|nested deeper|surrogate pair|the name .* twice|should be an object|"
    "a record is an object|does not say that it is one|is damaged: a list|holds no result|say twice"
)


@pytest.mark.parametrize("kind", KINDS)
def test_broken_files_are_refused_or_harmless(kind, tmp_path):
    make, read = KINDS[kind]
    path = make(tmp_path)
    whole = path.read_bytes()
    read(path)
    refused, begin = 0, time.perf_counter()
    for number in range(COUNT):
        data, where = mutated(whole, number)
        path.write_bytes(data)
        try:
            refused += bool(read(path))
        except (ValueError, OSError) as error:
            said = str(error)
            refused += 1
            told = f"number {number} at {where}: {said}"
            assert len(said) < 1500, told
            assert "\n" not in said, told
            assert path.name in said, told
            assert not where or _WHOLE.search(said) or any(str(part)[:20] in said for part in where), told
        except Exception as error:
            raise AssertionError(
                f"number {number} at {where}: {type(error).__name__}: {error}\n{data[:500]!r}"
            ) from error
    assert refused > COUNT / 10
    assert time.perf_counter() - begin < 60  # nothing hangs


def test_the_same_files_are_broken_everywhere():
    data = b'{"a": [1, 2, {"b": null}], "c": "x"}\n'
    assert [mutated(data, number) for number in range(50)] == [mutated(data, number) for number in range(50)]
    assert len({mutated(data, number)[0] for number in range(50)}) > 40
