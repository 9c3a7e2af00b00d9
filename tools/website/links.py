"""Links of the repository as links of the site: to a page where there is one, else to the file on the code host."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable

from brought import PAGES, ROOT

BRANCH = "main"
_LINK = re.compile(r"(\]\()([^)\s]+)(\))")
_CODE = re.compile(
    r"(^(?P<fence>```+|~~~+).*?^(?P=fence)[ \t]*$|(?P<tick>`+)[^`\n].*?(?P=tick))", re.MULTILINE | re.DOTALL
)


def rewritten(markdown: str, path: str, page: str, repository: str) -> str:
    """The text of a page of the site.

    Args:
        markdown: the text of the file.
        path: where the file lies in the repository.
        page: where the page lies in the site's sources.
        repository: the address of the code host.
    """
    return _outside_code(
        markdown, lambda text: _LINK.sub(lambda m: m[1] + _link(m[2], path, page, repository) + m[3], text)
    )


def named(html: str, url: str, places: dict[str, str]) -> str:
    """Public names in running text (`vtokens.attach`, `vtokens.load(...)`) as links to the reference.

    Args:
        html: the content of a page.
        url: where the page lies on the site.
        places: where each public name is told.
    """

    def linked(found: re.Match[str]) -> str:
        place = places.get(found[1])
        return f'<a href="{posixpath.relpath(place, url or ".")}">{found[0]}</a>' if place else found[0]

    parts = re.split(r"(<(a|pre|h\d)\b.*?</\2>)", html, flags=re.DOTALL)
    parts[::3] = [re.sub(r"<code>(vtokens[\w.]*)(?:\([^<]*\))?</code>", linked, part) for part in parts[::3]]
    del parts[2::3]
    return "".join(parts)


def _outside_code(markdown: str, change: Callable[[str], str]) -> str:
    parts, end = [], 0
    for code in _CODE.finditer(markdown):
        parts += [change(markdown[end : code.start()]), code[0]]
        end = code.end()
    return "".join([*parts, change(markdown[end:])])


def _link(target: str, path: str, page: str, repository: str) -> str:
    for form in ("blob", "tree"):  # an address of the repository itself, as an index needs it
        target_of = f"{repository}/{form}/{BRANCH}/"
        if target.startswith(target_of):
            target, path = target.removeprefix(target_of), ""
    if re.match(r"[a-z+.-]+:|#|//", target):
        return target
    file, mark, anchor = target.partition("#")
    found = posixpath.normpath(posixpath.join(posixpath.dirname(path), file))
    place = ROOT / found
    if place.is_dir() and (
        f"{found}/README.md" in PAGES or ((place / "README.md").exists() and found.startswith("docs/"))
    ):
        found = f"{found}/README.md"
    there = PAGES.get(found) or (found.removeprefix("docs/") if found.startswith("docs/") else None)
    if there is not None and not place.is_dir():
        return posixpath.relpath(there, posixpath.dirname(page) or ".") + mark + anchor
    if not place.exists():  # left as it is, so that mkdocs says so
        return target
    return f"{repository}/{'tree' if place.is_dir() else 'blob'}/{BRANCH}/{found}{mark}{anchor}"
