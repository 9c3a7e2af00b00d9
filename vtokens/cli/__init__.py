"""The command line of `vtokens`: its commands, their errors on one line."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from vtokens import __version__
from vtokens.cli import bench, calibrate, check, demo, eval, filter, listing, profile, report, run, search

_EXAMPLES = """examples:
  vtokens demo
  vtokens run photo.jpg "What is on the table?" --model llava-hf/llava-1.5-7b-hf --strategy todre --keep 0.1
  vtokens run scene.png "how many objects are there?" --strategy "fastv(keep=0.25, layer=2)" --overlay kept.png
  vtokens check scene.png "red circle, blue square" --threshold 0.8
  vtokens strategies "fast*"
  vtokens models
  vtokens eval --tasks scenes_vqa --strategies none,random,cls --keep 0.5,0.1 --out runs/first
  vtokens report runs/first
  vtokens profile --preset llava-1.5-7b --scale 4 --layers 8 --strategy cls,fastv --keep 0.1
  vtokens bench kernels --kernel farthest_point
"""


class Parser(argparse.ArgumentParser):
    """argparse, with usage errors on one line."""

    def error(self, message: str) -> NoReturn:
        fail(f"{message} (see {self.prog} --help)")


def fail(message: object) -> NoReturn:
    """One line on stderr, exit code 2."""
    print(f"vtokens: error: {' '.join(str(message).split())}", file=sys.stderr)
    sys.exit(2)


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    top = Parser(
        prog="vtokens",
        description="Visual-token pruning for vision-language models.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"vtokens {__version__}")
    commands = top.add_subparsers(metavar="command", required=True, parser_class=Parser)
    for module in (run, check, filter, listing, demo, calibrate, search, eval, report, profile, bench):
        module.add_to(commands)
    return top


def _quiet() -> None:
    """Keep transformers' progress bars and advice off the terminal."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `vtokens`. Errors are one line on stderr with exit code 2, never a traceback."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    options = parser().parse_args(arguments)
    try:
        _quiet()
        options.run(options)
    except KeyboardInterrupt:
        fail("interrupted")
    except BrokenPipeError:  # `vtokens strategies | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, TypeError, OSError, ImportError, RuntimeError) as error:
        if os.environ.get("VTOKENS_DEBUG"):
            raise
        fail(error or type(error).__name__)
