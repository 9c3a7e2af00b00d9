"""Writes what type checkers know of options that are given by name: `python tools/options.py`.

`vtokens.attach(model, "todre", kep=0.1)` is refused when it runs, since strategies are looked at then. For a checker to
see it before, their fields stand in a module, written from the classes; so do those of recipes and `generate`.
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from transformers import GenerationConfig

from vtokens.recipes.looking.registry import recipes
from vtokens.strategies import get, list_strategies

ROOT = Path(__file__).parent.parent
STRATEGIES = ROOT / "vtokens" / "strategies" / "options.py"
RECIPES = ROOT / "vtokens" / "recipes" / "options.py"
GENERATE = ROOT / "vtokens" / "core" / "generate_options.py"

BEYOND = {"logits_processor": "Any", "stopping_criteria": "Any", "streamer": "Any"}
"""What `generate` takes beside the fields of its configuration, and a recipe hands on."""
_LEFT_OUT = ("transformers_version",)
_GENERATE = {
    "bool": "do_sample early_stopping output_attentions output_hidden_states output_logits output_scores "
    "return_dict_in_generate use_cache",
    "float": "length_penalty max_time min_p repetition_penalty temperature top_p typical_p",
    "int": "max_length max_new_tokens min_length min_new_tokens no_repeat_ngram_size num_beams num_return_sequences "
    "top_k",
    "str | list[str]": "stop_strings",
}
_TYPES = {name: kind for kind, names in _GENERATE.items() for name in names.split()}

_HEAD = '''"""{what}

Written by `python tools/options.py`. A checker holds calls against it; nothing reads it at run time.
"""

from __future__ import annotations

{imports}


'''


def strategy_fields() -> dict[str, str]:
    """Field -> its type as a caller may write it: of all strategies of the package, without `keep`."""
    kinds: dict[str, list[Any]] = {}
    for name in list_strategies():
        cls = get(name)
        if cls.__module__.startswith("vtokens."):
            _add(kinds, cls)
    kinds.pop("keep")  # every function has it as an argument of its own
    return {name: _union(kinds[name]) for name in sorted(kinds)}


def recipe_settings() -> dict[str, str]:
    """Setting -> its type, of all recipes by name."""
    kinds: dict[str, list[Any]] = {}
    for cls in recipes().values():
        _add(kinds, cls)
    return {name: _union(kinds[name]) for name in sorted(kinds)}


def generate_options() -> dict[str, str]:
    """Option of `generate` -> its type, where that is simple."""
    names = {name for name in vars(GenerationConfig()) if not name.startswith("_")} - {*_LEFT_OUT}
    return {name: _TYPES.get(name, "Any") for name in sorted(names)} | BEYOND


def strategies_module() -> str:
    """The text of vtokens/strategies/options.py."""
    fields = strategy_fields()
    says = (
        "The fields that strategies of the package have, `keep` apart: which of them has which is seen at run time.\n\n"
        "    A strategy of another package has fields of its own: write them into the spec, `mine(width=3)`, or give\n"
        "    the strategy itself, `Mine(width=3)`, which a checker knows.\n    "
    )
    return _head("The fields of strategies, as keyword arguments of `attach`, `load` and `parse`.", fields) + _typed(
        "StrategyOptions", "TypedDict", says, fields
    )


def generate_module() -> str:
    """The text of vtokens/core/generate_options.py."""
    options = generate_options()
    beams = {"num_beams": options.pop("num_beams")}
    parts = (
        _typed("OnwardOptions", "TypedDict", "The options of `generate`, but for the number of beams.", options),
        _typed("GenerateOptions", "OnwardOptions", "The options of `generate`.", beams),
    )
    return _head("The options of transformers' `generate`, as keyword arguments.", options) + "\n\n".join(parts)


def recipes_module() -> str:
    """The text of vtokens/recipes/options.py."""
    settings = recipe_settings()
    says = "The settings that recipes by name have, and options of `generate`."
    head = _head("What recipes take by name.", settings, typed=False)
    return head + _typed("RecipeOptions", "GenerateOptions", says, settings)


MODULES = {STRATEGIES: strategies_module, RECIPES: recipes_module, GENERATE: generate_module}
"""Module -> what writes it."""


def _add(kinds: dict[str, list[Any]], cls: Any) -> None:
    hints = get_type_hints(cls)
    for field in dataclasses.fields(cls):
        if field.init:
            kinds.setdefault(field.name, []).append(hints[field.name])


def _head(what: str, fields: Mapping[str, str], typed: bool = True) -> str:
    """The beginning of a module whose class is a plain `TypedDict`, or one of `generate`'s options."""
    text = " ".join(fields.values())
    known = [name for name in ("Any", "Literal") if name in text] + ["TypedDict"] * typed
    lines = ["from os import PathLike"] * ("PathLike" in text) + [f"from typing import {', '.join(known)}"]
    ours = "" if typed else "\n\nfrom vtokens.core.generate_options import GenerateOptions"
    return _HEAD.format(what=what, imports="\n".join(lines) + ours)


def _typed(name: str, base: str, says: str, fields: Mapping[str, str]) -> str:
    lines = "\n".join(f"    {field}: {kind}" for field, kind in fields.items())
    return f'class {name}({base}, total=False):\n    """{says}"""\n\n{lines}\n'


def _union(kinds: Iterable[Any]) -> str:
    """One annotation for all of these, each alternative once; whole numbers do for any number."""
    found = dict.fromkeys(_plain(text for kind in kinds for text in _alternatives(kind)))
    choices = {value: None for kind in kinds for value in _choices(kind)}
    if choices:
        found[f"Literal[{', '.join(map(repr, choices))}]"] = None
    none = ["None"] if found.pop("None", 0) is None else []
    return " | ".join([*found, *none])


def _alternatives(kind: Any) -> list[str]:
    if get_origin(kind) in (Union, UnionType):
        return [text for part in get_args(kind) for text in _alternatives(part)]
    if get_origin(kind) is Literal:
        return []
    if get_origin(kind) is tuple:
        parts = [part for part in get_args(kind) if part is not ...]
        inside = [" | ".join(_plain(_alternatives(part))) for part in parts]
        more = ", ..." if ... in get_args(kind) else ""
        return [f"list[{' | '.join(_plain(inside))}]", f"tuple[{', '.join(inside)}{more}]"]
    # A path stands for its text, as vtokens.strategies.fields reads it.
    return ["str", "PathLike[str]"] if kind is str else [_text(kind)]


def _plain(texts: Iterable[str]) -> list[str]:
    """Each once, and no whole numbers where any number will do."""
    found = list(dict.fromkeys(texts))
    return [text for text in found if text != "int" or "float" not in found]


def _choices(kind: Any) -> tuple[Any, ...]:
    if get_origin(kind) in (Union, UnionType):
        return tuple(value for part in get_args(kind) for value in _choices(part))
    return get_args(kind) if get_origin(kind) is Literal else ()


def _text(kind: Any) -> str:
    if kind is NoneType:
        return "None"
    return kind.__name__ if isinstance(kind, type) and get_origin(kind) is None else str(kind)


def formatted(text: str) -> str:
    """`text` as `ruff format` leaves it."""
    command = [sys.executable, "-m", "ruff", "format", "--stdin-filename", str(STRATEGIES), "-"]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True, cwd=ROOT).stdout


def write() -> None:
    """Write the modules."""
    for path, text in MODULES.items():
        path.write_text(formatted(text()), encoding="utf-8")


if __name__ == "__main__":
    write()
