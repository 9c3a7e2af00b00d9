"""Who may ask: keys with names, compared in constant time, and which addresses may be listened on without any."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import re
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path

from vtokens.core.errors import shorten
from vtokens.core.reading import MEBIBYTE, read_text
from vtokens.serve.errors import App, Receive, Refused, Scope, Send, answer

ENVIRONMENT = "VTOKENS_API_KEYS"
ANYONE = "anyone"
"""The owner of requests where no key is asked for."""
LEAST = 16
"""Characters of a key: fewer can be guessed."""
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_KEY = re.compile(r"[!-~]{1,512}")  # what a header carries unchanged
_OPEN = ("/health",)


class Keys:
    """The keys that are let in, each with the name of its owner; only their hashes are held."""

    def __init__(self, named: Iterable[tuple[str, str]] = ()) -> None:
        """Raise ValueError for a name or a key that is not allowed, or is there twice."""
        self._hashes: dict[str, bytes] = {}
        seen: set[bytes] = set()
        for name, key in named:
            if not _NAME.fullmatch(name) or name == ANYONE:
                raise ValueError(f"a key has the name {shorten(name)}: letters, digits and _.- are allowed, up to 64")
            # The key itself is never repeated: messages end in logs.
            if not _KEY.fullmatch(key) or len(key) < LEAST:
                raise ValueError(
                    f"the key {name!r} has {len(key):,} characters: {LEAST} to 512 of ASCII without spaces are "
                    f"allowed, as in {secrets.token_urlsafe(24)!r}"
                )
            digest = hashlib.sha256(key.encode()).digest()
            if name in self._hashes or digest in seen:
                raise ValueError(f"the key {name!r} is there twice: each needs its own name and its own characters")
            self._hashes[name] = digest
            seen.add(digest)

    def __len__(self) -> int:
        return len(self._hashes)

    def __repr__(self) -> str:
        return f"<Keys: {', '.join(self._hashes) or 'none'}>"

    def owner(self, authorization: str | None) -> str | None:
        """The name of the key in a header `Authorization: Bearer KEY`; None for no key or a wrong one.

        All keys are compared, as hashes of one length, whichever of them fits: how long it takes tells nothing.
        """
        scheme, _, key = (authorization or "").partition(" ")
        digest, found = hashlib.sha256(key.strip(" ").encode("utf-8", "surrogateescape")).digest(), None
        for name, known in self._hashes.items():
            if hmac.compare_digest(digest, known):
                found = name
        return found if scheme.lower() == "bearer" else None


def read_keys(file: str | Path | None = None, environment: Mapping[str, str] = os.environ) -> Keys:
    """The keys in a file, or where none is given in the environment.

    Args:
        file: a line for each key: `name: key`, or the key alone, which gets the name `key-N` of its line. Empty lines
            and those that begin with # are passed over.
        environment: `VTOKENS_API_KEYS` holds the same with commas in place of new lines.

    Raises:
        OSError: no such file, or no regular one.
        ValueError: it holds no key, one twice, or one that is too short or holds odd characters.
    """
    if file is None:
        lines, source = environment.get(ENVIRONMENT, "").split(","), f"the environment variable {ENVIRONMENT}"
        if not environment.get(ENVIRONMENT):
            return Keys()
    else:
        lines, source = read_text(file, MEBIBYTE).splitlines(), f"the file {shorten(str(file))}"
    named = []
    for number, line in enumerate(lines, 1):
        if (text := line.strip()) and not text.startswith("#"):
            name, mark, key = text.rpartition(":")
            named.append((name.strip() if mark else f"key-{number}", key.strip()))
    if not named:
        raise ValueError(f"{source} holds no key: a line `name: key` for each is needed")
    try:
        return Keys(named)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine reaches a server that listens on `host`."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:  # a name, which may lead anywhere tomorrow
        return False


def check_address(host: str, keys: Keys) -> bool:
    """Whether `host` is of this machine only.

    Raises:
        ValueError: it is not, and there is no key: anyone who reaches it could use the model, and what it costs.
    """
    local = is_loopback(host)
    if not local and not keys:
        raise ValueError(
            f"--host {shorten(host)} lets other machines in, and no key is asked of them: give --keys FILE (a line "
            f"`name: key` for each) or {ENVIRONMENT}, or leave --host out, which listens on 127.0.0.1"
        )
    return local


class RequireKey:
    """Lets in who has a key, and says in `scope["state"]["owner"]` whose it is; without keys everybody is let in.

    Args:
        app: what is asked then.
        keys: of its users.
        open: paths that need none; one that ends in / stands for all that begin with it.
    """

    def __init__(self, app: App, keys: Keys, open: Iterable[str] = _OPEN) -> None:
        self._app, self._keys, self._open = app, keys, tuple(open)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            given = [value for name, value in scope["headers"] if name == b"authorization"]
            owner = self._keys.owner(given[0].decode("latin-1")) if len(given) == 1 else None
            if self._keys and owner is None and not self._free(scope["path"]):
                return await answer(send, _unknown(bool(given)))
            scope.setdefault("state", {})["owner"] = owner or ANYONE
        await self._app(scope, receive, send)

    def _free(self, path: str) -> bool:
        # "/" itself is the page, not all that begins with it.
        return any(path == one or (len(one) > 1 and one.endswith("/") and path.startswith(one)) for one in self._open)


def _unknown(given: bool) -> Refused:
    message = (
        "the API key is not known here: ask whoever runs this server for one"
        if given
        else "this server needs an API key: send it as `Authorization: Bearer KEY` (api_key= in the OpenAI client)"
    )
    headers = {"WWW-Authenticate": "Bearer", "Connection": "close"}
    return Refused(401, message, code="invalid_api_key", kind="authentication_error", headers=headers)
