"""BibTeX of what strategies and recipes come from, and of vtokens: `vtokens cite`, `vtokens.strategies.cite`."""

from __future__ import annotations

import ast
import functools
import importlib
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from vtokens.core.errors import unknown
from vtokens.core.source import sources
from vtokens.core.written import name_of, value_of
from vtokens.strategies.registry import describe, list_strategies

if TYPE_CHECKING:
    from vtokens.strategies.spec import Spec

OWN = "vtokens"
"""The key of the library's own entry."""
_REFERENCES = "references.bib"
_RECIPES = "vtokens.recipes.looking"
_FUNCTIONS = {
    "aks": ("AKS, arXiv:2502.21271", ""),
    "bolt": ("BOLT, arXiv:2503.21483", ""),
    "date": ("DATE, arXiv:2509.09263", ""),
    "opera": ("OPERA, arXiv:2311.17911", "CVPR 2024"),
    "quota": ("QuoTA, arXiv:2503.08689", ""),
    "tstar": ("T*, arXiv:2504.02259", "CVPR 2025"),
    "zoom": ("MLLMs Know Where to Look, arXiv:2502.17422", "ICLR 2025"),
}
"""Recipes that are functions, and so no registry holds: paper and venue."""
_VENUES = {
    "AAAI": "Proceedings of the AAAI Conference on Artificial Intelligence",
    "ACL": "Proceedings of the Annual Meeting of the Association for Computational Linguistics",
    "ACL Findings": "Findings of the Association for Computational Linguistics: ACL",
    "CVPR": "Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition",
    "ECCV": "Proceedings of the European Conference on Computer Vision",
    "EMNLP": "Proceedings of the Conference on Empirical Methods in Natural Language Processing",
    "ICCV": "Proceedings of the IEEE/CVF International Conference on Computer Vision",
    "ICLR": "International Conference on Learning Representations",
    "ICML": "International Conference on Machine Learning",
    "NeurIPS": "Advances in Neural Information Processing Systems",
}
_JOURNALS = {"TMLR": "Transactions on Machine Learning Research"}
_ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5}(?:v\d+)?)")
_URL = re.compile(r"(?:https?://)?(github\.com/[\w.-]+/[\w.-]+)|\(repository ([\w.-]+/[\w.-]+)\)|(https?://[^\s;,)]+)")


@dataclass(frozen=True)
class Source:
    """What something comes from, as it says itself.

    Attributes:
        name: of a strategy or a recipe.
        paper, venue: as `vtokens.strategies.register` takes them; several papers stand between semicolons.
        settings: names of a recipe's settings.
    """

    name: str
    paper: str
    venue: str
    settings: tuple[str, ...] = ()

    def papers(self) -> list[str]:
        return [part.strip() for part in self.paper.split(";") if part.strip()]


def identifier(paper: str) -> tuple[str, str]:
    """The arXiv number that the text of a paper names, and the address; "" for what it does not name."""
    arxiv, url = _ARXIV.search(paper), _URL.search(paper)
    if url is None:
        return arxiv[1] if arxiv else "", ""
    repository = url[1] or (url[2] and f"github.com/{url[2]}")
    return arxiv[1] if arxiv else "", f"https://{repository}" if repository else url[3]


@functools.cache
def references() -> dict[str, dict[str, str]]:
    """The entries of the package's own BibTeX file by key, in its order: fields by name, and "type"."""
    found: dict[str, dict[str, str]] = {}
    for line in files(__package__).joinpath(_REFERENCES).read_text(encoding="utf-8").splitlines():
        if opening := re.fullmatch(r"@(\w+)\{(\w+),", line):
            found[opening[2]] = {"type": opening[1]}
        elif field := re.fullmatch(r"  (\w+) = \{(.*)\},", line):
            found[next(reversed(found))][field[1]] = field[2]
    return found


@functools.cache
def recipe_sources() -> dict[str, Source]:
    """What recipes come from, by name, read from their source: importing them imports torch."""
    found = [Source(name, *told) for name, told in _FUNCTIONS.items()]
    for module, source in sources(_RECIPES).items():
        if source is None:  # only bytecode is installed
            held: list[Any] = [*vars(importlib.import_module(module)).values()]
            own = [one for one in held if getattr(one, "__module__", "") == module and getattr(one, "paper", "")]
            found += [Source(one.name, one.paper, one.venue, tuple(one.__annotations__)) for one in own]
        elif "@recipe(" in source:
            found += [_recipe(node) for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    return {one.name: one for one in found if one.name}


def _recipe(node: ast.ClassDef) -> Source:
    """What a class says of itself under the decorator `recipe`; without a name if it stands under none."""
    calls = [one for one in node.decorator_list if isinstance(one, ast.Call) and name_of(one.func) == "recipe"]
    if not calls:
        return Source("", "", "")
    told = {word.arg: value_of(word.value) for word in calls[0].keywords}
    fields = [part for part in node.body if isinstance(part, ast.AnnAssign)]
    settings = [ast.unparse(part.target) for part in fields if "ClassVar" not in ast.unparse(part.annotation)]
    return Source(value_of(calls[0].args[0]), told.get("paper", ""), told.get("venue", ""), tuple(settings))


def cite(*specs: Spec) -> str:
    """BibTeX of the papers that strategies and recipes come from, each once, and of vtokens.

    Args:
        specs: what names strategies anywhere (with settings, strategies joined by "+", what a negative branch runs
            under), or recipes: `cite("visionzip+census", "crop")`.

    Returns:
        Entries, with a line before each that says for what. What has no paper is named in a line. A paper of which the
        package has no entry, such as a plugin's, gets one of what the strategy says, with a note that it is incomplete.

    Raises:
        TypeError: a value of another kind.
        ValueError: unknown names or settings, with the nearest right one.
        ImportError: a plugin cannot be loaded.

    >>> print(cite("fastv").splitlines()[0])
    % fastv
    """
    return _bibtex([source for spec in specs for source in _sources(spec)])


def cite_all() -> str:
    """BibTeX of the papers of every strategy and recipe, by name, and of vtokens."""
    return _bibtex([*map(_source, list_strategies()), *(one for _, one in sorted(recipe_sources().items()))])


def _sources(spec: Spec) -> Iterator[Source]:
    terms = _terms(spec) if isinstance(spec, str) else None
    if terms is None:
        yield from _strategies(spec)
        return
    for name, settings, term in terms:
        if name in recipe_sources():
            found = recipe_sources()[name]
            for one in settings:
                if one not in found.settings:
                    raise unknown(f"setting of the recipe {name!r}:", one, found.settings)
            yield found
        elif term == name:
            yield _source(name)
        else:
            yield from _strategies(term)


def _terms(text: str) -> list[tuple[str, list[str], str]] | None:
    """The name of each term of a spec, its settings and the term; None for what the parser of specs has to be asked."""
    try:
        node = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None
    parts: list[ast.expr] = []
    while isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        parts.append(node.right)
        node = node.left
    found = []
    for part in [node, *reversed(parts)]:
        name, keywords = (part.func, part.keywords) if isinstance(part, ast.Call) else (part, [])
        if not isinstance(name, ast.Name):
            return None
        settings = [str(word.arg) for word in keywords]
        found.append((name.id, settings, ast.get_source_segment(text.strip(), part) or ""))
    return [] if found == [("none", [], "none")] else found


def _strategies(spec: Spec) -> Iterator[Source]:
    from vtokens.strategies.spec import named  # torch is imported with it

    for cls in named(spec):
        yield _source(cls.name)


def _source(name: str) -> Source:
    try:
        card = describe(name)
    except ValueError as error:
        if not str(error).startswith("unknown strategy"):
            raise
        aliases = [alias for one in list_strategies() for alias in (one, *describe(one).aliases)]
        raise unknown("strategy or recipe", name, [*aliases, *recipe_sources()]) from None
    return Source(card.name, card.paper, card.venue)


def _bibtex(sources: list[Source]) -> str:
    entries: dict[str, dict[str, str]] = {}
    names: dict[str, list[str]] = {}
    without: list[str] = []
    for one in dict.fromkeys(sources):
        if not one.paper:
            without.append(one.name)
        for paper in one.papers():
            key, entry = _entry(one, paper, entries)
            entries.setdefault(key, entry)
            names.setdefault(key, []).append(one.name)
    lines = [f"% {', '.join(without)}: {'comes' if len(without) == 1 else 'come'} from no paper"] if without else []
    for key, entry in entries.items():
        lines += [f"% {', '.join(names[key])}", *_written(key, entry)]
    own = references()[OWN] | {"version": sys.modules[OWN].__version__}
    return "\n".join([*lines, "% the library", *_written(OWN, own)])


def _entry(source: Source, paper: str, taken: dict[str, dict[str, str]]) -> tuple[str, dict[str, str]]:
    arxiv, url = identifier(paper)
    for key, fields in references().items():
        if (arxiv and fields.get("eprint") == arxiv) or (url and fields.get("url") == url):
            return key, _published(fields, source.venue)
    return _made(source, paper, taken)


def _made(source: Source, paper: str, taken: dict[str, dict[str, str]]) -> tuple[str, dict[str, str]]:
    """An entry of what a strategy says of its paper, where the package has none."""
    arxiv, url = identifier(paper)
    title = _URL.sub("", _ARXIV.sub("", paper)).strip(" ,()") or paper
    fields = {"type": "misc", "title": f"{{{_plain(title)}}}"}
    fields |= {"eprint": arxiv, "archivePrefix": "arXiv"} if arxiv else {}
    if url or arxiv:
        fields["url"] = url or f"https://arxiv.org/abs/{arxiv}"
    fields |= {"note": f"Incomplete: made of what the strategy {_plain(source.name)} says of its paper"}
    key = next(
        key
        for key in (source.name, *(f"{source.name}_{number}" for number in range(2, 100)))
        if key not in references() and taken.get(key, fields) == fields
    )
    return key, _published(fields, source.venue)


def _published(fields: dict[str, str], venue: str) -> dict[str, str]:
    """The entry with where it was published, and when."""
    if not venue:
        return fields
    year = re.search(r"\b(?:19|20)\d\d\b", venue)
    name = " ".join(venue.replace(year[0] if year else "", "").split())
    place = {"journal": _JOURNALS[name]} if name in _JOURNALS else {"booktitle": _VENUES.get(name, _plain(name))}
    kind = {"type": "article" if name in _JOURNALS else "inproceedings"}
    return fields | kind | place | ({"year": year[0]} if year else {})


def _plain(text: str) -> str:
    """Text of somebody's own as BibTeX and LaTeX take it."""
    return re.sub(r"([&%$#_])", r"\\\1", re.sub(r"[{}\\]", "", text))


_ORDER = ("title", "author", "booktitle", "journal", "year", "version", "eprint", "archivePrefix", "url", "note")


def _written(key: str, fields: dict[str, str]) -> list[str]:
    told = [f"  {name} = {{{fields[name]}}}," for name in _ORDER if name in fields]
    return [f"@{fields['type']}{{{key},", *told, "}", ""]
