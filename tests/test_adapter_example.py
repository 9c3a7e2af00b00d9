"""The family of docs/add-a-model.md, really installed as a package of its own, is listed, met and right."""

import re
import textwrap
from pathlib import Path

import pytest

from tests.test_plugin_example import ROOT, installed, run

PAGE = (ROOT / "docs" / "add-a-model.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def package(folder: Path, source: str, metadata: str) -> Path:
    """A folder in which pip has installed a family with that code."""
    source_folder = folder / "source"
    source_folder.mkdir(parents=True)
    (source_folder / "vtokens_qianfan.py").write_text(source, encoding="utf-8")
    (source_folder / "pyproject.toml").write_text(metadata, encoding="utf-8")
    return installed(source_folder, folder / "site")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source, test = blocks("python")
    (metadata,) = blocks("toml")
    target = package(tmp_path_factory.mktemp("family"), source, metadata)
    (target / "test_family.py").write_text(test, encoding="utf-8")
    return target


def test_it_is_listed_where_it_is_installed_without_being_imported(site: Path) -> None:
    """Its name is in the metadata, so that listing costs no torch; elsewhere the family is unknown."""
    code = """
        import json, sys, vtokens
        from vtokens.adapters import brought_by, examples
        listed = "qianfan_ocr" in vtokens.models()
        print(json.dumps([listed, listed and brought_by("qianfan_ocr"), listed and examples("qianfan_ocr"),
            brought_by("llava"), "torch" in sys.modules, "vtokens_qianfan" in sys.modules]))
    """
    assert run(code, site) == [True, "vtokens-qianfan", [], None, False, False]
    assert run(code)[0] is False


def test_the_command_line_says_who_brings_it(site: Path) -> None:
    code = """
        import contextlib, io, json
        from vtokens.cli import main
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            main(["models"])
        print(json.dumps([line for line in said.getvalue().splitlines() if line.startswith("qianfan")]))
    """
    (line,) = run(code, site)
    assert re.fullmatch(r"qianfan_ocr +brought by vtokens-qianfan", line)


def test_its_own_test_passes(site: Path) -> None:
    """The test that the page shows, as it stands there; and options of `load` are read beside it."""
    code = """
        import json, test_family
        from vtokens.loading.options import split
        test_family.test_dropping_is_hiding()
        print(json.dumps(split(None, {"vocab_size": 7})))
    """
    assert run(code, site)[1] == {"vocab_size": 7}


def test_its_scores_are_the_attention_of_the_tower(site: Path) -> None:
    """`cls` keeps those of each picture that an eager copy of the tower attends to most."""
    code = """
        import json, torch, vtokens, test_family
        with torch.no_grad():
            model, inputs = test_family.tiny(), test_family.batch()
            with vtokens.attach(model, "cls(keep=4)") as handle:
                model(**inputs)
                kept = handle.report().samples[0].positions[0].tolist()
            tower = test_family.tiny("eager").model.vision_tower
            maps = tower(inputs["pixel_values"], output_attentions=True).attentions[-1].mean(1)[:, 0, 1:]
            joined = maps.view(2, 4, 2, 4, 2).mean((2, 4)).flatten(1)
            best = [sorted(2 + 17 * row + place for place in part.topk(4).indices.tolist())
                    for row, part in enumerate(joined)]
        print(json.dumps([kept, [0, 1, *best[0], 18, *best[1], 35, 36]]))
    """
    kept, expected = run(code, site)
    assert kept == expected


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("import nothing_of_that_name", "could not be loaded: ModuleNotFoundError"),
        ("print", "announces an adapter of the model family 'qianfan_ocr', and registers none"),
    ],
)
def test_a_package_that_does_not_work_is_named(tmp_path: Path, source: str, says: str) -> None:
    """Where a model of its family is met; other families do not mind."""
    target = package(tmp_path, source, blocks("toml")[0])
    code = f"""
        import json, vtokens
        from vtokens.adapters import adapter_class
        adapter_class("llava")
        try:
            adapter_class("qianfan_ocr")
        except ImportError as error:
            print(json.dumps([{says!r} in str(error), "vtokens_qianfan" in str(error)]))
    """
    assert run(textwrap.dedent(code), target) == [True, True]


def test_the_page_fits_what_is_printed() -> None:
    """Tables that name fields of the two declarations name all of them."""
    from dataclasses import fields

    from vtokens.adapters import Anatomy, TowerSpec

    for kind in (Anatomy, TowerSpec):
        table = PAGE.split(f"| `{kind.__name__}` | meaning |")[1].split("\n\n")[0]
        named = {
            name for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)
        }
        assert named == {field.name for field in fields(kind)}
