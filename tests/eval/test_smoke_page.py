"""What a user does: `vtokens eval`, then `vtokens report`, then opening the page."""

import os
import re
import subprocess
import sys

import pytest

from tests.eval.browser import opened


def vtokens(folder, *arguments):
    environment = os.environ | {"HF_HOME": str(folder / "hf"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "vtokens", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.eval_smoke
def test_from_a_sweep_to_the_page(browser, tmp_path):
    out = tmp_path / "first"
    vtokens(
        tmp_path, "eval", "--tasks", "scenes_vqa,scenes_caption", "--strategies", "none,cls", "--keep", "0.1",
        "--limit", "16", "--out", str(out),
    )  # fmt: skip
    assert vtokens(tmp_path, "report", str(out)).strip() == str(out / "report.html")
    assert sorted(path.name for path in (out / "plots").iterdir()) == [
        "flips.png", "kept.png", "memory.png", "speed.png", "time.png", "tokens.png",
    ]  # fmt: skip
    with opened(browser, out / "report.html", 390, "dark") as seen:
        rows = seen.page.locator("#t-relative tbody tr")
        assert rows.count() == 2
        assert re.match(r"none.*144\.0.*100%.*cls.*0\.1.*14\.0.*10%", " ".join(rows.all_inner_texts()), re.DOTALL)
        assert seen.page.locator("#examples img").count() >= 4
        seen.page.locator("#t-relative thead button").first.click()
        assert seen.run("document.documentElement.scrollWidth") == 390
        assert seen.complaints == []
