"""What `vtokens cite` prints is BibTeX, one true entry a paper, and every paper that a strategy names has one."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest

import vtokens
from vtokens.cli import main
from vtokens.strategies import cite, describe, list_strategies, registry
from vtokens.strategies.base import Strategy
from vtokens.strategies.bibtex import OWN, references
from vtokens.strategies.citations import cite_all, recipe_sources

FILE = Path(vtokens.__file__).parent / "strategies" / "references.bib"


def entries(text: str) -> dict[str, dict[str, str]]:
    """The entries of a BibTeX text, read character by character: values in braces, which may be nested."""
    found: dict[str, dict[str, str]] = {}
    at = text.find("@")
    while at >= 0:
        opening = text.index("{", at)
        comma = text.index(",", opening)
        key = text[opening + 1 : comma].strip()
        assert key not in found, f"{key} is there twice"
        fields, at = {"type": text[at + 1 : opening]}, comma + 1
        while (start := text.index("=", at) if "=" in text[at:] else -1) >= 0 and "}" not in text[at:start]:
            name, depth, end = text[at:start].strip(), 1, text.index("{", start)
            while depth:
                end += 1
                depth += {"{": 1, "}": -1}.get(text[end], 0)
            assert name not in fields, f"{key} has {name} twice"
            fields[name] = text[text.index("{", start) + 1 : end]
            assert text[end + 1] == ",", f"{key}: no comma behind {name}"
            at = end + 2
        assert text[at:].lstrip().startswith("}"), f"{key} is not closed"
        found[key] = fields
        at = text.find("@", text.index("}", at))
    return found


WRITTEN = entries(FILE.read_text(encoding="utf-8"))
PAPERS = {name: describe(name).paper for name in list_strategies()} | {n: s.paper for n, s in recipe_sources().items()}


def named(paper: str) -> list[str]:
    """The arXiv numbers and addresses in the text of a paper, by another rule than the library's: word by word."""
    words = [word.strip("(),;") for word in paper.split()]
    found = [word.removeprefix("arXiv:") for word in words if word.startswith("arXiv:")]
    found += [f"https://{word.removeprefix('https://')}" for word in words if "github.com/" in word or "://" in word]
    return found + [f"https://github.com/{b}" for a, b in pairwise(words) if a == "repository"]


def test_the_file_is_bibtex_and_in_order():
    """One entry a key, alphabetical, each with what a reader finds the paper by; plain ASCII, as old BibTeX wants."""
    assert list(WRITTEN) == sorted(WRITTEN)
    assert FILE.read_text(encoding="utf-8").isascii()
    assert {key: dict(sorted(fields.items())) for key, fields in WRITTEN.items()} == {
        key: dict(sorted(fields.items())) for key, fields in references().items()
    }
    for key, fields in WRITTEN.items():
        assert fields["title"].startswith("{"), key  # capitals stay
        assert fields["title"].endswith("}"), key
        assert fields["url"].startswith("https://"), key
        assert "author" in fields or "incomplete" in fields["note"], key
        if "eprint" in fields:
            assert re.fullmatch(r"\d{4}\.\d{5}(v\d)?", fields["eprint"]), key
            assert fields["archivePrefix"] == "arXiv"
            assert fields["year"] == f"20{fields['eprint'][:2]}", key


@pytest.mark.parametrize("name", [name for name, paper in PAPERS.items() if paper])
def test_every_paper_has_an_entry(name):
    """By the number or the address that the strategy itself names; nothing is made up."""
    places = [(fields.get("eprint"), fields["url"]) for fields in WRITTEN.values()]
    asked = named(PAPERS[name])
    assert len(asked) == PAPERS[name].count(";") + 1, PAPERS[name]
    assert [one for one in asked if not any(one in place for place in places)] == []
    assert "Incomplete" not in cite(name)


def test_no_entry_is_unused():
    asked = {one for paper in PAPERS.values() for one in named(paper)}
    used = {key for key, fields in WRITTEN.items() if {fields.get("eprint"), fields["url"]} & asked}
    assert WRITTEN.keys() - used == {OWN}


def test_recipes_are_all_there():
    """Those that a registry holds, read without importing them, and those that are functions."""
    from vtokens.recipes import recipes

    assert recipe_sources().keys() == registry._RECIPES.keys()
    told = {name: (cls.paper, cls.venue) for name, cls in recipes().items()}
    assert {name: (recipe_sources()[name].paper, recipe_sources()[name].venue) for name in told} == told


def test_a_spec_gives_each_paper_once_with_where_it_was_published():
    printed = cite("visionzip(keep=0.2)+census", "scans+vscan", "tstar", "scope+todre")
    found = entries(printed)
    assert list(found) == ["visionzip", "vscan", "tstar", "scope", "todre", OWN]
    assert found["visionzip"]["type"] == "inproceedings"
    assert found["visionzip"]["year"] == "2025"  # of the conference; the preprint is of 2024
    assert found["visionzip"]["booktitle"].endswith("Conference on Computer Vision and Pattern Recognition")
    assert found["vscan"]["journal"] == "Transactions on Machine Learning Research"
    assert found["todre"]["type"] == "misc"
    assert found[OWN]["version"] == vtokens.__version__
    assert "% census: comes from no paper" in printed
    assert "% scans, vscan\n@article{vscan," in printed


def test_what_a_negative_branch_runs_under_is_cited_too():
    assert list(entries(cite("contrast(branch=cls(keep=0.1))"))) == ["fastervlm", "vtc_cls", OWN]
    assert list(entries(cite({"name": "vcd"}, ["fastv", "dart"]))) == ["vcd", "fastv", "dart", OWN]
    assert list(entries(cite("none"))) == [OWN]
    assert list(entries(cite("evs+fastv(budget=global)"))) == ["evs", "fastv", OWN]  # no name to Python's grammar


def test_all_are_cited():
    assert entries(cite_all()).keys() == WRITTEN.keys()


def test_a_plugin_of_somebody_else_is_cited_by_what_it_says():
    """With a paper alone, known or not, with strange text, or with the name that an entry of ours has as its key."""

    def made(name: str, **told: str) -> dict[str, dict[str, str]]:
        try:
            registry.register(name, **told)(type(name, (Strategy,), {"__doc__": "One of a plugin."}))
            return entries(cite(name))
        finally:
            registry._strategies.pop(name, None)

    found = made("theirs_vt", paper="Their {best} 100% & more, arXiv:2999.00001", venue="Workshop_X 2031")
    assert found["theirs_vt"] == {
        "type": "inproceedings",
        "title": r"{Their best 100\% \& more}",
        "booktitle": r"Workshop\_X",
        "year": "2031",
        "eprint": "2999.00001",
        "archivePrefix": "arXiv",
        "url": "https://arxiv.org/abs/2999.00001",
        "note": r"Incomplete: made of what the strategy theirs\_vt says of its paper",
    }
    assert "author" not in found["theirs_vt"]
    assert made("theirs_vt", paper="FastV again, arXiv:2403.06764")["fastv"]["author"].startswith("Liang Chen and")
    assert made("theirs_vt", paper="only words")["theirs_vt"]["title"] == "{only words}"
    assert list(made("theirs_vt", paper="one; two, github.com/a/b")) == ["theirs_vt", "theirs_vt_2", OWN]
    assert list(made("opera", paper="another opera")) == ["opera", OWN]  # the recipe goes before it
    assert list(made("vtc_cls", paper="of that name")) == ["vtc_cls_2", OWN]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["visonzip"], "unknown strategy or recipe 'visonzip'. Did you mean 'visionzip'?"),
        (["fastv+oprea"], "unknown strategy or recipe 'oprea'. Did you mean 'opera'?"),
        (["fastv(kep=0.5)"], "unknown field of strategy 'fastv': 'kep'. Did you mean 'keep'?"),
        (["crop(layr=2)"], "unknown setting of the recipe 'crop': 'layr'. Did you mean 'layer'?"),
        (["clva"], "'clva' is known and not built"),
        (["fastv("], "cannot read the strategy 'fastv('"),
        (["fastv+2"], "cannot read the strategy 'fastv+2'"),
        ([], "name what to cite"),
        (["fastv", "--all"], "name what to cite"),
    ],
)
def test_bad_input(capsys, arguments, says):
    with pytest.raises(SystemExit) as stop:
        main(["cite", *arguments])
    out, err = capsys.readouterr()
    assert (stop.value.code, out) == (2, "")
    assert err.startswith(f"vtokens: error: {says}")


def test_the_command_prints_what_the_function_returns(capsys):
    main(["cite", "fastv", "crop"])
    assert capsys.readouterr().out == cite("fastv", "crop").rstrip() + "\n"
    main(["cite", "--all"])
    assert capsys.readouterr().out == cite_all().rstrip() + "\n"
