"""A page that compares strategies on pictures of a folder, with the standard library alone: no Gradio, no JavaScript.

One form, one model, one request at a time, for the browser of this machine. `vtokens serve` is the server for others.

python -m examples.comparison_page
python -m examples.comparison_page FOLDER --model llava-hf/llava-1.5-7b-hf --port 8765
"""

from __future__ import annotations

import argparse
import tempfile
from html import escape
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import vtokens
from vtokens import scenes

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp"}
FORM = """<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>Strategies side by side</title>
<style>:root{{color-scheme:light dark}}body{{font:16px/1.5 system-ui,sans-serif;margin:20px}}
form{{display:flex;flex-wrap:wrap;gap:12px;align-items:end;margin-bottom:20px}}label{{display:grid}}
input,select,button{{font:inherit;padding:4px}}</style></head><body><form>
<label>Picture <select name="picture">{pictures}</select></label>
<label>Question <input name="question" size="34" required value="{question}"></label>
<label>Strategies <input name="strategies" size="26" value="{strategies}"></label>
<label>Keep <input name="keep" size="8" value="{keep}"></label><button>Compare</button></form>{result}</body></html>"""
DEFAULTS = {"question": "How many objects are there?", "strategies": "random, cls, fastv", "keep": "0.25, 0.1"}


class Page:
    """The page: what it shows for the fields of its form."""

    def __init__(self, model: Any, processor: Any, folder: Path) -> None:
        self.model, self.processor = model, processor
        found = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
        self.pictures = {path.name: path for path in found}

    def html(self, query: str) -> tuple[int, str]:
        """The status and the document for the query of an address; what is wrong with it is said on the page."""
        given = {name: values[0] for name, values in parse_qs(query).items()}
        fields, status, result = DEFAULTS | given, 200, ""
        if given:
            try:
                result = self._compared(fields)
            except (KeyError, OSError, TypeError, ValueError) as error:
                status, result = 400, f"<p role='alert'>{escape(str(error))}</p>"
        chosen = fields.get("picture")
        options = "".join(f"<option{' selected' * (name == chosen)}>{escape(name)}</option>" for name in self.pictures)
        shown = {name: escape(fields[name]) for name in DEFAULTS}
        return status, FORM.format(pictures=options, result=result, **shown)

    def _compared(self, fields: dict[str, str]) -> str:
        name = fields.get("picture", "")
        if name not in self.pictures:  # so that no path leads out of the folder
            raise ValueError(f"there is no picture {name!r}")
        try:
            keep = [float(one) if "." in one else int(one) for one in fields["keep"].split(",")]
        except ValueError:
            raise ValueError(f"keep: {fields['keep']!r} should be shares or counts, as 0.25, 9") from None
        what = (fields["question"], fields["strategies"], keep)
        return vtokens.compare(self.model, self.processor, self.pictures[name], *what)._repr_html_()


def server(page: Page, port: int) -> HTTPServer:
    """A server of the page on this machine, one request at a time, as there is one model."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            address = urlsplit(self.path)
            status, text = page.html(address.query) if address.path == "/" else (404, "no such page")
            body = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    return HTTPServer(("127.0.0.1", port), Handler)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("folder", nargs="?", type=Path, help="pictures; drawn scenes if not given")
    options.add_argument(
        "--model", default="scenes-llava", help="an embedded model, a folder or a hub id (%(default)s)"
    )
    options.add_argument("--port", type=int, default=8765)
    chosen = options.parse_args()
    model, processor = vtokens.load(chosen.model, strategy="none")
    with tempfile.TemporaryDirectory() as drawn:
        if chosen.folder is None:
            for number, example in enumerate(scenes.examples("test", n=12, kinds=["count_all"])):
                example.image.save(Path(drawn) / f"scene-{number:02}.png")
        with server(Page(model, processor, chosen.folder or Path(drawn)), chosen.port) as serving:
            print(f"http://127.0.0.1:{serving.server_address[1]}/ (Ctrl+C ends it)", flush=True)
            try:
                serving.serve_forever()
            except KeyboardInterrupt:
                print()


if __name__ == "__main__":
    main()
