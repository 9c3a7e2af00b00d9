"""As a program, `python -m vtokens.doctor.attempt NAME`: import what an extra is for, or a module that is none."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import asdict
from importlib import metadata
from importlib.util import find_spec
from typing import Literal

from vtokens.core.extras import MissingExtra, check, needs
from vtokens.doctor.extras import EXTRAS, Extra
from vtokens.doctor.finding import Finding


def attempt(extra: Extra) -> Finding:
    """Whether what an extra brings can be imported in this process, in releases that it goes with."""
    try:
        check(extra.light or extra.name, extra.brings)
        for module in extra.modules:
            with needs(extra.light or extra.name, extra.brings):
                importlib.import_module(module)
    except MissingExtra as error:
        fault, command, remedy = str(error).partition(": pip install ")
        cause = error.__cause__
        gone = isinstance(cause, ModuleNotFoundError) and find_spec(str(cause.name).partition(".")[0]) is None
        state: Literal["absent", "wrong"] = "absent" if gone else "wrong"
        return Finding("extras", extra.name, fault, state, (command + remedy).removeprefix(": "))
    if extra.beside:
        try:
            metadata.version(extra.beside)
        except metadata.PackageNotFoundError:
            fault = f"{extra.brings} needs {extra.beside}, which is not installed"
            return Finding("extras", extra.name, fault, "absent", f"pip install --no-deps {extra.beside}")
    return Finding("extras", extra.name, f"works ({extra.brings})")


if __name__ == "__main__":
    for one in EXTRAS:
        if one.name == sys.argv[1]:
            print(json.dumps(asdict(attempt(one))), flush=True)
            break
    else:
        importlib.import_module(sys.argv[1])
