"""`make fuzz-serve`: a genuine `vtokens serve` is sent thousands of drawn requests; what came of each is a row of CSV.

The exit code is 1 if one got no answer, a 5xx, an answer of another form than /openapi.json says, or was let through
although it is forbidden there.
"""

from __future__ import annotations

import argparse
import collections
import csv
import json
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import schemathesis

from benchmarks.common import cpu_name, write
from benchmarks.record import record
from tests.serve.fuzz.drawn import CHAT, draw
from tests.serve.fuzz.sent import FIELDS, Sender

ROUND = 250
KEY = "fuzz-key-0123456789"
SHARES = {"allowed": 0.3, "forbidden": 0.3, "answered": 0.39}
"""Of the requests that are chats; the rest goes to the other routes."""


@contextmanager
def server(*options: str) -> Iterator[str]:
    """The URL of a `vtokens serve` in a process of its own, which ends by a signal and says nothing on stderr."""
    with tempfile.TemporaryDirectory() as folder:
        keys, log = Path(folder, "keys"), Path(folder, "log")
        keys.write_text(f"fuzz: {KEY}\n")
        command = [sys.executable, "-m", "vtokens", "serve", "--port", "0", "--keys", str(keys), *options]
        with open(log, "w+b") as said:
            process = subprocess.Popen(command, stderr=said)
        try:
            while not (found := re.search(r"http://127\.0\.0\.1:\d+", log.read_text())):
                if process.poll() is not None:
                    raise RuntimeError(f"the server ended: {log.read_text()}")
                time.sleep(0.2)
            yield found[0]
            process.terminate()
            process.wait(60)
            if "Traceback" in log.read_text():
                raise RuntimeError(f"the server said: {log.read_text()[-4000:]}")
        finally:
            process.kill()


def described(base: str, key: str = KEY) -> dict[str, Any]:
    """What /openapi.json says."""
    request = urllib.request.Request(f"{base}/openapi.json", headers={"Authorization": f"Bearer {key}"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def fuzz(base: str, document: dict[str, Any], count: int, start: int, key: str | None = KEY) -> list[dict[str, Any]]:
    """A row for each of `count` requests, drawn from the number `start` on."""
    schema, sender = schemathesis.openapi.from_dict(document), Sender(base, document, key)
    for mode, share in SHARES.items():
        draw(schema, CHAT, "POST", mode, round(count * share), start, lambda case, m=mode: sender.send(case, m))
    for path in ("/v1/models", "/health", "/metrics"):
        draw(schema, path, "GET", "allowed", max(1, count // 200), start, lambda case: sender.send(case, "allowed"))
    return sender.end()


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def main() -> int:
    """Run, and say what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--csv", type=Path, help="where the rows are written")
    options = parser.parse_args()
    with server("--trust-request-strategy", "--preset", "fast=cls(keep=0.25)", "--max-new-tokens", "16") as base:
        document, rows = described(base), []
        while len(rows) < options.requests:  # in rounds, so that what was found is written before the end
            part = min(ROUND, options.requests - len(rows))
            for row in fuzz(base, document, part, options.seed + len(rows)):
                rows.append(row | {"number": len(rows)})
            if options.csv:
                _write(options.csv, rows)
            print(f"{len(rows)} of {options.requests}, {sum(bool(row['fault']) for row in rows)} faults", flush=True)
    if options.csv:
        made = record([options.seed])
        made["versions"] |= {name: version(name) for name in ("schemathesis", "hypothesis", "fastapi", "uvicorn")}
        write(options.csv.parent, {"conditions": {**made, "device": cpu_name(), "requests": options.requests}})
    counts = collections.Counter((row["drawn"], row["status"], row["code"]) for row in rows)
    for (drawn, status, code), number in sorted(counts.items(), key=str):
        print(f"{number:6} {drawn:10} {status} {code}")
    reached = sum(bool(row["generated"]) for row in rows)
    faults = [row for row in rows if row["fault"]]
    print(f"{len(rows)} requests, {reached} of them generated, {len(faults)} faults")
    kinds = collections.Counter(row["fault"][:160] for row in faults)
    for fault, number in kinds.most_common(20):
        print(f"{number:6} {fault}\n       {next(row for row in faults if row['fault'][:160] == fault)['sent'][:600]}")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
