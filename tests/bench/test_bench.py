"""The benchmark of the kernels measures what it says, writes it down, and says why where it cannot."""

import io
import math
import os
import re
import time
from pathlib import Path

import pytest
import torch
from rich.console import Console

from tests.test_cli import failure
from vtokens.bench.case import BenchSetting, Case, Provider, Work, ours
from vtokens.bench.measure import cases, measure, names
from vtokens.bench.row import BenchRow, append, commit, read
from vtokens.bench.table import table
from vtokens.bench.timing import Roofline, Stopwatch, quantile, roofline
from vtokens.cli import main

CPU = BenchSetting(torch.device("cpu"), torch.float32, quick=True)
ROOF = Roofline(1e12, 1e10)


def case(**providers: Provider) -> Case:
    """2 million operations and 1,000 bytes."""
    work = Work(2e6, 1e3, 8e6)
    return Case((1, 2, 1, 4, 8, 16), "some", 0.25, work, providers, lambda out: float((out - 1).abs().max()))


def wait(seconds: float, value: float = 1.0) -> torch.Tensor:
    """Keep the processor busy."""
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass
    return torch.full((256, 1024), value)


def test_rows_hold_what_was_measured() -> None:
    """Selection and kernel apart and together, rates from the work and the kernel's median, memory and error."""
    given = case(
        apart=Provider(lambda found: wait(0.004, found), lambda: float(wait(0.002, 1.5)[0, 0])),
        other=Provider(lambda _: wait(0.001, 3.0), same=False),
    )
    one, two = measure("k", given, CPU, Stopwatch(CPU.device, "cpu"), ROOF, 0.1)
    assert (one.provider, two.provider, one.rounds) == ("apart", "other", two.rounds)
    assert (one.B, one.Hq, one.Hkv, one.D, one.M, one.N, one.pattern, one.density) == (1, 2, 1, 4, 8, 16, "some", 0.25)
    assert one.select_ms is not None and one.kernel_ms is not None and one.ms_p50 is not None  # noqa: PT018
    assert 2 <= one.select_ms < one.kernel_ms < one.ms_p50
    assert one.kernel_ms >= 4
    assert one.ms_p50 >= 6
    assert one.ms_p20 <= one.ms_p50 <= one.ms_p80
    assert one.tflops == pytest.approx(2e6 / one.kernel_ms / 1e9)
    assert one.dense_tflops == pytest.approx(8e6 / one.ms_p50 / 1e9)
    assert one.gbps == pytest.approx(1e3 / one.kernel_ms / 1e6)
    assert one.roofline == pytest.approx(2e6 / 1e12 * 1e3 / one.kernel_ms)
    assert one.max_error == 0.5
    assert 1 <= one.peak_mb <= 2
    assert two.select_ms is two.max_error is None
    assert two.ms_p50 == two.kernel_ms


def test_what_fails_is_named_and_the_others_are_measured() -> None:
    """A backend that refuses a shape costs its own row only."""

    def refuse(_: object) -> None:
        raise RuntimeError("no kernel\nfor this shape")

    bad, good = measure(
        "k", case(bad=Provider(refuse), good=Provider(lambda _: wait(0))), CPU, Stopwatch(CPU.device), ROOF, 0.01
    )
    assert bad.failed == "RuntimeError: no kernel for this shape"
    assert bad.ms_p50 is None
    assert bad.rounds == 0
    assert good.failed == ""
    assert good.rounds >= 3


def test_rows_are_added_under_their_own_heading_alone(tmp_path: Path) -> None:
    """An empty file gets one; under that of another release columns would be taken for others."""
    [row] = measure("k", case(one=Provider(lambda _: wait(0))), CPU, Stopwatch(CPU.device), ROOF, 0.001)
    path = tmp_path / "rows.csv"
    path.touch()
    for count in (1, 2):
        append(path, row)
        assert [found["provider"] for found in read(path)] == ["one"] * count
    older = path.read_text().replace("kernel,provider,device", "kernel,device", 1)
    path.write_text(older)
    with pytest.raises(ValueError, match="has other columns"):
        append(path, row)
    assert path.read_text() == older


def test_a_table_says_why_in_the_words_of_the_error() -> None:
    """An error of torch may hold brackets, which are no markup."""
    why = "RuntimeError: [enforce fail at alloc_cpu.cpp:117] data. [/opt/torch] can't allocate memory"

    def refuse(_: object) -> None:
        raise RuntimeError(why.partition(": ")[2])

    rows = measure("k", case(bad=Provider(refuse)), CPU, Stopwatch(CPU.device), ROOF, 0.001)
    assert [row.failed for row in rows] == [why]
    screen = Console(width=400, file=io.StringIO())
    screen.print(table("k", rows))
    assert why in screen.file.getvalue()  # type: ignore[attr-defined]


def test_ours_runs_the_version_it_is_named_after(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable is set for the call alone, whatever it was."""
    for before in ("auto", None):
        if before is None:
            monkeypatch.delenv("VTOKENS_KERNELS", raising=False)
        else:
            monkeypatch.setenv("VTOKENS_KERNELS", before)
        (provider,) = ours(CPU, lambda _: os.environ["VTOKENS_KERNELS"], lambda: os.environ["VTOKENS_KERNELS"]).values()
        assert provider.run(None) == "reference"
        assert provider.select is not None
        assert provider.select() == "reference"
        assert os.environ.get("VTOKENS_KERNELS") == before


def test_quantiles_and_roofline() -> None:
    """By rank; the longer of the two times; more than nothing can be reached."""
    assert [quantile([3.0, 1.0, 2.0, 5.0, 4.0], share) for share in (0.2, 0.5, 0.8, 1.0)] == [1, 3, 4, 5]
    assert ROOF.ms(1e9, 1e3) == 1
    assert ROOF.ms(1e3, 1e9) == 100
    found = roofline(CPU.device, torch.float32, Stopwatch(CPU.device, "cpu"))
    assert 1e9 < found.flops < 1e14
    assert 1e8 < found.bytes < 1e13


def test_csv_is_read_as_it_was_written(tmp_path: Path) -> None:
    """One heading, a row for each row; nothing where nothing was measured."""
    path = tmp_path / "new" / "rows.csv"
    row = BenchRow(
        "k",
        "p",
        "cpu",
        "2",
        "",
        "float32",
        1,
        2,
        1,
        4,
        8,
        16,
        "a, b",
        0.05,
        1,
        "cpu",
        3,
        ms_p50=1.23456,
        commit=commit(),
    )
    append(path, row)
    append(path, row)
    first, second = read(path)
    assert first == second
    assert path.read_text().count("provider") == 1
    assert (first["pattern"], first["ms_p50"], first["ms_p20"], first["density"]) == ("a, b", "1.235", "", "0.05")
    assert first["commit"] == commit() != ""


@pytest.mark.parametrize("kernel", names())
def test_every_kernel_runs_and_is_right(kernel: str) -> None:
    """The small cases of each benchmark: every provider returns, near what float64 gives where it solves the case."""
    torch.manual_seed(0)
    found = list(cases(kernel, CPU))
    assert found
    for given in found:
        assert 0 < given.density <= 1.5
        for name, provider in given.providers.items():
            if name == "flex":  # compiling takes longer than a test may
                continue
            output = provider.run(provider.select() if provider.select else None)
            if given.error is not None and provider.same:
                assert given.error(output) < 1e-3, (name, given.pattern)
        assert given.work.flops >= 0
        assert given.work.bytes > 0


def test_the_script_for_a_gpu_measures_every_kernel() -> None:
    """`make bench-gpu` names each, those with targets first."""
    script = Path(__file__).parents[2] / "benchmarks" / "kernels" / "gpu.sh"
    (listed,) = re.findall(r"--kernel (\S+)", script.read_text(encoding="utf-8"))
    assert sorted(listed.split(",")) == sorted(names())


def test_the_command_prints_a_table_and_writes_rows(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """End to end; figures in the file are numbers."""
    path = tmp_path / "rows.csv"
    arguments = ["bench", "kernels", "--kernel", "farthest_point", "--quick", "--seconds", "0.01", "--csv", str(path)]
    threads = torch.get_num_threads()
    main([*arguments, "--threads", str(threads)])
    out = capsys.readouterr().out
    assert "a matrix product ran at" in out
    assert "pass a pick" in out
    rows = list(read(path))
    assert [row["provider"] for row in rows] == ["reference", "pass a pick"] * 2
    assert all(math.isfinite(float(row["ms_p50"])) and float(row["roofline"]) < 1.5 for row in rows)


def test_what_cannot_be_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """One line each, with what is allowed."""
    bench = "bench", "kernels", "--quick"
    assert "unknown kernel 'farthest'. Did you mean 'farthest_point'?" in failure(
        capsys, *bench, "--kernel", "farthest"
    )
    assert "argument --threads: '0' is not allowed" in failure(capsys, *bench, "--threads", "0")
    assert "unknown device 'meta'. Here there is: cpu" in failure(capsys, *bench, "--device", "meta")
    assert "above 0" in failure(capsys, *bench, "--seconds", "0")
    if not torch.cuda.is_available():
        assert "is not to be had: torch" in failure(capsys, *bench, "--device", "cuda")
