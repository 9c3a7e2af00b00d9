"""One line of what `vtokens doctor` found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        section: "versions", "extras", "device" or "self-check".
        name: what was looked at.
        says: its release, how it went, or what is wrong with it.
        state: "absent" is something optional that is not installed; only "wrong" asks for something to be done.
        remedy: the command that mends it, or brings what is absent; "" where there is none.
    """

    section: str
    name: str
    says: str
    state: Literal["ok", "absent", "wrong"] = "ok"
    remedy: str = ""
