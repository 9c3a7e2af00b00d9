"""The frames of docs/strategies, from what strategies say of themselves: the card of a page, and the list of pages."""

from __future__ import annotations

import re
from itertools import groupby

from shared import markdown

from vtokens.strategies import Description, describe, list_strategies
from vtokens.strategies.needed import WORDS
from vtokens.strategies.stages import STAGES

WHERE = {
    "pixels": "before the vision tower",
    "encode": "in the vision tower",
    "prompt": "before the decoder",
    "layer": "before a decoder layer",
    "rows": "on the rows that a decoder layer computes",
    "attend": "inside attention",
    "states": "on states of the decoder",
    "cache": "on cached keys",
    "logits": "on the logits",
}
KINDS = {
    "prune": "drops tokens",
    "merge": "merges tokens",
    "attend": "changes what is attended to",
    "contrast": "holds the answer against another",
}


def card(name: str) -> str:
    """What a strategy says of itself: stages, needs, defaults, source, and what shows that it is the method."""
    told = describe(name)
    stages = "; ".join(f"`{stage}`{_where(stage, ': ')}" for stage in told.stages)
    lines = [["stages" if len(told.stages) > 1 else "stage", stages]]
    if told.needs:
        needs = "; ".join(f"{one}: {WORDS[one]}" if one in WORDS else one for one in told.needs)
        lines.append(["needs", needs])
    if told.aliases:
        lines.append(["also called", ", ".join(f"`{alias}`" for alias in told.aliases)])
    lines.append(["defaults", ", ".join(map(_setting, told.fields.items()))])
    if told.paper:
        lines.append(["source", f"{told.paper}{f' ({told.venue})' if told.venue else ''}"])
    if told.evidence:
        lines.append(["evidence", told.told(show=_shown)])
    return markdown(["", ""], lines)


def index(_: str = "") -> str:
    """Every strategy by the first stage at which it acts and by what it does there."""
    told = sorted(map(describe, list_strategies()), key=_group)
    lines: list[str] = []
    for (stage, kind), group in groupby(told, key=_group):
        what = f"{_where(STAGES[stage]) or f'stage {STAGES[stage]}'}, {[*KINDS.values(), 'other'][kind]}"
        rows = []
        for one in group:
            source = f"{one.paper}{f' ({one.venue})' if one.venue else ''}"
            rows.append([f"[{one.name}]({one.name}.md)", one.summary, ", ".join(one.needs), source, _evidence(one)])
        table = markdown(["", "what it does", "needs", "source", "evidence"], rows)
        lines += [f"## {what[0].upper()}{what[1:]}", "", table]
    return "\n".join(lines)


def _evidence(told: Description) -> str:
    return f"{told.evidence}; {told.given[1]} with `{told.given[0]}`" if told.given else told.evidence


def _where(stage: str, before: str = "") -> str:
    return f"{before}{WHERE[stage]}" if stage in WHERE else ""


def _group(told: Description) -> tuple[int, int]:
    kinds, kind = [*KINDS], "contrast" if told.stages[0] == "logits" else told.kind
    return STAGES.index(told.stages[0]), kinds.index(kind) if kind in kinds else len(kinds)


def _setting(field: tuple[str, tuple[str, object]]) -> str:
    """A setting with its default, and the other choices where its annotation lists them."""
    name, (annotation, default) = field
    choices = [one for one in re.findall(r"""['"]([^'"]+)['"]""", annotation) if one != default]
    value = f'"{default}"' if isinstance(default, str) else f"{default}"
    listed = "Literal[" in annotation and choices
    others = " or ".join(f'`"{one}"`' for one in choices)
    return f"`{name}={value}`" + (f" (or {others})" if listed else "")


def _shown(test: str) -> str:
    file, _, name = test.partition("::")
    return f" ([`{name}`](../../{file}))" if file else ""
