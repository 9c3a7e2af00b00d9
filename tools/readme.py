"""Writes the README's tables from the registries and the recorded results: `python tools/readme.py`."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import filter_page
import pages
import sections

from vtokens.adapters import adapter_class, models
from vtokens.strategies import Facts, Saliency, describe, get, list_strategies

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
RESULTS = ROOT / "benchmarks" / "results"
KEEPS = (0.5, 0.25, 0.1)


def support() -> str:
    """The strategy x model table, from the registries."""
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
    try:
        signals = get(name)().needs(Facts(family, depth=32, tower_depth=24, has_cls=True)).signals
    except ValueError:  # it has to be calibrated for a model, and asks the tower nothing
        signals = ()
    asks_tower = any(isinstance(signal, Saliency) for signal in signals)
    return f"yes ({adapter_class(family).saliency})" if asks_tower else "yes"


def results() -> str:
    """Speed beside accuracy, from the recorded benchmarks."""
    speed = {row["strategy"]: row for row in _read("prefill-cpu.json")["batch_1"]}
    scenes = {(row["strategy"], row["keep"]): row["accuracy"]["overall"] for row in _read("scenes-llava.json")["rows"]}
    lines = [
        "| strategy | keep | first token | of the ideal | peak memory | KV cache | accuracy on scenes |",
        "|---|---|---|---|---|---|---|",
        f"| none | 1 | 1.00x | | 1.00 | 1.00 | {_share(scenes['none', 1.0])} |",
    ]
    for name in (name for name in list_strategies() if "keep" in describe(name).fields):
        for keep in KEEPS:
            row = speed[f"{name}(keep={keep})"]
            cells = [
                f"{row['speed_up']['median']:.2f}x",
                f"{row['of_ideal']['median']:.0%}",
                f"{row['peak_bytes']['pruned'] / row['peak_bytes']['unpruned']:.2f}",
                f"{row['kv_ratio']:.2f}",
                _share(scenes[name, keep]),
            ]
            lines.append(f"| `{name}` | {keep} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _read(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def _share(part: dict[str, float]) -> str:
    return f"{part['share']:.3f} [{part['low']:.3f}, {part['high']:.3f}]"


def tested() -> str:
    """The releases the tests ran on, from `make test-matrix`, and those they did not."""
    found = json.loads((ROOT / "requirements" / "tested.json").read_text(encoding="utf-8"))
    lines = [
        "| tested with | Python | torch | transformers | on | engine and strategy tests |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in sorted(found.items(), key=lambda item: item[1]["transformers"]):
        failed = f", {row['failed']} failed" if row["failed"] else ""
        lines.append(
            f"| {name} | {row['python']} | {row['torch']} | {row['transformers']} | {row['device']} "
            f"| {row['passed']:,} passed{failed}, {row['skipped']} skipped ({row['date']}) |"
        )
    prefix = "Programming Language :: Python :: "
    named = {text.removeprefix(prefix) for text in _project()["classifiers"] if text.startswith(f"{prefix}3.")}
    missing = sorted(named - {row["python"].rpartition(".")[0] for row in found.values()})
    lines += [
        "",
        f"The whole suite runs on what `requirements/` pins: {_pins('torch', 'transformers')}. **Not run:** Python "
        f"{', '.join(missing)} (resolved in the lock, with a wheel for each package), other releases of torch and "
        "transformers in the allowed ranges, and whatever needs a GPU. `make test-matrix` fills this table.",
        "",
    ]
    return "\n".join(lines)


def _pins(*names: str) -> str:
    lines = (ROOT / "requirements" / "core.txt").read_text(encoding="utf-8").splitlines()
    held = {name: pin for name, _, pin in (line.partition("==") for line in lines)}
    return ", ".join(f"{name} {held[name]}" for name in names)


def _project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


SECTIONS = {"support": support, "results": results, "tested": tested}


def updated(text: str) -> str:
    """`text` with fresh tables between their markers."""
    return sections.fill(text, SECTIONS, "python tools/readme.py")


if __name__ == "__main__":
    pages.write()
    filter_page.write()
    README.write_text(updated(README.read_text(encoding="utf-8")), encoding="utf-8")
