"""Which releases are installed, and whether each fits those that ask for it. Nothing is imported here."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from vtokens.core.extras import requirements
from vtokens.core.versions import NEWEST, OLDEST, build, installed, torchvision_command, torchvision_fits, untested
from vtokens.doctor import child
from vtokens.doctor.extras import EXTRAS
from vtokens.doctor.finding import Finding
from vtokens.loading.torchvision import aside

_SHOWN = ("torch", "transformers", "numpy", "triton", "lmms-eval", "av", "decord", "filelock")
_OPTIONAL = {"triton": "triton", "lmms-eval": "eval", "av": "video", "decord": "video"}


def examine() -> Iterator[Finding]:
    """A finding for each package that matters, and for each other one that something asks for in another release."""
    wanted = Requirement(f"python{metadata.metadata('vtokens')['Requires-Python'] if installed('vtokens') else ''}")
    fits = wanted.specifier.contains(platform.python_version(), prereleases=True)
    yield _finding("Python", platform.python_version(), "" if fits else f"vtokens asks for {wanted.specifier}", "")
    faults = _misfits()
    for name in _SHOWN:
        release = build(name) if name == "torch" else installed(name)
        if name == "decord":
            release = release or installed("decord2")  # another distribution of the same module
        if release or name in faults:
            yield _finding(name, release, *faults.pop(name, ("", "")))
        else:
            remedy = next((e.command for e in EXTRAS if e.name == _OPTIONAL.get(name)), "")
            yield Finding("versions", name, "not installed", "absent", remedy)
        if name == "torch":
            yield _torchvision()
    for name, (fault, remedy) in sorted(faults.items()):
        yield _finding(name, installed(name), fault, remedy)


def _finding(name: str, release: str, fault: str, remedy: str) -> Finding:
    says = ": ".join(part for part in (release, fault) if part)
    return Finding("versions", name, says, "wrong" if fault else "ok", remedy)


def _torchvision() -> Finding:
    torch, release, remedy = build("torch"), build("torchvision"), torchvision_command()
    if aside:
        fault = f"does not import beside torch {torch} ({aside[0].reason})"
        return _finding("torchvision", aside[0].release, fault, remedy)
    if not release:
        return Finding("versions", "torchvision", "not installed (preparing videos)", "absent", remedy)
    _, fault = child.run("attempt", "torchvision")
    if fault:
        return _finding("torchvision", release, f"does not import ({fault})", remedy)
    fits = torchvision_fits(torch, release)
    return _finding("torchvision", release if fits else f"{release}, made for another torch, but it imports", "", "")


def _misfits() -> dict[str, tuple[str, str]]:
    """What is installed in a release that something does not go with, or lacks: the fault and the remedy, by name."""
    found: dict[str, tuple[str, str]] = {}
    transformers = installed("transformers")
    if transformers and untested(transformers):
        (major, oldest), (_, newest) = OLDEST, NEWEST
        remedy = f"pip install 'transformers>={major}.{oldest},<{major}.{newest + 1}'"
        found["transformers"] = f"vtokens is tested with {major}.{oldest} to {major}.{newest}", remedy
    for asker, needs, core in _asked():
        name, release = canonicalize_name(needs.name), installed(needs.name)
        if name in found or (asker.startswith("torchvision ") and name == "torch"):  # told of torchvision, not of torch
            continue
        remedy = f"pip install '{needs.name}{needs.specifier}'"
        if core and not release:
            found[name] = f"not installed, and {asker} needs it", remedy
        elif release and not needs.specifier.contains(release, prereleases=True):
            found[name] = f"{asker} asks for {needs.specifier}", remedy
    return found


def _asked() -> Iterator[tuple[str, Requirement, bool]]:
    """Who asks for what, and whether nothing works without: vtokens, its extras in use, and all that they bring."""
    core = [("vtokens", needs) for needs in requirements()]
    more = [(f"vtokens[{e.name}]", needs) for e in EXTRAS if e.installed for needs in requirements(e.name)]
    seen: set[str] = set()
    for first, needed, others in ((core, True, ()), (more, False, (*_SHOWN, "torchvision"))):
        yield from ((asker, needs, needed) for asker, needs in first)
        queue = [*(needs.name for _, needs in first), *others]
        while queue:
            name = canonicalize_name(queue.pop())
            if name in seen or not (release := installed(name)):
                continue
            seen.add(name)
            for needs in map(Requirement, metadata.requires(name) or ()):
                if needs.marker is None or needs.marker.evaluate({"extra": ""}):
                    yield f"{name} {release}", needs, needed
                    queue.append(needs.name)
