"""A torchvision that is installed but does not import, as one built for CUDA beside a torch for CPUs.

transformers takes a torchvision that it finds for one that works, and then cannot import its own models, not even for
text. Python has a way to say that a module is not there: None in `sys.modules`. transformers then does what it does
where torchvision was never installed, and prepares pictures with Pillow.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from dataclasses import dataclass

from vtokens.core.versions import build, torchvision_command, torchvision_fits


@dataclass(frozen=True)
class Aside:
    """A torchvision that was found broken: its release, and why it does not import."""

    release: str
    reason: str


aside: list[Aside] = []  # at most one, told by `vtokens doctor`


def set_aside_if_broken() -> None:
    """Import torchvision if there is reason to doubt it, and take it for missing in this process where that fails.

    Reasons to doubt are releases or builds that were not made for each other; else nothing is imported. A warning names
    the fault and the remedy.
    """
    if "torchvision" in sys.modules:
        return
    torch, torchvision = build("torch"), build("torchvision")
    if not torch or not torchvision or torchvision_fits(torch, torchvision):
        return
    try:
        importlib.import_module("torchvision")
    except Exception as error:  # RuntimeError, OSError, AttributeError: whatever two builds make of each other
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
    else:
        return
    for name in [name for name in sys.modules if name.startswith("torchvision.")]:
        del sys.modules[name]
    sys.modules["torchvision"] = None  # type: ignore[assignment]
    aside.append(Aside(torchvision, reason))
    _forget()
    warnings.warn(
        f"torchvision {torchvision} does not import beside torch {torch} ({reason}) and is taken for missing in this "
        f"process: pictures work, videos do not. The one that fits: {torchvision_command(torch)}",
        stacklevel=3,
    )


def _forget() -> None:
    """Let a transformers that was imported before look again; it remembers which packages it found."""
    seen = sys.modules.get("transformers.utils.import_utils")
    for name, function in vars(seen).items() if seen else ():
        if "torchvision" in name and hasattr(function, "cache_clear"):
            function.cache_clear()
