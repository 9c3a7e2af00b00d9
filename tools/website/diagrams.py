"""Flow charts as tables: what each part is and what it follows from. The code host draws them, no script has to."""

from __future__ import annotations

import re
from itertools import pairwise

_CHART = re.compile(r"^```mermaid\n(flowchart (?P<way>\w+)\n.*?)^```$", re.MULTILINE | re.DOTALL)
_NODE = re.compile(r'(\w+)(?:\["(.*?)"\])?')
_HEADS = {"BT": "stands on", "TB": "comes after", "LR": "takes from", "RL": "takes from"}


def told(markdown: str) -> str:
    """The text with a table in place of each flow chart; a line that is no row of arrows raises `ValueError`."""
    return _CHART.sub(lambda found: _table(found[1].splitlines()[1:], _HEADS[found["way"]]), markdown)


def _table(lines: list[str], head: str) -> str:
    labels: dict[str, str] = {}
    before: dict[str, list[str]] = {}
    for line in filter(str.strip, lines):
        groups = [_nodes(part, line, labels) for part in line.split("-->")]
        if len(groups) == 1:
            raise ValueError(f"{line.strip()!r} is no row of arrows: tools/website/diagrams.py reads no other")
        for left, right in pairwise(groups):
            for one in right:
                before.setdefault(one, []).extend(left)
    rows = [f"| part | what it is | {head} |", "|---|---|---|"]
    titles = {name: label.partition("<br/>")[0] for name, label in labels.items()}
    for name, title in titles.items():
        about = labels[name].removeprefix(title).replace("<br/>", " ").strip()
        rows.append(f"| **{title}** | {about} | {', '.join(titles[one] for one in before.get(name, []))} |")
    return "\n".join(rows)


def _nodes(part: str, line: str, labels: dict[str, str]) -> list[str]:
    names = []
    for text in _apart(part):
        found = _NODE.fullmatch(text.strip())
        if not found:
            raise ValueError(
                f"{text.strip()!r} in {line.strip()!r} is no part: tools/website/diagrams.py reads no other"
            )
        names.append(found[1])
        if found[2] or found[1] not in labels:
            labels[found[1]] = found[2] or labels.get(found[1], found[1])
    return names


def _apart(part: str) -> list[str]:
    """What stands between ampersands outside of quotes."""
    return re.findall(r'(?:"[^"]*"|[^&"])+', part)
