"""The core alone loads, attaches and generates; what an extra brings is asked for in one line that says how."""

from __future__ import annotations

import pytest

from vtokens.core import extras
from vtokens.core.errors import MissingExtra
from vtokens.doctor.extras import EXTRAS

from . import installed

USE = """
import vtokens
from vtokens import scenes
model, processor = vtokens.load("scenes-llava")
vtokens.attach(model, "cls(keep=0.5)+fastv(keep=0.5, layer=2)+vhr+vcd").detach()
vtokens.attach(model, "dymu+todre", keep=0.25)
scene = scenes.examples("test", n=1, kinds=["where"])[0]
text = scenes.prompt(processor, scene.question)
inputs = processor(images=scene.image, text=text, return_tensors="pt")
print(processor.decode(model.generate(**inputs)[0], skip_special_tokens=True))
print(vtokens.attachment(model).report())
"""


@pytest.fixture(scope="module")
def core(tmp_path_factory):
    """An environment made of what `pip install vtokens` brings without any extra."""
    # transformers' own command line asks for rich and pydantic, in some releases; we do not rely on it.
    brought = installed.closure(installed.asked()) - {"rich", "pydantic"}
    assert not brought & {"scipy", "scikit-learn", "matplotlib", "pandas", "datasets"}
    return installed.linked(tmp_path_factory.mktemp("core") / "packages", brought)


def test_the_core_alone_loads_attaches_and_generates(core):
    ran = installed.python(core, "-c", USE)
    assert ran.returncode == 0, ran.stderr
    assert "row" in ran.stdout
    assert "visual tokens per layer" in ran.stdout


@pytest.mark.parametrize(
    ("command", "extra"),
    [(["demo"], "cli"), (["check", "a.png", "red circle"], "filter"), (["report", "out"], "cli")],
)
def test_a_command_whose_extra_is_missing_says_so_in_one_line(core, command, extra):
    ran = installed.python(core, "-m", "vtokens", *command)
    assert ran.returncode == 2
    assert ran.stderr.count("\n") == 1, ran.stderr
    assert f"`vtokens {command[0]}` needs" in ran.stderr
    assert "scikit-learn, scipy" in ran.stderr
    assert f" not installed: pip install 'vtokens[{extra}]' (in a checkout: pip install '.[{extra}]')" in ran.stderr


def test_a_sweep_is_refused_before_the_model_is_loaded(core):
    ran = installed.python(core, "-m", "vtokens", "eval", "--tasks", "a", "--strategies", "none", "--out", "out")
    assert ran.returncode == 2
    assert ran.stderr.count("\n") == 1, ran.stderr
    assert "not installed: pip install 'vtokens[" in ran.stderr


def test_the_classes_of_the_filter_say_what_they_need(core):
    ran = installed.python(core, "-c", "import vtokens; vtokens.HallucinationFilter")
    assert ran.stderr.splitlines()[-1].startswith("vtokens.core.errors.MissingExtra: the hallucination filter needs ")
    assert "pip install 'vtokens[filter]'" in ran.stderr


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """A folder of small packages, ahead of what is installed."""
    monkeypatch.syspath_prepend(str(tmp_path))
    installed.ours(tmp_path)
    return tmp_path


def test_a_package_that_another_broke_is_named_with_the_breaker(packages):
    installed.package(packages, "sturdy_vt", "4.3.1", {"__init__.py": ""})
    installed.package(packages, "brittle_vt", "0.7.3", {"__init__.py": "import sturdy_vt._api"})
    says = (
        r"^an evaluation needs brittle-vt 0\.7\.3, which sturdy-vt 4\.3\.1 broke "
        r"\(ModuleNotFoundError: No module named 'sturdy_vt\._api'\): "
        r"install other releases of sturdy-vt and brittle-vt$"
    )
    with pytest.raises(MissingExtra, match=says), extras.needs("eval", "an evaluation"):
        import brittle_vt  # noqa: F401


def test_where_a_release_is_known_to_break_the_bound_is_the_remedy(packages):
    installed.package(packages, "late_vt", "1.0", {"__init__.py": "def work():\n    import filelock._gone"})
    import late_vt

    says = r"needs late-vt 1\.0, which filelock \d.* broke .*_gone'\): pip install 'filelock<4\.3,>=3\.16'$"
    with pytest.raises(MissingExtra, match=says), extras.needs("eval", "an evaluation"):
        late_vt.work()


def test_an_import_that_raises_anything_names_the_package_whose_body_raised(packages):
    installed.package(
        packages, "helper_vt", "1.0", {"__init__.py": "def fail():\n    raise RuntimeError('no operator')"}
    )
    installed.package(packages, "faulty_vt", "2.0", {"__init__.py": "import helper_vt\nhelper_vt.fail()"})
    says = r"^a video needs faulty-vt 2\.0, which cannot be imported \(RuntimeError: no operator\)"
    with pytest.raises(MissingExtra, match=says), extras.needs("video", "a video"):
        import faulty_vt  # noqa: F401


def test_a_fault_of_our_own_stays_what_it_is():
    with pytest.raises(ModuleNotFoundError, match=r"vtokens\.no_such"), extras.needs("filter", "it"):
        import vtokens.no_such  # noqa: F401


def test_releases_that_an_extra_cannot_live_with_are_refused_before_the_work(packages):
    installed.package(packages, "filelock", "4.3.1")
    says = r"^an evaluation does not work with filelock 4\.3\.1: pip install 'filelock<4\.3,>=3\.16'$"
    with pytest.raises(MissingExtra, match=says):
        extras.check("eval", "an evaluation")


def test_requirements_follow_extras_that_are_made_of_others(packages):
    core = {one.name for one in extras.requirements()}
    assert {"torch", "transformers", "jinja2"} <= core
    assert "scipy" not in core
    light = {one.name for one in extras.requirements("eval-light")}
    assert {"datasets", "matplotlib", "scipy", "pydantic"} <= light
    assert not light & core
    assert {one.name for one in extras.requirements("eval")} == light | {"lmms-eval"}


def test_an_extra_is_installed_where_its_own_packages_are(tmp_path):
    """With the commands alone nothing else is: transformers, which the server also stands on, is in the core."""
    brought = installed.closure([*installed.asked(), *installed.asked("cli")])
    folder = installed.linked(tmp_path / "packages", brought)
    code = "from vtokens.doctor.extras import EXTRAS\nprint(*(one.name for one in EXTRAS if one.installed))"
    ran = installed.python(folder, "-c", code)
    assert ran.stdout.split() == ["cli", "filter"], ran.stderr


def test_a_remedy_names_each_step_once():
    for one in EXTRAS:
        steps = one.command.split(", then ")
        assert len(steps) == len(set(steps)), one.command
