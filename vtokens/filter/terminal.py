"""Reports on a terminal: flagged spans are underlined and red, with their probability behind them."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vtokens.core.terminal import printable
from vtokens.filter.report import ResponseReport

_SHOWN = 8  # of what was not judged
_BAD, _NUMBER, _FINE = "underline bold red", "red", "green"


def show(report: ResponseReport, console: Console | None = None) -> None:
    """Print a report: the response, a line a mention, and what the numbers mean.

    Without colours (NO_COLOR, a pipe, a file) unsupported spans stand in square brackets.
    """
    console = Console() if console is None else console
    plain = not console.is_terminal or console.no_color or console.color_system is None
    console.print(marked(report, plain), soft_wrap=not console.is_terminal)
    if report.mentions:
        console.print(_table(report))
    console.print(printable(summary(report)), soft_wrap=True, highlight=False, markup=False)


def marked(report: ResponseReport, plain: bool = False) -> Text:
    """The response with the flagged spans underlined, coloured and followed by their probability.

    plain: put the spans in square brackets as well. What would steer the terminal is escaped (`printable`).
    """
    response, out = report.response, Text()
    ends = {judged.mention.end: judged for judged in sorted(report.flagged, key=lambda one: one.p)}
    starts = {judged.mention.start for judged in report.flagged} if plain else set()
    cuts = sorted({0, len(response), *ends, *(judged.mention.start for judged in report.flagged)})
    for start, end in zip(cuts, [*cuts[1:], len(response)], strict=True):
        if start in ends:
            out.append("]" if plain else "", _BAD)
            out.append(f" ({ends[start].p:.2f})", _NUMBER)
        if start in starts:
            out.append("[", _BAD)
        bad = any(judged.mention.start <= start < judged.mention.end for judged in report.flagged)
        out.append(printable(response[start:end]), _BAD if bad else "")
    return out


def summary(report: ResponseReport) -> str:
    """How many mentions are flagged, and what their numbers and the threshold are worth."""
    word = "probability" if report.calibrated else "score"
    count, flagged = len(report.mentions), len(report.flagged)
    lines = [f"{flagged} of {count} {'mention' if count == 1 else 'mentions'} flagged"]
    if not report.checked:
        return "\n".join(_left(report))
    if not count:
        return "\n".join(["nothing is mentioned that could be checked, so nothing was judged", *_left(report)])
    if report.certificate is not None:
        lines.append(str(report.certificate))
    elif report.threshold is not None:
        lines[0] += f": {word} above {report.threshold:g}"
    if not report.calibrated:
        lines.append("uncalibrated: scores rank mentions, they are no probabilities")
    return "\n".join([*lines, *_left(report)])


def _left(report: ResponseReport) -> list[str]:
    """What was not judged, and what else has to be known."""
    lines = [f"note: {note}" for note in report.notes]
    if report.unjudged:
        more = "" if len(report.unjudged) <= _SHOWN else f" and {len(report.unjudged) - _SHOWN} more"
        lines.append(f"not judged: {', '.join(map(repr, report.unjudged[:_SHOWN]))}{more}")
    return lines


def _table(report: ResponseReport) -> Table:
    claims = [printable(f"not: {m.name}" if m.negated else m.name) for m in (one.mention for one in report.mentions)]
    differs = any(claim != printable(one.mention.text) for claim, one in zip(claims, report.mentions, strict=True))
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("", "p" if report.calibrated else "score", "mention", "kind", *(["claims"] if differs else [])):
        table.add_column(name, overflow="fold")
    for judged, claim in zip(report.mentions, claims, strict=True):
        cells = [
            Text("!" if judged.flagged else ""),
            Text(f"{judged.p:.2f}", _NUMBER if judged.flagged else _FINE),
            Text(printable(judged.mention.text), _BAD if judged.flagged else _FINE),
            Text(printable(judged.mention.kind)),
            Text("" if claim == printable(judged.mention.text) else claim),
        ]
        table.add_row(*cells[: len(table.columns)])
    return table
