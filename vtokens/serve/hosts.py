"""Which URLs of pictures and videos are fetched: those of hosts that the server's owner has listed, spelt plainly."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from vtokens.core.errors import nearest, shorten
from vtokens.serve.errors import Refused

LONGEST = 4096
_PLAIN = re.compile(r"[!#-;=?-\[\]_a-z~]+")  # ASCII without spaces and the signs that no URL holds: " < > \ ^ ` { | }
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"(?:{_LABEL}\.)*{_LABEL}|\[[0-9a-f:.]+\]")
_PORTS = {"http": 80, "https": 443}


class Hosts:
    """The hosts that are asked, each by one scheme and at one port.

    Args:
        entries: "images.example.org" (https), "*.example.org" for all names below it, "http://host", "host:8443".

    Raises:
        ValueError: an entry that names no host.
    """

    def __init__(self, entries: Iterable[str] = ()) -> None:
        self._known = [_entry(one) for one in entries]

    def plain(self, url: str, param: str) -> str:
        """The URL, written anew of what was found in it.

        What is checked and what is asked are then read alike: checkers have been passed by URLs whose host two
        readers found in different places. So only one spelling is let through.

        Args:
            url: as a client gave it.
            param: where it did.

        Raises:
            Refused: 400, it is spelt in an odd way, or its host is not listed.
        """
        if len(url) > LONGEST or not _PLAIN.fullmatch(url):
            raise _bad(url, param, "is no plain URL: ASCII without spaces and backslashes is needed, the rest as %XX")
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise _bad(url, param, f"is no URL: {error}") from None
        if parts.scheme not in _PORTS:
            raise _bad(url, param, "is not allowed: data:image/...;base64,... is, and https of the hosts listed here")
        name = parts.netloc.lower().removesuffix(f":{port}")
        if not _NAME.fullmatch(name):
            raise _bad(
                url, param, "has no plain host: a name or an address without a user, escapes or a dot at its end is"
            )
        port = _PORTS[parts.scheme] if port is None else port
        if not any(_fits(one, (parts.scheme, name, port)) for one in self._known):
            raise self._unlisted(parts.scheme, name, port, param)
        query = f"?{parts.query}" if parts.query else ""
        shown = "" if port == _PORTS[parts.scheme] else f":{port}"
        return f"{parts.scheme}://{name}{shown}{parts.path or '/'}{query}"

    def _unlisted(self, scheme: str, name: str, port: int, param: str) -> Refused:
        # Which are listed is told only of a name that is nearly one: it may say how a network is built.
        near = nearest(name, [one for _, one, _ in self._known])
        allowed = (
            "those of listed hosts are" if self._known else "none are, so send the bytes as data:image/...;base64,"
        )
        return Refused(
            400,
            f"URLs of {scheme}://{shorten(name, 80).strip(chr(39))}:{port} are not fetched here: {allowed}.{near}",
            code="host_not_allowed",
            param=param,
        )


def _entry(text: str) -> tuple[str, str, int]:
    """Scheme, name and port of an entry."""
    found = re.fullmatch(r"(?:(https?)://)?(\*\.)?([^/:@*]+|\[[^\]/@]+\])(?::([0-9]{1,5}))?/?", text.lower())
    if not found or not _NAME.fullmatch(found[3]) or (found[4] and not 0 < int(found[4]) < 65536):
        raise ValueError(
            f"--allow-host {shorten(text)} names no host: images.example.org, *.example.org or http://HOST:PORT do"
        )
    scheme = found[1] or "https"
    return scheme, (found[2] or "") + found[3], int(found[4] or _PORTS[scheme])


def _fits(known: tuple[str, str, int], asked: tuple[str, str, int]) -> bool:
    if (known[0], known[2]) != (asked[0], asked[2]):
        return False
    return asked[1].endswith(known[1][1:]) if known[1].startswith("*.") else asked[1] == known[1]


def _bad(url: str, param: str, why: str) -> Refused:
    return Refused(400, f"{param}: {shorten(url, 80)} {why}", code="bad_url", param=param)
