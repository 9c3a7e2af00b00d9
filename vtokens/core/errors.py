"""Messages that name the value, what is allowed and the nearest right one."""

from __future__ import annotations

from collections.abc import Iterable

from vtokens.core.near import near_names

_MOST = 200


def shorten(value: object, most: int = _MOST) -> str:
    """How a message repeats what it was given: as `repr`, and where that is long its beginning, its end and its length.

    Args:
        value: anything; text is never turned into a `repr` of its whole length.
        most: characters that are repeated in full.
    """
    if isinstance(value, str | bytes):
        if len(value) <= most:
            return repr(value)
        half, unit = most // 2, "characters" if isinstance(value, str) else "bytes"
        return f"{value[:half]!r} ... {value[-half:]!r} ({len(value):,} {unit})"
    text = repr(value)
    if len(text) <= most:
        return text
    return f"{text[: most // 2]} ... {text[-(most // 2) :]} ({len(text):,} characters)"


def unknown(kind: str, value: object, allowed: Iterable[str]) -> ValueError:
    """A `ValueError` for a name that is not among `allowed`, with the nearest valid one first."""
    names = sorted(allowed)
    said = f"Allowed: {', '.join(names)}" if names else "There are none"
    return ValueError(f"unknown {kind} {shorten(value)}.{nearest(value, names)} {said}")


def nearest(value: object, names: Iterable[str], most: int = 1) -> str:
    """A sentence that asks whether the nearest of `names` was meant, behind a space; nothing where none is near.

    Args:
        value: what was given.
        names: the right ones.
        most: how many of them the sentence may offer.
    """
    near = near_names(str(value), names, most)
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""


class MissingExtra(ImportError):
    """An optional package is missing or broken; the message is one line that says what to install."""


def with_cause(error: ImportError) -> ImportError:
    """The error with its first cause in the message: transformers says only which of its names is lacking."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(error, MissingExtra) or cause is error or str(cause) in str(error):
        return error
    return ImportError(f"{error} The cause is {type(cause).__name__}: {cause}. `vtokens doctor` says what does not fit")
