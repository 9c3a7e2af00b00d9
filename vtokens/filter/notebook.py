"""What a notebook shows of a checked response: the text with what was flagged marked, and a table of its mentions."""

from __future__ import annotations

from collections.abc import Sequence

from vtokens.core import notebook
from vtokens.filter.judged import Judged

_MARK = "font-weight:bold;text-decoration:underline;background:rgba(239,68,68,.3);color:inherit"
_MOST = 200  # mentions that the table lists


def report_html(
    response: str, mentions: Sequence[Judged], unjudged: Sequence[str], calibrated: bool,
    more: Sequence[str] = (),
) -> str:  # fmt: skip
    """A report in HTML; the response is escaped, whatever a model wrote. Arguments are those of the report."""
    parts, end = [], 0
    flagged = [judged for judged in mentions if judged.flagged]
    for judged in sorted(flagged, key=lambda judged: int(judged.start)):
        start = max(judged.start, end)  # mentions may overlap
        if judged.end > start:
            parts += [notebook.text(response[end:start]), _marked(response[start : judged.end])]
            end = judged.end
    parts.append(notebook.text(response[end:]))
    rows = [(judged.text, judged.kind, f"{judged.p:.3f}", "flagged" if judged.flagged else "") for judged in mentions]
    word = "p" if calibrated else "score (uncalibrated)"
    notes = [] if len(rows) <= _MOST else [f"and {len(rows) - _MOST} more mentions"]
    if not rows:
        notes.append("names nothing that could be checked")
    if unjudged:
        notes.append(f"not judged: {', '.join(map(repr, unjudged))}")
    notes += more
    return notebook.block(
        f'<p style="white-space:pre-wrap;margin:4px 0">{"".join(parts)}</p>',
        notebook.table(("mention", "kind", word, ""), rows[:_MOST]) if rows else "",
        *map(notebook.line, notes),
    )


def _marked(text: str) -> str:
    return f'<span style="{_MARK}">{notebook.text(text)}</span>'
