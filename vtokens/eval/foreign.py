"""The causes of errors in code that is not ours."""

from __future__ import annotations


def cause(error: BaseException) -> BaseException | None:
    """The error behind `error`: lmms-eval tries some calls several times and then raises a `RetryError`."""
    from tenacity import RetryError

    return error.last_attempt.exception() if isinstance(error, RetryError) else error
