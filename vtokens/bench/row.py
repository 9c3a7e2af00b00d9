"""A row of the table of kernels, and the CSV file it is kept in."""

from __future__ import annotations

import csv
import subprocess
from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import vtokens


@dataclass(frozen=True)
class BenchRow:
    """One provider on one case; times are of single calls, and None is what was not measured.

    Attributes:
        ms_p20, ms_p50, ms_p80: quantiles of the whole: selection and kernel in one go.
        select_ms, kernel_ms: medians of the two apart.
        tflops: visited operations over `kernel_ms`.
        dense_tflops: operations of the dense problem over `ms_p50`.
        gbps: the fewest bytes over `kernel_ms`.
        roofline: the time that this machine's measured matrix product or copy would take, whichever is longer, over
            `kernel_ms`.
        peak_mb: 2^20 bytes of tensors at once beyond the inputs.
        failed: why there are no numbers.
    """

    kernel: str
    provider: str
    device: str
    torch: str
    triton: str
    dtype: str
    B: int
    Hq: int
    Hkv: int
    D: int
    M: int
    N: int
    pattern: str
    density: float
    threads: int
    clock: str
    rounds: int
    ms_p20: float | None = None
    ms_p50: float | None = None
    ms_p80: float | None = None
    select_ms: float | None = None
    kernel_ms: float | None = None
    tflops: float | None = None
    dense_tflops: float | None = None
    gbps: float | None = None
    roofline: float | None = None
    peak_mb: float | None = None
    max_error: float | None = None
    commit: str = ""
    failed: str = ""


def append(path: Path, row: BenchRow) -> None:
    """Add a row to a CSV file, which gets its heading first; ValueError for a file with another one."""
    names = [field.name for field in fields(BenchRow)]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", newline="", encoding="utf-8") as file:
        file.seek(0)
        heading = next(csv.reader(file), None)
        if heading not in (None, names):
            raise ValueError(f"{path} has other columns than the rows of this release: give another file")
        writer = csv.writer(file)
        if heading is None:
            writer.writerow(names)
        writer.writerow(_text(value) for value in astuple(row))


def _text(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def read(path: Path) -> Iterator[dict[str, str]]:
    """Rows of a CSV file, as text."""
    with path.open(newline="", encoding="utf-8") as file:
        yield from csv.DictReader(file)


@cache
def commit() -> str:
    """The commit of the source tree, with a plus if files of the package differ from it; else the release."""
    root = Path(vtokens.__file__).parent
    git = ["git", "-C", str(root)]
    try:
        name = subprocess.run([*git, "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", "."], capture_output=True, check=False)
    except (OSError, subprocess.CalledProcessError):
        return f"v{vtokens.__version__}"
    return name.stdout.strip() + ("+" if changed.returncode else "")


@cache
def release(package: str) -> str:
    """The version of an installed package, or nothing."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
