"""The page: everything it shows, put into the templates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from . import palette
from .answers import Answers, Question
from .charts import Chart, against_speed, against_tokens, summary_charts
from .findings import findings, podiums
from .flips import Flip, Flips, draw, pick
from .phases import PHASES, bars_of
from .pictures import caption, data_uri, drawn
from .relative import averaged, table
from .results import BASELINE, NAN, Results, order
from .scatter import panel
from .text import breaks, figure, keep_key, keep_text, p_text, share, signed

EXAMPLES, CARDS, LISTED = 4, 6, 300


def render(results: Results, answers: Answers, changes: Sequence[Flips]) -> str:
    """The page as HTML, complete in itself."""
    env = Environment(
        loader=PackageLoader("vtokens.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters.update(num=figure, share=share, breaks=breaks, keep=keep_text, kept=keep_key, p=p_text, signed=signed)
    styles = palette.styles(results.names)
    rows, bars = table(results), bars_of(results)
    others = [metric for metric in results.metrics if metric not in results.headlines]
    both = summary_charts(results)
    return env.get_template("page.html.j2").render(
        results=results,
        notes=_notes(results, answers),
        asked=answers.count or _counted(results),
        seeds=len({seed for _, seed in results.cells.values()}),
        nan=NAN,
        manifest=results.manifest,
        answers=answers,
        palette=palette,
        styles=styles,
        keeps=sorted(
            {keep_key(s): s for s in results.settings if s.name != BASELINE}.values(), key=lambda s: order(s.keep)
        ),
        findings=findings(results, rows),
        podiums=podiums(rows),
        tokens=_panels(
            [*([both[0]] if both else []), *(against_tokens(results, m) for m in results.headlines)], styles
        ),
        speed=_panels([*([both[1]] if both else []), *(against_speed(results, m) for m in results.headlines)], styles),
        other_tokens=_panels([against_tokens(results, m) for m in others], styles),
        other_speed=_panels([against_speed(results, m) for m in others], styles),
        relative=rows,
        averaged=averaged(results),
        bars=bars,
        longest=max((bar.total for bar in bars), default=NAN),
        phases=PHASES,
        changes=changes,
        most=max((max(len(c.lost), len(c.gained)) for c in changes), default=0),
        lost=[_card(results, f) for f in draw([f for c in changes for f in c.lost], CARDS, pictured=True)],
        gained=[_card(results, f) for f in draw([f for c in changes for f in c.gained], CARDS, pictured=True)],
        listed=draw([f for c in changes for part in (c.lost, c.gained) for f in part], LISTED),
        flipped=sum(len(c.lost) + len(c.gained) for c in changes),
        examples=[_example(results, question) for question in pick(answers, EXAMPLES)],
    )


def _notes(results: Results, answers: Answers) -> list[str]:
    notes = list(results.notes)
    if answers.unread:
        notes.append(f"{answers.unread} lines of samples.jsonl could not be read and are left out.")
    return notes


def _counted(results: Results) -> int:
    return sum(
        s.scores[m.task, m.name].n for s in results.settings for m in results.headlines if (m.task, m.name) in s.scores
    )


def _panels(charts: Sequence[Chart], styles: dict[str, palette.Style]) -> list[Any]:
    return [panel(chart, styles) for chart in charts if chart.marks]


def _card(results: Results, flip: Flip) -> dict[str, Any]:
    given = flip.question.given[flip.setting.key]
    image = drawn(flip.question, given)
    assert image is not None
    return {
        "flip": flip,
        "given": given,
        "before": flip.question.given[BASELINE],
        "image": data_uri(image),
        "size": image.size,
        "alt": caption(flip.question, given, flip.setting.label),
    }


def _example(results: Results, question: Question) -> dict[str, Any]:
    """The question, and for each strategy what it kept and answered at each keep."""
    strips: dict[str, list[dict[str, Any]]] = {}
    for setting in results.settings:
        given = question.given.get(setting.key)
        image = drawn(question, given) if given else None
        if given is None or image is None:
            continue
        strips.setdefault(setting.name, []).append(
            {
                "setting": setting,
                "given": given,
                "image": data_uri(image),
                "size": image.size,
                "alt": caption(question, given, setting.label),
            }
        )
    return {"question": question, "strips": strips, "widest": max(map(len, strips.values()), default=1)}
