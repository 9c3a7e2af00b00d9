"""What a release is made of: one version, addresses written once, files that CI and forges read, all of them right."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from hatchling.metadata.core import ProjectMetadata
from hatchling.plugin.manager import PluginManager

import vtokens
from vtokens.strategies.bibtex import OWN, references

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import release_check  # noqa: E402

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
URLS = PROJECT["project"]["urls"]
GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
FORMS = sorted(file for file in (GITHUB / "ISSUE_TEMPLATE").glob("*.yml") if file.name != "config.yml")
README = (ROOT / "README.md").read_text(encoding="utf-8")


def read(file: Path) -> Any:
    return yaml.safe_load(file.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def metadata() -> ProjectMetadata:
    """What hatchling makes of pyproject.toml, as it does for a wheel."""
    return ProjectMetadata(str(ROOT), PluginManager())


def test_an_index_shows_a_readme_whose_links_hold(metadata: ProjectMetadata) -> None:
    """At the tag of the version, in the repository that `project.urls` names; and it installs from the index."""
    shown = metadata.core.readme
    assert release_check.relative(README)  # what there is to do
    assert release_check.relative(shown) == []
    tagged = rf"{re.escape(URLS['Repository'])}/(?:raw|blob)/v{re.escape(vtokens.__version__)}/"
    installs = README.replace("In a checkout, with", "With").replace("install '.[", "install 'vtokens[")
    assert re.sub(tagged, "", shown) == installs != README
    assert "checkout" not in shown
    assert not re.search(r"pip install '?\.", shown)
    for picture in re.findall(r"!\[[^\]]*\]\(([^)]+)\)|<img[^>]* src=\"([^\"]+)\"", shown):
        assert re.match(rf"{tagged}\S+\.(png|svg)$|https://(?!github\.com/vtokens)", "".join(picture)), picture
    targets = re.findall(rf"{tagged}([^)\"#\s]+)", shown)
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


@pytest.mark.parametrize(
    ("text", "relative"),
    [
        ("[a](docs/a.md)", ["docs/a.md"]),
        ("![a](docs/a.png)", ["docs/a.png"]),
        ('<img src="a.png" srcset="b.png">', ["a.png", "b.png"]),
        ('<a href="docs">a</a>', ["docs"]),
        ("[a][b]\n\n[b]: docs/b.md", ["docs/b.md"]),
        ("[a](#here), [b](https://b.org/c), <mailto:a@b.org>, `[c](d)`", []),
        ("```\n[a](b)\n```", []),
    ],
)
def test_relative_links_are_seen_in_every_form(text: str, relative: list[str]) -> None:
    assert release_check.relative(text) == relative


def test_there_is_one_version(metadata: ProjectMetadata) -> None:
    assert metadata.version == vtokens.__version__
    assert "version" not in PROJECT["project"]
    assert read(ROOT / "CITATION.cff")["version"] == vtokens.__version__
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## \[(Unreleased|{re.escape(vtokens.__version__)})\]", changes, re.MULTILINE)


def test_addresses_are_those_of_the_project() -> None:
    """The repository stands in pyproject.toml; what cannot read it there says the same."""
    repository, site = URLS["Repository"], URLS["Homepage"]
    assert {"Documentation", "Issues", "Changelog", "Security"} < URLS.keys()
    assert all(url.startswith((f"{repository}/", site)) for name, url in URLS.items() if name != "Repository")
    cited = read(ROOT / "CITATION.cff")
    assert (cited["repository-code"], cited["url"], references()[OWN]["url"]) == (repository, site, repository)
    substitutions = PROJECT["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]["substitutions"]
    assert [one["replacement"] for one in substitutions if "https://" in one["replacement"]] == [
        rf"{repository}/\1/v$HFPR_VERSION/"
    ]
    (security,) = read(GITHUB / "ISSUE_TEMPLATE" / "config.yml")["contact_links"]
    assert security["url"] == URLS["Security"]


def test_the_citation_file_is_one() -> None:
    """The fields that version 1.2.0 of the Citation File Format asks for, none that it does not know."""
    cited = read(ROOT / "CITATION.cff")
    known = {"abstract", "authors", "cff-version", "commit", "contact", "date-released", "doi", "identifiers"}
    known |= {"keywords", "license", "license-url", "message", "preferred-citation", "references", "repository"}
    known |= {"repository-artifact", "repository-code", "title", "type", "url", "version"}
    assert {"authors", "cff-version", "message", "title"} <= cited.keys() <= known
    assert cited["cff-version"] == "1.2.0"
    assert cited["type"] in ("software", "dataset")
    assert cited["license"] == PROJECT["project"]["license"]
    assert [one["name"] for one in cited["authors"]] == [one["name"] for one in PROJECT["project"]["authors"]]
    assert len(cited["keywords"]) == len(set(cited["keywords"]))
    assert cited["title"] == references()[OWN]["title"].strip("{}")


def test_the_sdist_has_all_that_the_repository_has() -> None:
    """`make release-check` compares the files; here the folders."""
    included = PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["only-include"]
    tops = {file.partition("/")[0] for file in release_check.tracked()} or {file for file in included if "." in file}
    assert tops - {".gitignore", "pyproject.toml"} <= set(included)  # hatchling adds these two itself
    assert included == sorted(included)


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_a_workflow_names_what_there_is(file: Path) -> None:
    """Targets of make, with variables that the Makefile has, files and paths; actions by their major version."""
    text, flow = file.read_text(encoding="utf-8"), read(file)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert flow["permissions"] == {"contents": "read"}
    steps = [step for job in flow["jobs"].values() for step in job["steps"]]
    assert all("timeout-minutes" in job for job in flow["jobs"].values())
    for uses in (step["uses"] for step in steps if "uses" in step):
        assert re.fullmatch(r"[\w-]+/[\w-]+@v\d+", uses), uses
    commands = [step["run"] for step in steps if "run" in step]
    assert commands
    for command in commands:
        program, target, *settings = re.sub(r"\$\{\{.*?\}\}", "VALUE", command).split()
        assert program == "make", command
        assert re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE), f"{file.name} makes {target}"
        for one in settings:
            name = one.partition("=")[0]
            assert re.search(rf"^{name} \?=|\$\({name}\)", makefile, re.MULTILINE), f"{file.name} sets {name}"
    named = re.findall(r"cache-dependency-path: (\S+)", text)
    triggers = flow[True]  # YAML's word for `on`
    named += [path.removesuffix("/**") for path in (triggers.get("pull_request") or {}).get("paths", [])]
    assert named
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_workflows_run_what_is_promised() -> None:
    """Each Python of the classifiers, both ends of transformers, and every check that a change has to pass."""
    made = " ".join(
        step.get("run", "") for file in WORKFLOWS for j in read(file)["jobs"].values() for step in j["steps"]
    )
    assert {"lint", "test", "test-matrix", "eval-smoke", "release-check"} <= set(made.split())
    jobs = read(GITHUB / "workflows" / "tests.yml")["jobs"]
    listed = [one.rpartition(" ")[2] for one in PROJECT["project"]["classifiers"] if re.search(r":: 3\.\d+$", one)]
    assert jobs["python"]["strategy"]["matrix"]["python"] == listed
    cells = jobs["transformers"]["strategy"]["matrix"]["cell"]
    source = (ROOT / "tools" / "matrix.py").read_text(encoding="utf-8")
    assert cells == ["oldest", "newest"]
    assert all(f'"{cell}": (' in source for cell in cells)


@pytest.mark.parametrize("file", FORMS, ids=lambda file: file.stem)
def test_an_issue_form_is_one(file: Path) -> None:
    """As GitHub reads it: unique ids, kinds that it knows, labels; and files and commands that it names exist."""
    form = read(file)
    assert {"name", "description", "body"} <= form.keys() <= {"name", "description", "body", "labels", "title"}
    ids = [part["id"] for part in form["body"]]
    assert len(set(ids)) == len(ids)
    for part in form["body"]:
        assert part["type"] in ("textarea", "input", "dropdown", "checkboxes"), part["type"]
        assert part["attributes"]["label"]
        assert ("options" in part["attributes"]) == (part["type"] in ("dropdown", "checkboxes"))
    text = file.read_text(encoding="utf-8")
    assert [path for path in re.findall(r"\b(docs/[\w/.-]+\.md)", text) if not (ROOT / path).exists()] == []
    from vtokens.cli import parser

    commands = parser().commands
    assert [one for one in re.findall(r"`vtokens (\w+)", text) if one not in commands] == []


def test_a_bug_report_begins_with_doctor() -> None:
    first = read(GITHUB / "ISSUE_TEMPLATE" / "bug.yml")["body"][0]
    assert "`vtokens doctor`" in first["attributes"]["label"]
    assert first["validations"]["required"] is True


def test_a_pull_request_asks_what_contributing_asks() -> None:
    boxes = [
        [line for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("- [ ] ")]
        for file in (ROOT / "CONTRIBUTING.md", GITHUB / "pull_request_template.md")
    ]
    assert boxes[0] == boxes[1]
    assert len(boxes[0]) >= 5


def test_a_release_of_another_tag_is_refused() -> None:
    wheel = Path(f"dist/vtokens-{vtokens.__version__}-py3-none-any.whl")
    release_check.check_tag(None, wheel)
    release_check.check_tag(f"v{vtokens.__version__}", wheel)
    with pytest.raises(SystemExit, match=r"^release-check: the tag is v9\.9, and vtokens-\S+\.whl is v\d"):
        release_check.check_tag("v9.9", wheel)
