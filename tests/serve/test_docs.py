"""The code of docs/serve.md runs against a genuine server; its commands and those of docs/deploy.md are understood."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from tests.serve.served import serving
from vtokens.cli import parser, serve
from vtokens.serve.checked import read_request
from vtokens.serve.metrics import Metrics
from vtokens.serve.programs import Programs
from vtokens.serve.settings import Settings

DOCS = Path(__file__).parents[2] / "docs"
TEXTS = {name: (DOCS / name).read_text(encoding="utf-8") for name in ("serve.md", "deploy.md")}


def test_the_code_of_the_guide_runs(capsys: Any) -> None:
    """Block by block, as somebody would who reads it beside `vtokens serve`; what its comments promise is printed."""
    blocks = re.findall(r"^```python\n(.*?)^```", TEXTS["serve.md"], re.DOTALL | re.MULTILINE)
    names: dict[str, Any] = {}
    with serving(Settings(presets={"fast": "cls(keep=0.25)"}, trust=True)) as (address, _):
        for block in blocks:
            exec(compile(block.replace("http://127.0.0.1:8000", address), "docs/serve.md", "exec"), names)
    printed = capsys.readouterr().out
    right = names["example"].answer
    assert names["answer"].choices[0].message.content == names["fast"].choices[0].message.content == right
    assert "scenes-llava:fast cls" in printed
    assert f"{right} 36 of 144 visual tokens" in printed
    assert 0.7 < names["free"].vtokens["flops_saved"] < 0.95
    assert "Did you mean 'fastv'?" in printed
    assert re.search(rf"{right}\n\s*\d+ tokens; 36 visual ones kept", printed)
    assert names["checked"].vtokens["filter"]["action"] == "flag"


@pytest.mark.parametrize("name", TEXTS)
def test_its_commands_are_understood(name: str) -> None:
    """Every `vtokens serve ...` of the page, in a line of its own, a service file or an image."""
    text = TEXTS[name]
    lines = re.findall(r"^(?:    |ExecStart=\S*/)(vtokens serve.*)$", text, re.MULTILINE)
    found = [shlex.split(line, comments=True) for line in lines]
    found += map(json.loads, re.findall(r'^ENTRYPOINT (\["vtokens".*\])$', text, re.MULTILINE))
    assert len(found) == {"serve.md": 4, "deploy.md": 3}[name]
    for words in found:
        assert parser().parse_args(words[1:]).run
    options = set(re.findall(r"`(--[a-z-]+)", text))
    known = parser().parse_args(["serve"])
    of_serve = {f"--{one.replace('_', '-')}" for one in vars(known)} | {
        "--trust-request-strategy",
        "--stop-timeout",
        "--ray",
    }
    assert options <= of_serve


def test_the_request_of_the_help_is_one_that_a_server_without_options_takes() -> None:
    (body,) = re.findall(r"-d '(\{.*\})'", serve._EXAMPLES, re.DOTALL)
    assert Programs(Settings()).wish(read_request(json.loads(body))).program == ()


def test_metrics_that_are_to_be_watched_exist() -> None:
    told = Metrics()
    text = told.text().decode()
    named = re.findall(r"^\| `(vtokens_[a-z_]+)`", TEXTS["deploy.md"], re.MULTILINE)
    assert len(named) == 6
    for name in named:
        assert re.search(rf"^# TYPE {name.removesuffix('_total')}(_total)? ", text, re.MULTILINE), name
