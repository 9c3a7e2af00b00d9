"""Lines of shell in the documentation: read as a shell reads them, held against our parser, and run if cheap."""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import shlex
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.pages.blocks import ROOT
from vtokens import adapters
from vtokens.cli import parser
from vtokens.cli.inputs import METHODS
from vtokens.cli.options import check_values
from vtokens.eval.cells import split
from vtokens.eval.presets import presets
from vtokens.recipes import parse_recipe
from vtokens.scenes import embedded_models
from vtokens.strategies import parse

QUICK = ("run", "check", "strategies", "models")
"""Commands that are run whenever the tests are; with ``--slow`` those of `SLOW` too."""
SLOW = ("compare", "filter", "profile", "demo", "doctor")
"""Sweeps, servers and calibrations, which the pages show at full length, have tests of their own."""
_ONE = ("check", "doctor")
"""Commands that end with 1 where something is not supported, or not in order."""


def lines(text: str) -> list[list[str]]:
    """The words of each command of a block: lines that end in a backslash go on, what follows a # is left out."""
    joined = re.sub(r"\\\n\s*", " ", text)
    words = [shlex.split(line.strip().removeprefix("$ "), comments=True) for line in joined.splitlines()]
    return [line for line in words if line]


def check(words: list[str]) -> argparse.Namespace | None:
    """Hold a command against what it names; the options of one of ours.

    Raises:
        ValueError, KeyError, SystemExit: a program, target, extra, option, strategy, model or file that is not there.
    """
    if "vtokens" in words[1:] and "-m" in words:  # `torchrun ... -m vtokens eval`
        words = words[words.index("vtokens") :]
    program, *rest = words
    if program == "vtokens":
        return _ours(rest)
    known = {"pip": _pip, "make": _make, "python": _python, "lmms-eval": _lmms, "vllm": _vllm}
    if program in known:
        known[program](rest)
    elif program not in ("git", "cd"):
        raise ValueError(f"{program!r} is no program that the pages speak of")
    return None


def why_not_run(words: list[str], options: argparse.Namespace | None, slow: bool) -> str:
    """Why a line is only read, "" if it is to run: other programs, models of the hub, addresses, what takes long."""
    if options is None:
        return "another program"
    if any(hub_id(word) for word in words):
        return "a model of the hub"
    if any(word.startswith(("http", "cuda", "/")) for word in words):
        return "something that is not here"
    if options.command in QUICK:
        return ""
    return "" if slow and options.command in SLOW else "it takes long"


def run(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run one of our commands in this process, `< FILE` included."""
    from vtokens.cli import main

    with contextlib.ExitStack() as stack:
        if "<" in words:
            file = stack.enter_context(Path(words[words.index("<") + 1]).open("rb"))
            monkeypatch.setattr(sys, "stdin", argparse.Namespace(buffer=file, read=file.read, isatty=lambda: False))
            words = words[: words.index("<")]
        try:
            main(words[1:])
        except SystemExit as stop:
            if stop.code not in (0, None, 1 if words[1] in _ONE else 0):
                raise


def hub_id(word: str) -> bool:
    """Whether a word is the name of a model on the hub, of those that our families name as examples."""
    return word in {one for family in adapters.models() for one in adapters.adapter_class(family).examples}


def _ours(words: list[str]) -> argparse.Namespace:
    words = words[: words.index("<")] if "<" in words else words
    top = parser()
    options = top.parse_args(words)
    check_values(options)
    for name, value in vars(options).items():
        _named(name, value)
    return options


def _named(name: str, value: Any) -> None:
    """Hold the value of an option against the names that there are."""
    if not value:
        return
    if name in ("strategy", "strategies") and isinstance(value, str):
        for one in split(value):
            parse(one)
    elif name == "preset" and isinstance(value, list):
        for one in value:
            if "=" in one:
                parse(one.partition("=")[2].strip('"'))
            elif one not in presets():
                raise ValueError(f"no such preset: {one}")
    elif name == "recipe" and value not in ("none", *METHODS):
        parse_recipe(value)
    elif name == "model" and isinstance(value, str):
        _model(value)


def _model(name: str) -> None:
    if name in embedded_models() or hub_id(name) or name.startswith(("/", "./", "../")):
        return
    if not (Path(name).exists() or name in ("my-model", "path/to/my-model")):
        raise ValueError(f"{name!r} is neither an embedded model, nor one that a family names, nor a folder")


def _project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def _pip(words: list[str]) -> None:
    if words[0] != "install":
        raise ValueError(f"pip {words[0]}")
    known = {*_project()["optional-dependencies"]}
    for word in words[1:]:
        found = re.match(r"(?:vtokens|\.)\[(.+)\]", word)
        if found and not {*found[1].split(",")} <= known:
            raise ValueError(f"no such extra: {word}")


def _make(words: list[str]) -> None:
    targets = re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for word in words:
        if "=" not in word and word not in targets:
            raise ValueError(f"no such target: {word}")


def _python(words: list[str]) -> None:
    if words[0] == "-m":
        return
    text = (ROOT / words[0]).read_text(encoding="utf-8")
    folder = "".join(path.read_text(encoding="utf-8") for path in (ROOT / words[0]).parent.glob("*.py"))
    for word in words[1:]:
        if word.startswith("--") and f'"{word}"' not in text + folder:
            raise ValueError(f"{words[0]} has no {word}")


def _lmms(words: list[str]) -> None:
    given = dict(zip(words[1::2], words[2::2], strict=False))
    if given.get("--model") != "vtokens":
        raise ValueError("lmms-eval without our model")
    arguments = dict(one.split("=", 1) for one in given["--model_args"].split(","))
    parse(arguments["strategy"], float(arguments["keep"]))
    _model(arguments["pretrained"])


def _vllm(words: list[str]) -> None:
    given = json.loads(words[words.index("--mm-processor-kwargs") + 1])["vtokens"]
    parse(given["strategy"], given["keep"])
