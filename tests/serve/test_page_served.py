"""The page on a genuine server, in a browser: it shows what the API says, to everyone, and what went wrong."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.serve.served import asked, client, said, serving, user
from vtokens.core.overlay import overlay
from vtokens.serve import page as served_page
from vtokens.serve.keys import Keys
from vtokens.serve.settings import Settings

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:playwright")
PRESETS = {"fast": "cls(keep=0.25)", "tiny": "random(keep=9)"}
QUESTION = "Where is the purple diamond?"
ALLOWED = "Failed to load resource"  # what Chromium says of an answer with status 4xx, which is shown

LONG = """async () => {
    const { card } = await import("/page/card.js"), one = card("long");
    document.getElementById("cards").append(one.whole);
    const text = "A word and another. ".repeat(400);
    await one.done({ text, first: 1, whole: 12345, usage: null, vtokens: null }, [], null);
    const answer = one.whole.querySelector(".answer");
    return { height: answer.clientHeight, reached: answer.tabIndex };
}"""
"""Adds the card of an answer as large models write them."""


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, Any]]:
    with serving(Settings(presets=PRESETS, trust=True)) as found:
        yield found


@pytest.fixture(scope="module")
def example() -> Image.Image:
    with Image.open(Path(served_page.__file__).parent / "example.webp") as picture:
        return picture.convert("RGB")


@contextmanager
def opened(browser: Any, address: str, width: int = 1280, scheme: str = "light") -> Iterator[Any]:
    """The page; no script complains, and it asks nobody but its server."""
    context = browser.new_context(
        color_scheme=scheme, viewport={"width": width, "height": 900}, reduced_motion="reduce", has_touch=width < 500
    )
    try:
        page, complaints, requests = context.new_page(), [], []
        page.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda r: requests.append(r.url))
        page.goto(f"{address}/")
        yield page
        assert [one for one in complaints if not one.startswith(ALLOWED)] == []
        assert [one for one in requests if not one.startswith((f"{address}/", "data:"))] == []
    finally:
        context.close()


def finished(page: Any, count: int) -> list[Any]:
    """The cards, once all are done."""
    from playwright.sync_api import expect

    expect(page.locator("article")).to_have_count(count, timeout=20_000)
    expect(page.locator("article[aria-busy]")).to_have_count(0, timeout=20_000)
    return page.locator("article").all()


def ask(page: Any, question: str = QUESTION) -> None:
    """As with a keyboard: the example, a question, Enter."""
    page.locator(".chip").first.wait_for()
    page.locator("#example").press("Enter")
    page.locator("#pictures img").wait_for()
    page.locator("#question").fill(question)
    page.locator("#question").press("Enter")


def facts(card: Any) -> dict[str, str]:
    names, values = card.locator("dt").all_inner_texts(), card.locator("dd").all_inner_texts()
    return dict(zip(names, values, strict=True))


def test_cards_show_what_each_strategy_did(browser: Any, server: tuple[str, Any], example: Image.Image) -> None:
    """Answers and counts are those of `generate` by itself, and patches are dark as the library draws them."""
    address, app = server
    with opened(browser, address) as page:
        page.locator("#spec").fill("fastv(keep=0.25, layer=1)")
        page.locator("#spec").press("Enter")
        ask(page)
        cards = finished(page, 4)
        titles = [card.locator("h2").inner_text() for card in cards]
        assert titles[0] == "unpruned"
        assert titles[3] == "fastv(keep=0.25, layer=1)"
        plain = ""
        for card, spec in zip(cards, ["none", *PRESETS.values(), "fastv(keep=0.25, layer=1)"], strict=True):
            _, text, report = said(app, asked(QUESTION), [example], spec)
            [sample] = report.samples
            plain = plain or text.strip()
            shown = card.locator(".answer").inner_text()
            same = "" if spec == "none" else " same" if text.strip() == plain else " different"
            assert shown.strip() == f"{text.strip()}{same}"
            told = facts(card)
            assert told["tokens a layer"] == f"{round(sample.average_tokens)} of 144"
            assert {"first token", "whole answer", "tokens written"} <= {*told}
            drawn = card.locator("canvas").evaluate("(one) => one.toDataURL()")
            pixels = np.asarray(
                Image.open(io.BytesIO(base64.b64decode(drawn.partition(",")[2]))).convert("RGB"), dtype=int
            )
            expected = np.asarray(overlay(example, sample.pictures[0], scale=5), dtype=int)
            assert pixels.shape == expected.shape
            # By patches: two decoders of WebP differ by their rounding, a patch that is dark by most of its light.
            patches = np.abs(pixels - expected).reshape(12, 40, 12, 40, 3).mean((1, 3, 4))
            assert patches.max() < 6
        assert cards[1].locator("canvas").get_attribute("aria-label").startswith("the picture, fast")
        assert page.locator("#said").inner_text().startswith("fastv(keep=0.25, layer=1): ")


def test_marks_of_the_filter_stand_in_the_answer(browser: Any, server: tuple[str, Any], example: Image.Image) -> None:
    """The same marks, with the same probabilities, as the API gives of the same picture."""
    address, _ = server
    body = {"vtokens": {"filter": {"action": "flag", "threshold": 0.01}}}
    messages: Any = [user("Describe the image.", example)]
    answer: Any = client(address).chat.completions.create(
        model="scenes-llava:tiny", messages=messages, temperature=0, extra_body=body
    )
    marks, text = answer.vtokens["filter"]["marks"], answer.choices[0].message.content
    assert marks
    with opened(browser, address) as page:
        page.locator(".chip").nth(0).click()
        page.locator(".chip").nth(1).click()
        page.locator("#more summary").click()
        page.locator("#action").select_option("flag")
        page.locator("#threshold").fill("0.01")
        ask(page, "Describe the image.")
        [card] = finished(page, 1)
        shown = [one.evaluate("(one) => one.firstChild.data") for one in card.locator("mark").all()]
        assert shown == [text[mark["start"] : mark["end"]] for mark in marks]
        assert card.locator("mark small").all_inner_texts() == [f"{mark['probability']:.2f}" for mark in marks]
        assert facts(card)["marked"] == str(len(marks))


def test_the_nearest_right_strategy_is_one_click_away(browser: Any, server: tuple[str, Any]) -> None:
    with opened(browser, server[0], 360) as page:
        page.locator(".chip").first.wait_for()
        page.locator("#spec").fill("fastw(keep=0.5)")
        ask(page)  # takes what stands in the field
        cards = finished(page, 4)
        assert "Did you mean 'fastv'?" in cards[3].inner_text()
        assert "Did you mean 'fastv'?" in page.locator("#wrong").inner_text()
        assert page.locator("#spec").get_attribute("aria-invalid") == "true"
        pressed = [page.locator(".chip").nth(place).get_attribute("aria-pressed") for place in range(4)]
        assert pressed == ["true", "true", "true", "false"], "what was refused is not asked for again"
        cards[3].get_by_role("button", name="Take fastv(keep=0.5)").click()
        page.get_by_role("heading", name="fastv(keep=0.5)").wait_for()
        cards = finished(page, 4)
        assert "tokens a layer" in facts(cards[3])
        assert page.locator("#wrong").inner_text() == ""
        page.get_by_role("button", name="Remove fastv(keep=0.5)").click()
        assert page.locator(".chip").count() == 3


def test_a_server_with_keys_asks_for_one_and_presets_are_all_it_takes(browser: Any) -> None:
    """A wrong key is told beside the field; the right one is used for everything, and nowhere stored."""
    key = "a-key-of-twenty-letters"
    settings = Settings(presets=PRESETS, filter="none")
    with serving(settings, Keys([("me", key)])) as (address, _), opened(browser, address) as page:
        page.locator("#key").wait_for()
        assert page.locator(".chip").count() == 0
        page.locator("#key").fill("wrong-key-of-twenty-letters")
        page.locator("#key").press("Tab")
        page.locator("#problem:not(:empty)").wait_for()
        assert page.locator("#key").get_attribute("aria-invalid") == "true"
        page.locator("#key").fill(key)
        page.locator("#key").press("Tab")
        ask(page)
        assert len(finished(page, 3)) == 3
        assert not page.locator("#free").is_visible()
        assert "--trust-request-strategy" in page.locator("#fixed").inner_text()
        page.locator("#more summary").click()
        assert not page.locator("#action").is_visible()
        assert key not in page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])")


def test_pictures_are_dropped_and_pasted_and_what_is_missing_is_told(browser: Any, server: tuple[str, Any]) -> None:
    """Without a picture or a question nothing is asked, and the focus goes where it is missing."""
    event = """([type, transfer]) => {
        const data = new DataTransfer(), body = Uint8Array.from(atob(transfer), (one) => one.charCodeAt(0));
        data.items.add(new File([body], `${type}.png`, { type: "image/png" }));
        const how = { bubbles: true, cancelable: true };
        const made = type === "paste" ? new ClipboardEvent("paste", { clipboardData: data, ...how })
            : new DragEvent("drop", { dataTransfer: data, ...how });
        document.body.dispatchEvent(made);
        return made.defaultPrevented;
    }"""
    out = io.BytesIO()
    Image.new("RGB", (32, 24), "red").save(out, "PNG")
    with opened(browser, server[0]) as page:
        page.locator(".chip").first.wait_for()
        page.locator("#go").click()
        assert "no picture" in page.locator("#problem").inner_text()
        assert page.evaluate("document.activeElement.id") == "choose"
        for count, kind in enumerate(("drop", "paste"), 1):
            assert page.evaluate(event, [kind, base64.b64encode(out.getvalue()).decode()])
            page.locator("#pictures li").nth(count - 1).wait_for()
        assert page.locator("#said").inner_text() == "2 pictures"
        page.locator("#go").click()
        assert "no question" in page.locator("#problem").inner_text()
        assert page.evaluate("document.activeElement.id") == "question"
        page.get_by_role("button", name="Remove drop.png").click()
        assert page.locator("#pictures img").get_attribute("alt") == "paste.png, 32 by 24 pixels"


def test_what_is_asked_can_be_stopped(browser: Any, server: tuple[str, Any]) -> None:
    """Ask becomes Stop and keeps the focus; what was not answered says so, and asking again works."""
    with opened(browser, server[0]) as page:
        page.locator(".chip").first.wait_for()
        page.locator("#example").click()
        page.locator("#pictures img").wait_for()
        for keep in range(2, 14):
            page.locator("#spec").fill(f"uniform(keep={keep})")
            page.locator("#spec").press("Enter")
        page.locator("#go").press("Enter")
        assert page.locator("#go").inner_text() == "Stop"
        page.locator("#go").press("Enter")
        cards = finished(page, 15)
        assert "Stopped." in cards[-1].inner_text()
        page.locator("#go:has-text('Ask')").wait_for()
        assert page.evaluate("document.activeElement.id") == "go"


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (360, "dark")])
def test_everyone_can_use_it(browser: Any, server: tuple[str, Any], width: int, scheme: str) -> None:
    """axe-core finds nothing before an answer and behind answers, marks and an error; nothing sticks out."""
    from axe_playwright_python.sync_playwright import Axe

    with opened(browser, server[0], width, scheme) as page:
        page.locator(".chip").first.wait_for()
        assert page.locator(".camera").is_visible() == (width < 500)  # where fingers point, there is one
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
        page.locator("#more summary").click()
        page.locator("#action").select_option("flag")
        page.locator("#threshold").fill("0.01")
        page.locator("#spec").fill("no_such_strategy_of_a_name_that_is_longer_than_a_phone_is_wide(keep=0.123456789)")
        ask(page, "Describe the image.")
        finished(page, 4)
        assert page.locator("mark").count() > 0
        long = page.evaluate(LONG)
        assert long["height"] < 700
        assert long["reached"] == 0
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
        assert page.evaluate("document.documentElement.scrollWidth") == width
