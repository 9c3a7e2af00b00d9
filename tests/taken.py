"""Says of command lines on stdin which are not taken, in a process of its own, as some benchmarks register strategies.

Scripts run up to where their own parser has taken their options.
"""

from __future__ import annotations

import argparse
import importlib
import shlex
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from vtokens.cli import parser as vtokens_parser

PARSE = argparse.ArgumentParser.parse_args


class Taken(Exception):
    """Options were parsed without an error."""


def stop(self: argparse.ArgumentParser, args: Any = None, namespace: Any = None) -> Any:
    PARSE(self, args, namespace)
    raise Taken


def taken(command: str) -> bool:
    """Whether the program is there and its parser takes the options."""
    program, *words = shlex.split(command)
    if program == "git":
        return words[0] == "worktree"
    if program not in ("python", "vtokens"):
        return False
    try:
        if program == "vtokens":
            vtokens_parser().parse_args(words)  # not the one of argparse
            return True
        module = words[0] == "-m"
        name = words[1] if module else words[0].removesuffix(".py").replace("/", ".")
        if module and hasattr(importlib.import_module(name), "__path__"):
            name += ".__main__"
        if name == "benchmarks.tables":
            return len(words) == 3
        sys.argv = words[1:] if module else words
        script = importlib.import_module(name)
        (script.main if hasattr(script, "main") else script._options)()  # mitigation.py has a function for each part
    except Taken:
        return True
    except (SystemExit, ImportError, TypeError, AttributeError):
        return False
    return False


if __name__ == "__main__":
    argparse.ArgumentParser.parse_args = stop  # type: ignore[method-assign]
    for line in sys.stdin.read().splitlines():
        if not taken(line):
            print(line)
