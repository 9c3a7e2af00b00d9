"""What works with what: the tables of docs/support.md and the README's, from the registries and adapters.

`python tools/readme.py` writes them too.
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import sections
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from vtokens.adapters import adapter_class, models
from vtokens.adapters.fits import fit, tower_scores
from vtokens.strategies import describe, list_strategies

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "support.md"
#: The folder under vtokens/tables, who reads it, and what finds such numbers for other models.
CALIBRATED = (
    ("thresholds", "dymu", "vtokens calibrate dymu MODEL --images FOLDER --out FILE"),
    ("sinks", "var", "vtokens calibrate var MODEL --out FILE"),
    ("patterns", "mminference", "vtokens search-patterns MODEL --out FILE"),
)


def families() -> str:
    """A row for each family: its class, checkpoints, what it is shown, where its tower's scores come from."""
    lines = ["| family | class | for example | takes | scores of the tower |", "|---|---|---|---|---|"]
    for family in models():
        adapter = adapter_class(family)
        name = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES[family]
        examples = ", ".join(f"`{example}`" for example in adapter.examples)
        lines.append(f"| `{family}` | `{name}` | {examples} | {', '.join(_takes(family))} | {tower_scores(family)} |")
    return "\n".join(lines) + "\n"


def matrix() -> str:
    """Every strategy with every family; in brackets the tower's scores it asks for, or that it has to be calibrated."""
    lines = [
        f"| strategy | acts at | {' | '.join(f'`{family}`' for family in models())} |",
        f"|---|---|{'---|' * len(models())}",
    ]
    for name in list_strategies():
        cells = [fit(name, family) for family in models()]
        lines.append(f"| [`{name}`](strategies/{name}.md) | {', '.join(describe(name).stages)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def calibrated() -> str:
    """The numbers found for a model that come with the package."""
    lines = ["| numbers | for | ship for | for other models |", "|---|---|---|---|"]
    for folder, strategy, command in CALIBRATED:
        shipped = sorted(path.stem for path in (ROOT / "vtokens" / "tables" / folder).glob("*.json"))
        names = ", ".join(f"`{name}`" for name in shipped)
        lines.append(f"| {folder} | `{strategy}` | {names} | `{command}` |")
    return "\n".join(lines) + "\n"


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


def _takes(family: str) -> list[str]:
    """What a family is shown, by the modalities that it declares."""
    return [f"{modality}s" for modality in adapter_class(family).anatomy.towers]


def _pins(*names: str) -> str:
    lines = (ROOT / "requirements" / "core.txt").read_text(encoding="utf-8").splitlines()
    held = {name: pin for name, _, pin in (line.partition("==") for line in lines)}
    return ", ".join(f"{name} {held[name]}" for name in names)


def _project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


SECTIONS = {"families": families, "matrix": matrix, "calibrated": calibrated, "tested": tested}


def updated(text: str) -> str:
    """`text` of docs/support.md with fresh tables between their markers."""
    return sections.fill(text, SECTIONS, "python tools/support.py")


def write() -> None:
    """Bring docs/support.md up to date."""
    PAGE.write_text(updated(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    write()
