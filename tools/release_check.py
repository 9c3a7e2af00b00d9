"""Builds a release, and installs and tries what would be uploaded: `make release-check`. Uploads nothing.

The sdist must hold all that the repository has, and make the same wheel as the tree does; both are installed into clean
environments, and work there from a folder that is not the checkout.
"""

from __future__ import annotations

import argparse
import csv
import email
import io
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from html.parser import HTMLParser
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parent.parent
LOCK = ROOT / "requirements" / "all.txt"
MOST = 32_000_000  # bytes of a wheel
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"


class _Targets(HTMLParser):
    """Collects what a page links to and shows."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name in ("href", "src", "srcset")]


def relative(text: str) -> list[str]:
    """What a Markdown text, rendered, links to or shows that is no address of its own, nor a place in the text."""
    page = _Targets()
    page.feed(MarkdownIt("commonmark").enable("table").render(text))
    return [target for target in page.found if not re.match(r"(https?://|mailto:|#)", target)]


def description(wheel: Path) -> str:
    """The README that a wheel carries, as an index shows it."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [one for one in archive.namelist() if one.endswith(".dist-info/METADATA")]
        text = email.message_from_bytes(archive.read(name)).get_payload()
    assert isinstance(text, str)
    return text


def recorded(wheel: Path) -> dict[str, str]:
    """The files of a wheel with their hashes, as its RECORD lists them."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [one for one in archive.namelist() if one.endswith(".dist-info/RECORD")]
        return {row[0]: row[1] for row in csv.reader(io.TextIOWrapper(archive.open(name), encoding="utf-8"))}


def contained(sdist: Path) -> set[str]:
    """The files of an sdist, as paths from the root of the project."""
    with tarfile.open(sdist) as archive:
        return {one.name.partition("/")[2] for one in archive if one.isfile()}


def tracked() -> set[str]:
    """The files of the repository; none where the tree is no checkout."""
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    return {line for line in done.stdout.splitlines() if (ROOT / line).exists()}


def check_tag(tag: str | None, wheel: Path) -> None:
    """Refuse a tag that is not the one of the wheel's version."""
    right = f"v{wheel.name.split('-')[1]}"
    _require(tag in (None, right), f"the tag is {tag}, and {wheel.name} is {right}")


def _require(right: bool, fault: str) -> None:
    if not right:
        sys.exit(f"release-check: {fault}")


def _run(*command: str | Path, cwd: Path = ROOT, **environment: str) -> float:
    """Run a program that must not fail, and say how long it took."""
    started = time.monotonic()
    print("+", *command, flush=True)
    done = subprocess.run([str(one) for one in command], cwd=cwd, env=os.environ | environment)
    _require(done.returncode == 0, f"exit code {done.returncode}: {' '.join(map(str, command))}")
    return time.monotonic() - started


def _build(folder: Path) -> tuple[Path, Path]:
    """The sdist and its wheel, built in environments of their own; held against the wheel that the tree makes."""
    locked = {"PIP_CONSTRAINT": str(LOCK), "PIP_BUILD_CONSTRAINT": str(LOCK)}
    _run(sys.executable, "-m", "build", "--outdir", folder, ROOT, **locked)
    _run(sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", folder / "tree", ROOT)
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    lacking = sorted(tracked() - contained(sdist))
    _require(not lacking, f"the sdist lacks {len(lacking)} files of the repository: {', '.join(lacking[:20])}")
    ours, trees = recorded(wheel), recorded(folder / "tree" / wheel.name)
    others = sorted(name for name in ours.keys() | trees.keys() if ours.get(name) != trees.get(name))
    _require(not others, f"the wheels of the sdist and of the tree differ in {', '.join(others[:20])}")
    _require(wheel.stat().st_size <= MOST, f"{wheel.name} has {wheel.stat().st_size:,} bytes, {MOST:,} are allowed")
    targets = relative(description(wheel))
    _require(not targets, f"the README of an index would have the relative links {', '.join(targets)}")
    return sdist, wheel


def _try(built: Path, folder: Path, torch_index: str) -> str:
    """Install what was built into an environment of its own, with a torch for CPUs, and use it elsewhere."""
    _run(sys.executable, "-m", "venv", folder / "venv")
    python, vtokens = folder / "venv" / "bin" / "python", folder / "venv" / "bin" / "vtokens"
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--constraint", LOCK]
    locked, started = {"PIP_BUILD_CONSTRAINT": str(LOCK), "PYTHONPATH": ""}, time.monotonic()
    if torch_index:
        _run(*pip, "--no-deps", "--index-url", torch_index, "torch")
    _run(*pip, f"vtokens[cli] @ {built.as_uri()}", **locked)
    installing = time.monotonic() - started
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    alone = {"PYTHONPATH": "", "HF_HUB_OFFLINE": "1"}
    _run(python, "-c", "import sys, torch; sys.exit(torch.version.cuda or torch.version.hip)", cwd=elsewhere, **alone)
    commands = (["--version"], ["cite", "--all"], ["doctor"], ["demo"])
    told = {command[0].lstrip("-"): _run(vtokens, *command, cwd=elsewhere, **alone) for command in commands}
    return f"installed in {installing:.0f} s; " + ", ".join(f"{name} {took:.0f} s" for name, took in told.items())


def main() -> None:
    """Check everything, and print what was built, with sizes and times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="where sdist and wheel are put (%(default)s)")
    parser.add_argument("--torch-index", default=TORCH_INDEX, help="where torch comes from; '' for pip's own index")
    parser.add_argument("--tag", help="the tag it is built for, which must be that of its version")
    parser.add_argument("--build-only", action="store_true", help="install nothing")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sdist, wheel = _build(folder)
        check_tag(options.tag, wheel)
        _run(sys.executable, "-m", "twine", "check", "--strict", sdist, wheel)
        said = []
        for built in (sdist, wheel):
            place = folder / built.suffix[1:]
            place.mkdir()
            tried = "not installed" if options.build_only else _try(built, place, options.torch_index)
            said.append(f"{built.name}: {built.stat().st_size / 1e6:.1f} MB; {tried}")
        options.out.mkdir(parents=True, exist_ok=True)
        for built in (sdist, wheel):
            (options.out / built.name).write_bytes(built.read_bytes())
    print(*said, f"both lie in {options.out}", sep="\n")


if __name__ == "__main__":
    main()
