"""Rows of the benchmark as a table on the terminal."""

from __future__ import annotations

import torch
from rich.table import Table
from rich.text import Text

from vtokens.bench.case import BenchSetting
from vtokens.bench.row import BenchRow
from vtokens.bench.timing import Roofline, Stopwatch

_COLUMNS = (
    "provider", "B Hq/Hkv D", "M x N", "pattern", "density", "ms p50 (p20-p80)", "select", "kernel", "TFLOP/s",
    "dense-eq.", "GB/s", "roofline", "peak MB", "max error",
)  # fmt: skip


def heading(setting: BenchSetting, stopwatch: Stopwatch, roof: Roofline) -> str:
    """What the table was measured on."""
    device = torch.cuda.get_device_name(setting.device) if setting.cuda else f"cpu, {torch.get_num_threads()} thread(s)"
    return (
        f"{device}, {str(setting.dtype).removeprefix('torch.')}, torch {torch.__version__}, times by {stopwatch.name}; "
        f"a matrix product ran at {roof.flops / 1e12:.3g} TFLOP/s, a copy at {roof.bytes / 1e9:.3g} GB/s"
    )


def table(kernel: str, rows: list[BenchRow]) -> Table:
    """The rows of one kernel."""
    out = Table(title=kernel, title_justify="left")
    for name in _COLUMNS:
        out.add_column(name, justify="left" if name in ("provider", "pattern") else "right", no_wrap=name == "provider")
    before = None
    for row in rows:
        case = (row.B, row.M, row.N, row.pattern, row.density)
        if before is not None and case != before:
            out.add_section()
        before = case
        shape = f"{row.B} {row.Hq}/{row.Hkv} {row.D}", f"{row.M:,} x {row.N:,}", row.pattern, f"{row.density:.1%}"
        if row.ms_p20 is None or row.ms_p50 is None or row.ms_p80 is None:
            out.add_row(row.provider, *shape, Text(row.failed, "red"))  # an error may hold what looks like markup
            continue
        times = f"{_number(row.ms_p50)} ({_number(row.ms_p20)}-{_number(row.ms_p80)})"
        rates = (row.select_ms, row.kernel_ms, row.tflops, row.dense_tflops, row.gbps)
        roofline = "" if row.roofline is None else f"{row.roofline:.0%}"
        out.add_row(
            row.provider, *shape, times, *map(_number, rates), roofline, _number(row.peak_mb), _number(row.max_error)
        )
    return out


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
