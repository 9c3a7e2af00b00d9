"""The command line of `vtokens`: its commands, their errors on one line."""

from __future__ import annotations

import argparse
import errno
import io
import os
import sys
from collections.abc import Sequence

from vtokens.cli import (
    bench,
    calibrate,
    check,
    cite,
    compare,
    demo,
    doctor,
    eval,
    filter,
    heads,
    listing,
    profile,
    report,
    run,
    search,
    serve,
)
from vtokens.cli.options import check_values
from vtokens.cli.output import fail, warnings_on_one_line
from vtokens.cli.parsing import Parser
from vtokens.cli.version import Version
from vtokens.core.errors import unknown, with_cause
from vtokens.core.extras import check as check_extra
from vtokens.core.extras import explain

_FORESEEN = (ValueError, TypeError, OSError, ImportError, RuntimeError, MemoryError)
_EXAMPLES = """examples:
  vtokens demo
  vtokens run photo.jpg "What is on the table?" --model llava-hf/llava-1.5-7b-hf --strategy todre --keep 0.1
  vtokens run scene.png "how many objects are there?" --strategy "fastv(keep=0.25, layer=2)" --overlay kept.png
  vtokens compare scene.png "how many objects are there?" --strategies random,cls,fastv --keep 0.25,0.1
  vtokens check scene.png "red circle, blue square" --threshold 0.8
  vtokens strategies "fast*"
  vtokens models
  vtokens eval --tasks scenes_vqa --strategies none,random,cls --keep 0.5,0.1 --out runs/first
  vtokens serve
  vtokens report runs/first
  vtokens profile --preset llava-1.5-7b --scale 4 --layers 8 --strategy cls,fastv --keep 0.1
  vtokens bench kernels --kernel farthest_point
  vtokens cite "visionzip+census"
  vtokens doctor
"""

# What a command does not work without. The others draw tables and bars, which the extra `cli` brings too.
_EXTRAS = {"check": "filter", "filter": "filter", "demo": "cli", "report": "cli", "serve": "serve"}
_WITHOUT_MODELS = ("cite", "doctor", "models", "report", "strategies")
"""Commands that begin without torch and transformers, which take seconds to import."""


def parser(given: Sequence[str] = ()) -> Parser:
    """The parser of all commands.

    Args:
        given: what it will read, of which `--version` looks for `--json`.
    """
    top = Parser(
        prog="vtokens",
        description="Visual-token pruning for vision-language models.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument(
        "--version",
        action=Version,
        given=given,
        help="what vtokens runs on: releases, what torch is built for, the platform; with --json as one JSON object",
    )
    commands = top.add_subparsers(dest="command", metavar="command", required=True, parser_class=Parser)
    for module in (
        run,
        compare,
        check,
        filter,
        listing,
        demo,
        calibrate,
        heads,
        search,
        eval,
        serve,
        report,
        profile,
        bench,
        cite,
        doctor,
    ):
        module.add_to(commands)
    top.commands = commands.choices
    return top


def _quiet() -> None:
    """Keep transformers' progress bars and advice off the terminal."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `vtokens`.

    Errors are one line on stderr with exit code 2, never a traceback; `VTOKENS_DEBUG=1` shows where they come from. A
    pipe that nobody reads any more ends it with 141 and Ctrl-C with 130, as a shell reports a program that a signal
    ended, and without a word.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        with warnings_on_one_line():
            _run(arguments)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # `vtokens strategies | head`
        _discard()
        sys.exit(141)


def _run(arguments: Sequence[str] | None) -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what its encoding has not is escaped
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            options = _parsed(sys.argv[1:] if arguments is None else arguments)
            check_values(options)
            if "begin" in options:
                options.begin(options)
            if options.command not in _WITHOUT_MODELS:
                _quiet()
            _carry_out(options)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except BrokenPipeError:
        raise
    except Exception as error:
        if os.environ.get("VTOKENS_DEBUG"):
            raise
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:  # it would be tried again at the end
            _discard()
        if isinstance(error, _FORESEEN):
            fail(str(error) or type(error).__name__)
        fail(f"{type(error).__name__}: {error} (not foreseen; VTOKENS_DEBUG=1 shows where: please report it)")


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    top = parser(arguments)
    command = next((one for one in arguments if not one.startswith("-")), None)
    if command is not None and command not in top.commands:  # argparse names all commands, and not the nearest
        raise unknown("command", command, top.commands)
    return top.parse_args(arguments)


def _carry_out(options: argparse.Namespace) -> None:
    extra, what = _EXTRAS.get(options.command, ""), f"`vtokens {options.command}`"
    if extra:
        check_extra(extra, what)
    try:
        options.run(options)
    except ImportError as error:
        if not error.name:  # it says itself what is wrong
            raise with_cause(error) from error
        raise explain(error, extra or "cli", what) from error


def _discard() -> None:
    """Let go of what could not be printed, so that Python does not try it again when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
