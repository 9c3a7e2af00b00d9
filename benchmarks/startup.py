"""What users wait for before anything is computed: commands that only tell, and a process's first `vtokens.attach`.

python benchmarks/startup.py --repeats 7
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
COMMANDS = ("--help", "--version", "strategies", "strategies fastv", "strategies fastw", "models", "runn")
ATTACH = """
import sys, time, torch, transformers
model = transformers.AutoModelForImageTextToText.from_pretrained(sys.argv[1])
before, wall, cpu = set(sys.modules), time.perf_counter(), time.process_time()
import vtokens
vtokens.attach(model, sys.argv[2])
print(time.process_time() - cpu, time.perf_counter() - wall, len(set(sys.modules) - before))
"""


def command(arguments: str) -> tuple[float, float]:
    """CPU seconds and seconds of `vtokens arguments` in a process of its own."""
    start, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "vtokens", *arguments.split()], capture_output=True, cwd=ROOT)
    wall, now = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime, wall


def first_attach(spec: str) -> tuple[float, ...]:
    """CPU seconds and seconds of importing vtokens and attaching, once torch, transformers and the model are there.

    The third number counts the modules that were imported for it.
    """
    folder = ROOT / "vtokens" / "scenes" / "weights" / "scenes-llava"
    run = [sys.executable, "-c", ATTACH, str(folder), spec]
    done = subprocess.run(run, capture_output=True, text=True, cwd=ROOT, check=True)
    return tuple(map(float, done.stdout.split()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7, help="processes a row, after one that writes bytecode (7)")
    repeats = parser.parse_args().repeats
    print("medians: CPU seconds, seconds")
    for arguments in COMMANDS:
        cpu, wall = (
            statistics.median(row) for row in zip(*[command(arguments) for _ in range(repeats + 1)][1:], strict=True)
        )
        print(f"vtokens {arguments:<24} {cpu:.2f}  {wall:.2f}")
    for spec in ("fastv", "cls+vhr+vcd"):
        cpu, wall, modules = (
            statistics.median(row) for row in zip(*[first_attach(spec) for _ in range(repeats + 1)][1:], strict=True)
        )
        print(f"attach {spec:<25} {cpu:.3f} {wall:.3f}  ({modules:.0f} modules)")


if __name__ == "__main__":
    main()
