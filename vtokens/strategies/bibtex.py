"""BibTeX entries of what says where it comes from: those of the package, and made ones for papers that it lacks."""

from __future__ import annotations

import functools
import re
import sys
from dataclasses import dataclass
from importlib.resources import files

OWN = "vtokens"
"""The key of the library's own entry."""
_REFERENCES = "references.bib"
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


def bibtex(sources: list[Source]) -> str:
    """Entries of the papers of all sources, each once, with a line before each that says for what, and of vtokens."""
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
