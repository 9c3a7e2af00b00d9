"""`vtokens bench kernels`: how fast the kernels are on the machine at hand, beside PyTorch's attention."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

from vtokens.cli.options import above_zero, add_placement, check_file, listed, path, whole
from vtokens.cli.output import console
from vtokens.loading.hardware import check_device

if TYPE_CHECKING:
    from vtokens.bench.row import BenchRow


def add_to(commands: Any) -> None:
    """Add the command."""
    bench = commands.add_parser("bench", help="measure the kernels on the machine at hand")
    parts = bench.add_subparsers(metavar="what", required=True)
    command = parts.add_parser(
        "kernels",
        help="a table of times and rates, kernel by kernel",
        description="Time each kernel beside PyTorch's own attention, FlexAttention and the eager way, in turn, and "
        "set the rates against a matrix product and a copy measured first. Inputs are noise.",
        epilog="examples:\n  vtokens bench kernels --kernel farthest_point --threads 2\n"
        "  vtokens bench kernels --device cuda --csv kernels.csv\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("--kernel", type=listed, metavar="NAMES", help="comma-separated; all of them by default")
    add_placement(command, dtype=None)
    command.add_argument(
        "--threads", type=whole(1, 1024), metavar="N", help="torch threads on a CPU (torch's own choice)"
    )
    command.add_argument(
        "--clock", choices=("auto", "wall", "cpu"), default="auto",
        help="on a CPU: wall time, or processor time over threads, which other programs disturb less "
        "(auto: cpu with one thread)",
    )  # fmt: skip
    command.add_argument("--seconds", type=above_zero, default=2.0, help="to measure each case, about (%(default)s)")
    command.add_argument("--limit", type=above_zero, metavar="SECONDS", help="start no case after so long")
    command.add_argument("--quick", action="store_true", help="small sizes: does it run?")
    command.add_argument("--csv", type=path, metavar="FILE", help="add the rows to this file as they come")
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    import torch

    from vtokens.bench.case import BenchSetting
    from vtokens.bench.measure import cases, measure, names
    from vtokens.bench.row import append
    from vtokens.bench.table import heading, table
    from vtokens.bench.timing import Stopwatch, roofline
    from vtokens.core.errors import unknown

    if options.csv:
        check_file(options.csv, "--csv")
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    device = check_device(options.device)
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"--device {options.device} is not allowed: kernels are measured on cpu and cuda")
    chosen = names() if options.kernel is None else options.kernel
    for name in chosen:
        if name not in names():
            raise unknown("kernel", name, names())
    usual = "bfloat16" if device.type == "cuda" else "float32"
    dtype = getattr(torch, usual if options.dtype in (None, "auto") else options.dtype)
    setting = BenchSetting(device, dtype, options.quick)
    stopwatch = Stopwatch(device, options.clock)
    screen = console(width=None if console().is_terminal else 190)
    begun = time.monotonic()
    roof = roofline(device, dtype, stopwatch)
    screen.print(heading(setting, stopwatch, roof))
    for kernel in chosen:
        rows: list[BenchRow] = []
        torch.manual_seed(0)
        for case in cases(kernel, setting):
            if options.limit is not None and time.monotonic() - begun > options.limit:
                break
            found = measure(kernel, case, setting, stopwatch, roof, options.seconds)
            rows += found
            for row in found if options.csv else ():
                append(options.csv, row)
        screen.print(table(kernel, rows))
    if options.limit is not None and time.monotonic() - begun > options.limit:
        screen.print(f"stopped after {options.limit:g} s: what is missing was not measured")
