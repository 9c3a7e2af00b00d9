"""What pages say of themselves in a sentence, and their tables, which scroll by themselves where they are wide."""

from __future__ import annotations

import re
from html import escape, unescape

from vtokens.strategies import describe, list_strategies

LONGEST = 160
_HEAD = re.compile(r"<thead>\s*<tr>\s*(?:<th[^>]*></th>\s*)+</tr>\s*</thead>\s*")
_FIRST = re.compile(r"(<tr>\s*)<td([^>]*)>(.*?)</td>", re.DOTALL)


def sentence(page: str, markdown: str) -> str:
    """A description for search engines and previews: a strategy's summary, else how the text begins."""
    name = page.removeprefix("strategies/").removesuffix(".md")
    if page.startswith("strategies/") and name in list_strategies():
        return describe(name).summary
    for block in re.split(r"\n\s*\n", markdown):
        text = " ".join(block.split())
        if re.match(r"[\w`*\[(]", text) and not text.startswith("```"):
            plain = re.sub(r"\[([^\]]*)\](\([^)]*\)|\[[^\]]*\])", r"\1", text)
            plain = re.sub(r"[`*]", "", plain)
            return plain if len(plain) <= LONGEST else plain[:LONGEST].rsplit(" ", 1)[0] + " …"
    return ""


def boost(name: str) -> int:
    """How far a strategy's page is lifted in searches: who types its name wants it first, before longer names too."""
    longer = [one for one in list_strategies() if one.startswith(name) and one != name]
    return 4 * (1 + 3 * len(longer))


def usage(name: str) -> str:
    """How a strategy is asked for, and where a reader goes from its page."""
    keep = describe(name).fields.get("keep", ("", None))[1]
    spec = name if keep is None else f"{name}(keep={keep})"
    asked = f'`strategy="{spec}"` in `vtokens.load` and `vtokens.attach`, `--strategy "{spec}"` on the command line'
    further = "[Which models it runs on](../support.md#strategies), [how all compare on scenes](../results.md)"
    return f"\n\n## Use it\n\n{asked}. {further}, [every strategy](README.md).\n"


def tables(html: str) -> str:
    """Each table in a box that scrolls, by the keyboard too; one without a head has its first cells for heads."""
    parts, section, count = [], "", 0
    for part in re.split(r"(<h[1-4][ >].*?</h[1-4]>|<table>.*?</table>)", html, flags=re.DOTALL):
        if part.startswith("<table>"):
            count += 1
            part = _boxed(part, f"Table {count}{section and f': {section}'}")
        elif part.startswith("<h"):
            section = escape(
                unescape(re.sub(r"<a class=\"headerlink.*?</a>|<[^>]*>", "", part, flags=re.DOTALL)).strip()
            )
        parts.append(part)
    return "".join(parts)


def _boxed(table: str, label: str) -> str:
    plain, headless = _HEAD.subn("", table)
    if headless:
        plain = _FIRST.sub(r'\1<th scope="row"\2>\3</th>', plain)
    plain = re.sub(r"<th([^>]*)></th>", r"<td\1></td>", plain)  # a corner, not a head that says nothing
    columns = plain.partition("</tr>")[0].count("</t")
    return (
        f'<div class="wide" style="--columns: {columns}" role="region" aria-label="{label}" tabindex="0">{plain}</div>'
    )


def named(html: str) -> str:
    """The theme's search dialog with a name, which it leaves without one."""
    dialog = 'data-md-component="search" role="dialog"'
    return html.replace(dialog, f'{dialog} aria-label="Search"')
