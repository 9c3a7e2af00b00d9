"""Writes the strategy x model table of the README from the registries: `python tools/support_table.py`."""

from __future__ import annotations

from pathlib import Path

from vtokens.adapters import adapter_class, models
from vtokens.strategies import Facts, Saliency, describe, get, list_strategies

README = Path(__file__).parent.parent / "README.md"
START, END = "<!-- support table: python tools/support_table.py -->\n", "<!-- end of the support table -->\n"


def table() -> str:
    """The table as Markdown."""
    families = models()
    lines = [
        f"| strategy | acts at | {' | '.join(f'`{family}`' for family in families)} |",
        f"|---|---|{'---|' * len(families)}",
    ]
    for name in list_strategies():
        cells = [_cell(name, family) for family in families]
        lines.append(f"| `{name}` | {', '.join(describe(name).stages)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(name: str, family: str) -> str:
    signals = get(name)().signals(Facts(family, depth=32, tower_depth=24, has_cls=True))
    asks_tower = any(isinstance(signal, Saliency) for signal in signals)
    return f"yes ({adapter_class(family).saliency})" if asks_tower else "yes"


def updated(text: str) -> str:
    """`text` with a fresh table between its markers."""
    head, rest = text.split(START)
    return head + START + table() + END + rest.split(END)[1]


if __name__ == "__main__":
    README.write_text(updated(README.read_text(encoding="utf-8")), encoding="utf-8")
