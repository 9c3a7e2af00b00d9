"""`vtokens --version`: what vtokens runs on, told without importing it."""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Sequence
from typing import Any

from vtokens import __version__
from vtokens.cli.output import say
from vtokens.core.versions import accelerator, build, installed

_OPTIONAL = "not installed"


def versions() -> dict[str, str]:
    """Releases by name, "" for what is not installed; torch with what it was built for, and the platform."""
    return {
        "vtokens": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": build("torch"),
        "accelerator": accelerator(),
        "transformers": installed("transformers"),
        "triton": installed("triton"),
    }


class Version(argparse.Action):
    """Prints the versions, as one JSON object if `--json` is given too, and ends the program."""

    def __init__(self, option_strings: Sequence[str], dest: str, given: Sequence[str] = (), **options: Any) -> None:
        super().__init__(option_strings, dest=argparse.SUPPRESS, nargs=0, **options)
        self.given = given

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        found = versions()
        if "--json" in self.given:
            say(json.dumps(found, indent=2))
        else:
            say(f"vtokens {found['vtokens']}")
            say(f"  Python {found['python']} on {found['platform']}")
            built = f" (built for {found['accelerator']})" if found["accelerator"] else ""
            say(f"  torch {found['torch'] or _OPTIONAL}{built}")
            for name in ("transformers", "triton"):
                say(f"  {name} {found[name] or _OPTIONAL}")
        parser.exit()
