"""Keys and who needs one: what files hold, what is let in, and on which addresses."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.serve.attacked import head, raw, sent_back, served, told
from vtokens.serve.keys import ANYONE, Keys, check_address, read_keys

FIRST, SECOND = "first-key-0123456789", "second-key-012345678"


def test_keys_come_from_a_file_or_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# who may ask\n\nalice: {FIRST}\n  {SECOND}\n")
    for keys in (read_keys(file, {}), read_keys(None, {"VTOKENS_API_KEYS": f"alice:{FIRST}, key-4:{SECOND}"})):
        assert len(keys) == 2
        assert keys.owner(f"Bearer {FIRST}") == "alice"
        assert keys.owner(f"bearer {SECOND}") == "key-4"
        assert FIRST not in repr(keys) + str(vars(keys))
    assert not read_keys(None, {})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "holds no key"),
        ("# nothing", "holds no key"),
        ("a: short", "the key 'a' has 5 characters: 16 to 512"),
        (f"a: {FIRST}\nb: {FIRST}", "the key 'b' is there twice"),
        (f"a: {FIRST}\na: {SECOND}", "the key 'a' is there twice"),
        (f"a b: {FIRST}", "a key has the name 'a b'"),
        (f"{ANYONE}: {FIRST}", "a key has the name 'anyone'"),
        ("a: first key 0123456789", "16 to 512 of ASCII without spaces"),
        ("a: schlüssel-0123456789", "16 to 512 of ASCII without spaces"),
    ],
)
def test_files_that_hold_no_keys(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "keys").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=says) as caught:
        read_keys(tmp_path / "keys", {})
    assert FIRST not in str(caught.value)


@pytest.mark.parametrize("header", [None, "", FIRST, "Bearer", "Bearer ", f"Basic {FIRST}", f"Bearer {FIRST}x",
                                    f"Bearer {FIRST[:-1]}", f"Bearer {FIRST} {SECOND}", "Bearer \udcff"])  # fmt: skip
def test_who_is_not_let_in(header: str | None) -> None:
    assert Keys([("a", FIRST), ("b", SECOND)]).owner(header) is None


def test_all_keys_are_compared_whichever_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each comparison is of whole hashes by `hmac`, and none is left out once one has fitted."""
    import hmac

    seen = []
    genuine = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: seen.append(len(a)) or genuine(a, b))
    keys = Keys([("a", FIRST), ("b", SECOND)])
    for header in (f"Bearer {FIRST}", f"Bearer {SECOND}", "Bearer x", None):
        keys.owner(header)
    assert seen == [32] * 8


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "localhost", "::1", "[::1]"])
def test_this_machine_needs_no_key(host: str) -> None:
    assert check_address(host, Keys())


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", "", "localhost.example.org", "127.1"])
def test_other_addresses_need_one(host: str) -> None:
    with pytest.raises(ValueError, match=r"no key is asked of them: give --keys FILE"):
        check_address(host, Keys())
    assert not check_address(host, Keys([("a", FIRST)]))


def test_the_server_lets_in_by_key() -> None:
    """401 in OpenAI's form before a body is read; whose key it is goes on; health is open, metrics as asked."""
    keys = Keys([("alice", FIRST), ("bob", SECOND)])
    with served(keys=keys) as port, served(keys=keys, open_metrics=True) as open_port, served() as free:
        for name, key in (("alice", FIRST), ("bob", SECOND)):
            answer = raw(port, head(authorization=f"Bearer {key}") + b"{}")
            assert sent_back(answer) == {"owner": name, "path": "/v1/chat/completions", "bytes": 2, "whole": True}
        for given in (None, "Bearer wrong", [f"Bearer {FIRST}"] * 2):
            answer = raw(port, head(authorization=given, content_length=1 << 20))
            status, error = told(answer)
            assert (status, error["code"]) == (
                (400, "bad_header") if isinstance(given, list) else (401, "invalid_api_key")
            )
            assert (b"www-authenticate: Bearer" in answer) == (status == 401)
        get = {"method": "GET", "content_type": None, "content_length": None}
        for path, statuses in {"/health": (200, 200), "/metrics": (401, 200), "/healthy": (401, 401), "/": (200, 200),
                               "/page/a.js": (200, 200), "/page": (401, 401), "/v1/models": (401, 401),
                               "/health/": (401, 401)}.items():  # fmt: skip
            assert tuple(int(raw(one, head(path, **get)).split()[1]) for one in (port, open_port)) == statuses, path
        assert sent_back(raw(free, head() + b"{}"))["owner"] == ANYONE
