"""Makes a stored table again and says whether it comes out the same: `make reproduce TABLE=heads-scenes`.

python benchmarks/reproduce.py                                       # which tables there are, how long they take
python benchmarks/reproduce.py heads-scenes                          # all of one
python benchmarks/reproduce.py leaderboard-scenes-llava --part       # some rows of it, in minutes

The commands are those of benchmarks/reproduce.toml. They write into a folder of their own, and nothing that is stored
is changed. Figures that are counted (answers, tokens, bytes, operations) have to be equal; times are told as ratios
and decide nothing. The exit status is 1 where figures differ.
"""

from __future__ import annotations

import argparse
import math
import os
import shlex
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import tables  # noqa: E402
from benchmarks.beside import Found, compare, told  # noqa: E402
from benchmarks.took import minutes, timed_minutes  # noqa: E402

FILE = Path(__file__).with_suffix(".toml")


@dataclass(frozen=True)
class Remade:
    """How a stored table is made again: the fields of benchmarks/reproduce.toml, which says what they are."""

    name: str
    page: str
    run: tuple[str, ...]
    part: tuple[str, ...] = ()
    minutes: float | None = None
    part_minutes: float | None = None
    needs: str = ""
    note: str = ""
    checked: str = ""
    times: tuple[str, ...] = ()

    @property
    def takes(self) -> str:
        """How long all of it takes, and the part: measured, or as the stored table tells (benchmarks/took.py)."""
        found = _minutes(self.minutes)
        if self.minutes is None:
            stored = stored_rows(self.name)
            whole, timed = minutes(stored), timed_minutes(stored)
            if whole is not None:
                found = _minutes(whole)
            elif timed is not None:
                found = f"at least {math.floor(10 * timed) / 10:g} min (timed rounds)"
        return f"{found}; part: {_minutes(self.part_minutes)}" if self.part else found


def every() -> dict[str, Remade]:
    """All of them, by name."""
    content = tomllib.loads(FILE.read_text(encoding="utf-8"))
    lists = ("run", "part", "times")
    return {
        name: Remade(name, **{key: tuple(value) if key in lists else value for key, value in told.items()})
        for name, told in content.items()
    }


def arguments(command: str, out: Path | str = "{out}", scratch: Path | str = "{scratch}") -> list[str]:
    """A command of the file as the system takes it; `python` and `vtokens` are this environment's."""
    words = [word.replace("{out}", str(out)).replace("{scratch}", str(scratch)) for word in shlex.split(command)]
    own = {"python": [sys.executable], "vtokens": [sys.executable, "-m", "vtokens"]}
    return [*own.get(words[0], words[:1]), *words[1:]]


def remake(table: Remade, commands: Sequence[str], folder: Path) -> float:
    """Run the commands one after the other; returns the seconds of a processor that they took."""
    out, scratch = folder / "tables", folder / "scratch"
    for each in (out, scratch):
        each.mkdir(parents=True, exist_ok=True)
    environment = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **os.environ}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    begun = _processor()
    for command in commands:
        words = arguments(command, out, scratch)
        print(f"$ {shlex.join(words)}", flush=True)
        done = subprocess.run(words, cwd=ROOT, env=environment)
        if done.returncode:
            sys.exit(f"{table.name}: the command ended with {done.returncode}; what it wrote is in {folder}")
    return _processor() - begun


def held(table: Remade, folder: Path) -> dict[str, Found]:
    """Each table that was made, compared with the stored one."""
    stored, new = stored_rows(table.name), tables.read(folder / "tables")
    pairs = {name: rows for name, rows in new.items() if name != "conditions" and name in stored}
    return {name: compare(stored[name], rows, table.times) for name, rows in pairs.items()}


def stored_rows(name: str) -> dict[str, Any]:
    """The tables under a name: a folder, or one file, whose rows are called `rows`."""
    if (tables.RESULTS / name).is_dir():
        return tables.read(name)
    return {"rows": tables.rows(tables.RESULTS / f"{name}.csv")}


def main(given: Sequence[str] | None = None) -> int:
    """List, or make again and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", nargs="?", default="", help="its name (without one: the list)")
    parser.add_argument("--part", action="store_true", help="only the rows that take minutes")
    parser.add_argument("--folder", type=Path, help="keep what is made here (a temporary folder, removed)")
    options, known = parser.parse_args(given), every()
    if not options.table:
        width = max(map(len, known))
        print("make reproduce TABLE=NAME, one of these; ARGS=--part where there is one\n")
        for one in known.values():
            print(f"  {one.name:{width}}  {one.takes}" + (f"; needs {one.needs}" if one.needs else ""))
        return 0
    if options.table not in known:
        parser.error(f"no table {options.table!r}; allowed: {', '.join(known)}")
    table = known[options.table]
    if options.part and not table.part:
        parser.error(f"{table.name} has no part that is quicker: leave --part out")
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        seconds = remake(table, table.part if options.part else table.run, folder)
        found = held(table, folder)
    return verdict(table, found, seconds)


def verdict(table: Remade, found: dict[str, Found], seconds: float) -> int:
    """Print what came out; 1 where a figure differs or nothing was compared."""
    print()
    for name, one in found.items():
        print(*told(one, name), sep="\n")
    if table.note:
        print(f"note: {table.note}")
    equal, unlike = (sum(counts) for counts in zip(*((f.equal, len(f.unlike)) for f in found.values()), strict=True))
    compared = sum(one.rows for one in found.values())
    says = "nothing to compare" if not compared else "reproduced" if not unlike else f"{unlike} figures differ"
    print(f"\n{table.name}: {says} ({compared} rows, {equal} figures equal; {seconds / 60:.1f} minutes of a processor)")
    return int(bool(unlike) or not compared)


def _processor() -> float:
    """Seconds of a processor that the commands of this process have taken; what a neighbour takes is not in it."""
    spent = os.times()
    return spent.children_user + spent.children_system


def _minutes(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.{1 if value < 1 else 0}f} min"


if __name__ == "__main__":
    sys.exit(main())
