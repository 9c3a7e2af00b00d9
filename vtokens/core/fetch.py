"""Files behind URLs, fetched with care: by http or https from public addresses, of bounded size, in bounded time."""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from io import BufferedWriter
from pathlib import Path
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from vtokens.core.errors import shorten
from vtokens.core.reading import MEBIBYTE
from vtokens.core.writing import fresh

MOST = 512 * MEBIBYTE
"""Bytes."""
_SECONDS = 300.0
_PATIENCE = 10.0  # seconds without a byte
_REDIRECTS = 5
_BYTES = ("application/octet-stream", "binary/octet-stream", "application/mp4", "application/ogg")
"""Types of bytes that may be a picture or a video beside image/... and video/...; what they are is looked at later."""
_KEPT = "/%:@!$&'()*+,;=~?"
_HEADERS = {"User-Agent": "vtokens", "Accept": "image/*, video/*", "Accept-Encoding": "identity"}
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class Unfetched(OSError):
    """A host does not answer as it should."""


def is_url(text: str) -> bool:
    """Whether a text is written like a URL, of whatever scheme."""
    scheme, mark, _ = text.partition("://")
    return bool(mark) and scheme.replace("+", "").replace("-", "").replace(".", "").isalnum() and scheme[0].isalpha()


def fetch(
    url: str,
    target: Path,
    private: bool = False,
    most: int = MOST,
    seconds: float = _SECONDS,
    redirects: int = _REDIRECTS,
) -> None:
    """Write the picture or video behind a URL to a file.

    The address that was checked is the one that is connected to, whatever the name server says next; redirects are
    checked as the first address is. Proxies of the environment are not used, since nobody could say where they lead.

    Args:
        url: http or https, without a password.
        target: written anew.
        private: whether addresses of the own machine and network are allowed.
        most: bytes.
        seconds: all it may take, the handshake among it, without asking for its host's address, which has bounds of
            its own.
        redirects: how many are followed.

    Raises:
        ValueError: a URL that is not allowed, or a file of another kind or more bytes.
        OSError: nobody answers, or with an error.
    """
    end = time.monotonic() + seconds
    here = url
    for _ in range(redirects + 1):
        parts = _checked(here)
        if here != url and urlsplit(url).scheme == "https" and parts.scheme != "https":
            raise ValueError(f"{shorten(url)} leads from https to http, which is not allowed")
        try:
            found = _one(parts, here, target, private, most, end)
        except Unfetched:
            raise
        except TimeoutError as error:
            raise Unfetched(f"cannot fetch {shorten(here)}: no answer for {_PATIENCE:g} s") from error
        except (http.client.HTTPException, OSError) as error:
            raise Unfetched(f"cannot fetch {shorten(here)}: {type(error).__name__}: {error}") from error
        if found is None:
            return
        here = urljoin(here, found)
    if not redirects:
        raise ValueError(f"{shorten(url)} leads on to another URL: give that one")
    raise ValueError(f"{shorten(url)} leads on more than {redirects} times")


def _checked(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"{shorten(url)} is no URL: {error}") from error
    if parts.scheme not in ("http", "https"):
        raise ValueError(f"{shorten(url)} is not allowed: http and https are, and paths of files without a scheme")
    if not parts.hostname or port == 0:
        raise ValueError(f"{shorten(url)} names no host")
    if parts.username is not None or parts.password is not None:
        raise ValueError("a URL with a user or a password is not allowed: fetch the file first")
    return parts


def _one(parts: SplitResult, url: str, target: Path, private: bool, most: int, end: float) -> str | None:
    """Answer of one host: None if the file was written, else where it says that the file is."""
    name = str(parts.hostname).encode("idna").decode()
    line = _connected(name, parts, url, private, end)
    if parts.scheme == "https":
        line = ssl.create_default_context().wrap_socket(line, server_hostname=name, do_handshake_on_connect=False)
    # A host that sends a byte now and then, in the handshake or later, would never run into the socket's own limit.
    watch = threading.Timer(max(end - time.monotonic(), 0.0), _cut, [line])
    watch.daemon = True
    watch.start()
    ask = http.client.HTTPConnection(name, parts.port, timeout=_PATIENCE)
    ask.sock = line
    try:
        if isinstance(line, ssl.SSLSocket):
            line.do_handshake()
        path = quote(parts.path or "/", safe=_KEPT) + f"?{quote(parts.query, safe=_KEPT)}" * bool(parts.query)
        ask.request("GET", path, headers=_HEADERS)
        answer = ask.getresponse()
        if answer.status in (301, 302, 303, 307, 308) and answer.headers.get("Location"):
            return answer.headers["Location"]
        if answer.status != 200:
            raise Unfetched(f"cannot fetch {shorten(url)}: the host answers {answer.status} {answer.reason}")
        _check_kind(answer, url, most)
        _write(answer, url, target, most, end)
        return None
    finally:
        watch.cancel()
        ask.close()


def _connected(name: str, parts: SplitResult, url: str, private: bool, end: float) -> socket.socket:
    """A connection to the first address of a host that takes one; all of its addresses are checked before."""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise Unfetched(f"cannot fetch {shorten(url)}: no address is known for {shorten(name)} ({error})") from error
    addresses = [str(one[4][0]) for one in found]
    for address in addresses:
        if not private and not _public(address):
            raise ValueError(
                f"{shorten(url)} leads to {address}, which is no public address: --private-urls allows those of "
                "your own machine and network"
            )
    missed: OSError | None = None
    for address in dict.fromkeys(addresses):  # one of IPv6 may come first where this machine has no way there
        left = end - time.monotonic()
        if left <= 0:
            break
        try:
            line = socket.create_connection((address, port), timeout=min(left, _PATIENCE))
        except OSError as error:
            missed = error
        else:
            line.settimeout(_PATIENCE)
            return line
    raise missed or Unfetched(f"cannot fetch {shorten(url)}: it takes longer than is allowed")


def _public(address: str) -> bool:
    """Whether an address is one of the public internet, and what is packed into it too."""
    found = ipaddress.ip_address(address.partition("%")[0])
    inside: list[ipaddress.IPv4Address | None] = []
    if isinstance(found, ipaddress.IPv6Address):
        inside = [found.ipv4_mapped, found.sixtofour, found.teredo[1] if found.teredo else None]
        if found in _NAT64:
            inside.append(ipaddress.IPv4Address(int(found) & 0xFFFFFFFF))
    packed = [one for one in inside if one is not None]
    if packed:
        return all(_public(str(one)) for one in packed)
    return found.is_global and not found.is_multicast


def _check_kind(answer: http.client.HTTPResponse, url: str, most: int) -> None:
    kind = answer.headers.get_content_type() if answer.headers.get("Content-Type") else "no type"
    if not kind.startswith(("image/", "video/")) and kind not in _BYTES:
        raise ValueError(f"{shorten(url)} is {kind}: a picture or a video (image/..., video/...) is needed")
    if answer.length is not None and answer.length > most:
        raise ValueError(f"{shorten(url)} has {answer.length:,} bytes: at most {most:,} are fetched")


def _write(answer: http.client.HTTPResponse, url: str, target: Path, most: int, end: float) -> None:
    told, size = answer.length, 0
    with fresh(target) as raw, BufferedWriter(raw) as file:
        while part := answer.read1(MEBIBYTE):
            size += len(part)
            if size > most:
                raise ValueError(f"{shorten(url)} has more than {most:,} bytes, the most that are fetched")
            file.write(part)
    if time.monotonic() >= end:
        raise Unfetched(f"cannot fetch {shorten(url)}: it takes longer than is allowed")
    if told is not None and size < told:
        raise Unfetched(f"cannot fetch {shorten(url)}: {size:,} of {told:,} bytes came")


def _cut(line: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it is closed by now
        line.shutdown(socket.SHUT_RDWR)
