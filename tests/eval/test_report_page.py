"""The page in a real browser: it loads alone, sorts, filters, fits a phone, and can be read by everyone."""

import json
import math
import re
import shutil

import pytest

from tests.eval import folders
from tests.eval.browser import opened
from vtokens import report

LONG = "cls(keep=0.5)+fastv(keep=0.5, layer=3)"
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:playwright")


@pytest.fixture(scope="module")
def folder(shipped, tmp_path_factory):
    tasks = ["scenes_vqa", "scenes_pope_random", "scenes_caption"]
    found = folders.write(
        tmp_path_factory.mktemp("page") / "x",
        shipped[0],
        ["none", "random", "cls", "fastv", LONG],
        [0.5, 0.1, 8],
        2,
        tasks,
    )
    report.write(found)
    return found


@pytest.fixture(scope="module")
def little(shipped, tmp_path_factory):
    """Every part of the page, and few rows: axe looks at each element."""
    place = tmp_path_factory.mktemp("little") / "x"
    folders.write(place, shipped[0], ["none", "cls", LONG], [0.1], 1, ["scenes_vqa", "scenes_caption"], questions=8)
    report.write(place)
    return place


@pytest.fixture
def seen(browser, folder):
    with opened(browser, folder / "report.html") as found:
        yield found
        assert found.complaints == []


def cells(seen, table, column, visible=True):
    """The texts of a column, without what is filtered out."""
    script = """([table, column, visible]) => [...document.querySelectorAll(`#${table} tbody tr`)]
        .filter((row) => !visible || row.offsetParent !== null).map((row) => row.cells[column].innerText.trim())"""
    return seen.run(script, [table, column, visible])


def sort(seen, table, name):
    seen.page.locator(f"#{table} thead th", has_text=re.compile(rf"^{re.escape(name)}")).locator("button").click()


def numbers(texts):
    return [float(re.match(r"[-+−\d.]+", t)[0].replace("−", "-")) if t[0] not in "–" else math.nan for t in texts]


def test_it_needs_nothing_but_itself(browser, folder, tmp_path):
    alone = tmp_path / "alone.html"
    shutil.copy(folder / "report.html", alone)
    with opened(browser, alone) as seen:
        seen.page.wait_for_load_state("networkidle")
        assert seen.complaints == []
        assert seen.requests == [alone.as_uri()]
    text = alone.read_text(encoding="utf-8")
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", text)


def test_every_picture_loads_and_is_described(seen):
    seen.run("document.querySelectorAll('img').forEach((image) => { image.loading = 'eager'; })")
    seen.page.wait_for_function("[...document.images].every((image) => image.complete)")
    pictures = seen.run("[...document.images].map((i) => [i.naturalWidth, i.naturalHeight, i.alt])")
    assert len(pictures) > 40
    assert all(width == 192 and height == 192 for width, height, _ in pictures)
    assert all(re.search(r"as .* saw it: \d+ of 144 patches kept$", alt) for *_, alt in pictures)


@pytest.mark.parametrize("width", [320, 390, 768, 1280, 1920])
def test_nothing_sticks_out(browser, folder, width):
    with opened(browser, folder / "report.html", width) as seen:
        seen.run("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
        assert seen.run("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_everyone_can_read_it(browser, little, scheme, width):
    """axe-core: contrast, headings, names of controls, tables, landmarks."""
    from axe_playwright_python.sync_playwright import Axe

    with opened(browser, little / "report.html", width, scheme) as seen:
        seen.run("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
        found = Axe().run(seen.page)
        assert found.violations_count == 0, found.generate_report()


def test_tables_sort_by_number_and_back_with_gaps_last(seen):
    sort(seen, "t-all", "p")
    shown = numbers([text.replace("<", "") for text in cells(seen, "t-all", 8)])
    known = [value for value in shown if not math.isnan(value)]
    assert 0 < len(known) < len(shown)
    assert known == sorted(known, reverse=True)
    assert all(map(math.isnan, shown[len(known) :]))
    sort(seen, "t-all", "p")
    again = numbers([text.replace("<", "") for text in cells(seen, "t-all", 8)])
    assert again[: len(known)] == sorted(known)
    assert all(map(math.isnan, again[len(known) :]))


def test_tables_sort_by_name_and_say_so(seen):
    sort(seen, "t-relative", "strategy")
    names = cells(seen, "t-relative", 0)
    assert names == sorted(names)
    heads = seen.run("[...document.querySelectorAll('#t-relative thead th')].map((head) => head.ariaSort)")
    assert heads[0] == "ascending"
    assert not any(heads[1:])
    sort(seen, "t-relative", "tokens")
    tokens = numbers(cells(seen, "t-relative", 2))
    assert tokens == sorted(tokens, reverse=True)
    assert len(set(tokens)) > 3


def test_chips_choose_strategies_and_keeps_everywhere(seen):
    everything = len(cells(seen, "t-relative", 0))
    seen.page.locator(".chip[data-value='cls']").click()
    assert set(cells(seen, "t-relative", 0)) == {"cls"}
    assert set(cells(seen, "t-time", 0)) == {"cls"}
    dots = "[...document.querySelectorAll('#tokens .dot')].filter((dot) => dot.getClientRects().length)"
    assert set(seen.run(f"{dots}.map((dot) => dot.dataset.s)")) == {"cls"}
    assert not seen.page.locator("#speed .front").first.is_visible()
    named = "[...document.querySelectorAll('#speed .name')].filter((name) => name.getClientRects().length)"
    assert {name.split()[0] for name in seen.run(f"{named}.map((name) => name.textContent)")} <= {"cls"}
    seen.page.locator(".chip[data-value='none']").click()
    seen.page.locator(".chip[data-value='0.1']").click()
    assert list(zip(cells(seen, "t-relative", 0), cells(seen, "t-relative", 1), strict=True)) == [
        ("none", "–"),
        ("cls", "0.1"),
    ]
    assert seen.run("document.querySelector('#filtered').textContent") == "Shown: cls, none, 0.1"
    seen.page.locator(".reset").click()
    assert len(cells(seen, "t-relative", 0)) == everything
    assert seen.run("document.querySelectorAll('.chip[aria-pressed=true]').length") == 0
    assert seen.page.locator("#speed .front").first.is_visible()


def test_words_filter_a_table(seen):
    box = seen.page.get_by_label("Filter").last
    box.fill("cls chair_s")
    assert set(cells(seen, "t-all", 3)) == {"chair_s"}
    assert {name.partition("(")[0] for name in cells(seen, "t-all", 0)} == {"cls"}
    total = len(cells(seen, "t-all", 0, visible=False))
    count = len(cells(seen, "t-all", 0))
    assert seen.page.locator("#all output").inner_text() == f"{count} of {total} rows"
    from playwright.sync_api import expect

    at = seen.run("scrollY")
    assert at > 1000  # filling the box brought it into view, at once: nothing moves when the chip is clicked
    chip = seen.page.locator(".chip[data-value='0.5']")
    chip.click()
    expect(chip).to_have_attribute("aria-pressed", "true")
    assert set(cells(seen, "t-all", 1)) == {"0.5"}
    assert seen.page.locator("#all output").inner_text() == f"1 of {total} rows"
    box.fill("no such thing")
    assert cells(seen, "t-all", 0) == []


def test_the_theme_can_be_switched(seen):
    background = "getComputedStyle(document.body).backgroundColor"
    light = seen.run(background)
    seen.page.get_by_role("button", name="Switch between light and dark").click()
    dark = seen.run(background)
    assert sum(map(int, re.findall(r"\d+", dark)[:3])) < 120 < 600 < sum(map(int, re.findall(r"\d+", light)[:3]))

    def again() -> str:
        seen.page.reload()
        return seen.run(background)

    # Chromium keeps what a page stores in another process, which may hear of it behind a reload that comes at once.
    assert any(again() == dark for _ in range(20))


def test_points_tell_their_figures(seen):
    dot = seen.page.locator("#tokens figure").nth(1).locator(".dot[data-s=cls]").first
    dot.locator(".hit").hover()
    text = seen.page.locator("#tip").inner_text()
    assert re.fullmatch(r"cls 0\.5\nexact \(%\): [\d.]+ \[[\d.]+, [\d.]+\]\nvisual tokens, layer average: 72", text)


def test_it_prints_in_light_colours_without_controls(browser, folder):
    with opened(browser, folder / "report.html", scheme="dark") as seen:
        seen.page.emulate_media(media="print", color_scheme="dark")
        assert seen.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        for part in ("nav", ".theme", ".search", ".reset"):
            assert not seen.page.locator(part).first.is_visible()
        heights = "[...document.querySelectorAll('.scroll')].map((box) => [box.scrollHeight, box.clientHeight])"
        assert all(inner <= outer + 1 for inner, outer in seen.run(heights))


def test_it_can_be_read_without_scripts(browser, folder):
    with opened(browser, folder / "report.html", java_script_enabled=False) as seen:
        assert seen.page.locator("#t-relative tbody tr").count() == 11
        assert seen.page.locator("#t-relative tbody tr").last.is_visible()
        assert seen.page.locator("#tokens svg").first.is_visible()
        assert not seen.page.locator(".theme").is_visible()


def test_its_relative_accuracy_is_that_of_the_summary(seen, folder):
    rows = json.loads((folder / "summary.json").read_text())
    values = {(r["name"], r["keep"], r["task"], r["metric"]): r["value"] for r in rows}
    shown = [cells(seen, "t-relative", column) for column in range(6)]
    assert len(shown[0]) == 11
    for name, keep, _, average, *tasks in zip(*shown, strict=True):
        share = None if keep == "–" else json.loads(keep)
        asked = [("scenes_vqa", "exact"), ("scenes_pope_random", "accuracy")]
        percents = [100 * values[(name, share, *of)] / values[("none", None, *of)] for of in asked]
        assert numbers([average, *tasks]) == [pytest.approx(p, abs=0.051) for p in (sum(percents) / 2, *percents)]


def test_points_stand_where_their_values_are(seen, folder):
    rows = json.loads((folder / "summary.json").read_text())
    value = {(r["name"], r["keep"]): r["value"] for r in rows if r["task"] == "scenes_vqa" and r["metric"] == "exact"}
    script = """[...document.querySelectorAll('#tokens [data-panel=scenes_vqa] .dot')].map((dot) => {
        const at = dot.querySelector('g').transform.baseVal[0].matrix, whisker = dot.querySelector('.whisker');
        const ends = ['y1', 'y2'].map((end) => +whisker.getAttribute(end));
        return [dot.dataset.s, dot.dataset.k ?? null, at.e, at.f, ...ends];
    })"""
    dots = seen.run(script)
    assert len(dots) == len(value) == 11
    heights = {(name, None if keep in (None, "no keep") else json.loads(keep)): y for name, keep, _, y, _, _ in dots}
    (low, high) = sorted(value, key=value.get)[:: len(value) - 1]
    scale = (heights[low] - heights[high]) / (value[high] - value[low])
    for key, y in heights.items():
        assert y == pytest.approx(heights[high] + scale * (value[high] - value[key]), abs=0.15)
    assert all(y2 <= y <= y1 for *_, y, y1, y2 in dots)
