"""The page of a comparison: a card for each strategy, with its pictures, its answer and what it cost."""

from __future__ import annotations

from collections.abc import Sequence

from vtokens.core.notebook import text
from vtokens.report.compared import Compared
from vtokens.report.pictures import data_uri

STYLE = """
.vt-compare{--ink:#1a1c20;--soft:#5b606b;--line:#d5d8de;--ground:#fff;--same:#137333;--other:#b3261e;
font:15px/1.45 system-ui,"DejaVu Sans",sans-serif;color:var(--ink);background:var(--ground);padding:4px}
@media (prefers-color-scheme:dark){.vt-compare{--ink:#e8eaed;--soft:#a3a9b4;--line:#3c4048;--ground:#17181b;
--same:#81c995;--other:#f28b82}}
.vt-compare h1{font-size:1.35em;margin:0 0 .2em;overflow-wrap:anywhere}
.vt-compare .about{color:var(--soft);margin:0 0 1em;max-width:60em}
.vt-compare .cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(15em,1fr));gap:14px;align-items:start}
.vt-compare article{border:1px solid var(--line);border-radius:8px;padding:12px;min-width:0}
.vt-compare h2{font:600 1em/1.3 ui-monospace,"DejaVu Sans Mono",monospace;margin:0 0 8px;overflow-wrap:anywhere}
.vt-compare img{display:block;width:100%;height:auto;margin:0 0 8px;border-radius:4px}
.vt-compare .answer{margin:0 0 8px;font-size:1.05em;overflow-wrap:anywhere;white-space:pre-wrap}
.vt-compare .same{color:var(--same)}.vt-compare .other{color:var(--other)}
.vt-compare dl{display:grid;grid-template-columns:auto 1fr;gap:1px 10px;margin:0;font-size:.9em}
.vt-compare dt{color:var(--soft)}.vt-compare dd{margin:0;text-align:right;font-variant-numeric:tabular-nums}
.vt-compare .note{color:var(--soft);font-size:.85em;margin:0 0 8px}
"""


def page(question: str, where: str, rows: Sequence[Compared]) -> str:
    """A whole document, which needs nothing beside it and no network; arguments as those of `body`."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(question)}</title>"
        "<style>body{margin:0}body .vt-compare{min-height:100vh;box-sizing:border-box;padding:20px}</style></head>"
        f"<body>{body(question, where, rows)}</body></html>\n"
    )


def body(question: str, where: str, rows: Sequence[Compared]) -> str:
    """The same as a part of a document, for notebooks.

    Args:
        question: what was asked.
        where: what answered, and on which device.
        rows: the plain model first.
    """
    plain = rows[0]
    cards = "".join(_card(row, plain) for row in rows)
    about = (
        f"{where}. Dropped patches are dark, the darker the fewer decoder layers saw them; "
        "lines run around patches that were merged. "
        "Tokens are visual ones, averaged over layers; times to the first token are medians of three calls and hold "
        "for this machine; an answer is marked as the same where it is the plain model's, word for word."
    )
    return (
        f'<style>{STYLE}</style><main class="vt-compare"><h1>{text(question)}</h1>'
        f'<p class="about">{text(about)}</p><div class="cards">{cards}</div></main>'
    )


def _card(row: Compared, plain: Compared) -> str:
    name = row.title
    images = "".join(
        f'<img src="{data_uri(image)}" alt="{text(_described(name, number, len(row.drawn), row))}">'
        for number, image in enumerate(row.drawn, 1)
    )
    untold = f'<p class="note">Not drawn: {text(row.untold)}</p>' if row.untold and row is not plain else ""
    same = "" if row is plain else ' <span class="same">same</span>'
    if row.answer != plain.answer:
        same = ' <span class="other">different</span>'
    facts = "".join(f"<dt>{text(what)}</dt><dd>{text(value)}</dd>" for what, value in _facts(row, row is plain))
    answer = text(row.answer) if row.answer else "(no answer)"
    return (
        f'<article><h2>{text(name)}</h2>{images}{untold}<p class="answer">{answer}{same}</p><dl>{facts}</dl></article>'
    )


def _described(name: str, number: int, count: int, row: Compared) -> str:
    which = f"picture {number} of {count}" if count > 1 else "the picture"
    return f"{which}, {name}: {row.tokens:.1f} of {row.full} visual tokens a layer"


def _facts(row: Compared, plain: bool) -> list[tuple[str, str]]:
    """What a card lists, in words and numbers."""
    beside = "" if plain else f" ({row.first_token / row.first_token_full:.2f} of the time)"
    found = [
        ("tokens a layer", f"{row.tokens:.1f} of {row.full}"),
        ("first token", f"{1e3 * row.first_token:.3g} ms{beside}"),
    ]
    if plain:
        return [*found, ("prefill", f"{row.flops / 1e9:.3g} GFLOPs"), ("KV cache", f"{row.kv_bytes / 1e6:.3g} MB")]
    return [
        *found,
        ("selecting", f"{1e3 * row.select_seconds:.2g} ms"),
        ("prefill", f"{row.flops / row.flops_full:.0%} of FLOPs"),
        ("KV cache", f"{row.kv_bytes / row.kv_bytes_full:.0%}"),
    ]
