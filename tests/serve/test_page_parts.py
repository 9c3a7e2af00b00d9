"""The page's parts in a browser, each against what Python says: drawing, marks, pictures that are chosen or pasted."""

from __future__ import annotations

import base64
import io
import socket
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.families import build, image
from vtokens import attach
from vtokens.core.overlay import overlay
from vtokens.core.prompts import encode_prompts, question_prompt
from vtokens.serve.page import add_page

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:playwright")


@pytest.fixture(scope="module")
def page(browser: Any) -> Iterator[Any]:
    """The page alone: a server that has nothing else."""
    import uvicorn
    from fastapi import FastAPI

    app = FastAPI()
    add_page(app)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        thread = threading.Thread(target=server.run, args=([free],))
        thread.start()
        context = browser.new_context()
        try:
            found = context.new_page()
            found.goto(f"http://127.0.0.1:{free.getsockname()[1]}/")
            yield found
        finally:
            context.close()
            server.should_exit = True
            thread.join()


def data_url(picture: Image.Image, kind: str = "png") -> str:
    out = io.BytesIO()
    picture.save(out, kind)
    return f"data:image/{kind};base64,{base64.b64encode(out.getvalue()).decode()}"


def opened(url: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB")


def test_what_was_kept_is_drawn_as_the_library_draws_it(page: Any) -> None:
    """The canvas of the page and `core/overlay.py`, of layers that saw different patches: equal to rounding."""
    model, processor = build("llava")
    shown = image(60, 60, seed=0)
    batch = encode_prompts(processor, [question_prompt(processor, "Which?")], [[shown]])
    with attach(model, "uniform(keep=8)+fastv(keep=0.5, layer=1)") as handle:
        model(**batch)
        [kept] = handle.report().samples[0].pictures
    light = kept.brightness()[0]
    assert len(np.unique(light)) == 3
    script = (
        """async ([url, kept]) => (await (await import("/page/draw.js")).drawn(url, kept, "a label")).toDataURL()"""
    )
    drawn = opened(page.evaluate(script, [data_url(shown), {"light": light.tolist(), "seen": [0, 0, 1, 1]}]))
    expected = overlay(shown, kept, scale=8)
    assert drawn.size == expected.size == (480, 480)
    assert np.abs(np.asarray(drawn, dtype=int) - np.asarray(expected, dtype=int)).max() <= 2
    part = opened(page.evaluate(script, [data_url(shown), {"seen": [0.25, 0, 0.5, 1]}]))
    assert part.size == (240, 480)
    np.testing.assert_array_equal(np.asarray(part)[::8, ::8], np.asarray(shown.convert("RGB"))[:, 15:45])


def test_marks_stand_where_python_counts_them(page: Any) -> None:
    """Characters outside of UTF-16's first plane, marks that overlap, and what a model wrote as text and no markup."""
    text = "A 👍🏽 red square, a blue ring <b>."
    at = [(text.index(word), text.index(word) + len(word)) for word in ("red square", "square", "<b>")]
    marks = [{"start": start, "end": end, "probability": 0.5 + n / 10} for n, (start, end) in enumerate(at)]
    marks[2] |= {"what": "regenerated", "text": "<i>"}
    script = """async ([text, marks]) => {
        const where = document.createElement("p");
        where.append(...(await import("/page/card.js")).marked(text, marks));
        return where.innerHTML;
    }"""

    def wrong(word: str, p: str, before: str = "") -> str:
        said = f"{before}wrong with probability {p}"
        seen = f'<small aria-hidden="true">{p}</small></mark>'
        return f'<mark title="{said}">{word}<span class="skip"> ({said})</span>{seen}'

    html = page.evaluate(script, [text, marks]).replace("&lt;", "<").replace("&gt;", ">")
    again = wrong("<b>", "0.70", "written again: <i>, ")
    assert html == f"A 👍🏽 {wrong('red square', '0.50')}, a blue ring {again}."


def test_small_pictures_are_sent_as_they_are_and_large_ones_smaller(page: Any) -> None:
    """What a camera stores sideways stands upright, also when it is made smaller; what is no picture is told."""
    small, large = image(40, 30, seed=1), Image.new("RGB", (3000, 1500), "red")
    large.paste("blue", (0, 0, 1500, 1500))
    turned, out = Image.Exif(), io.BytesIO()
    turned[0x0112] = 6  # a quarter turn clockwise is needed
    large.save(out, "jpeg", exif=turned)
    script = """async (urls) => {
        const { pictures } = await import("/page/pictures.js"), told = [], list = document.createElement("ul");
        const all = pictures({ list, drop: document.createElement("p"), inputs: [], told: (text) => told.push(text) });
        const files = urls.map((url) => {
            const [head, body] = url.split(","), bytes = Uint8Array.from(atob(body), (one) => one.charCodeAt(0));
            return new File([bytes], "one", { type: head.slice(5).split(";")[0] });
        });
        await all.add(files);
        return [all.held, told, [...list.querySelectorAll("img")].map((one) => one.alt)];
    }"""
    photo = f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}"
    held, told, alts = page.evaluate(script, [data_url(small), photo, "data:image/png;base64,AAAA"])
    assert held[0]["url"] == data_url(small)
    assert opened(held[1]["url"]).size == (1024, 2048)
    assert np.asarray(opened(held[1]["url"]))[100, 500, 2] > 200
    assert told == ["one cannot be opened as a picture here."]
    assert alts == ["one, 40 by 30 pixels", "one, 1024 by 2048 pixels"]
