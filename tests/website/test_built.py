"""What the built site holds: public names, commands, links that lead somewhere, pictures that are described."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from functools import cache
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from benchmarks.tables import read

ROOT = Path(__file__).parents[2]
REPOSITORY = "https://github.com/vtokens/vtokens"


class Seen(HTMLParser):
    """What a page says of itself, where it can be entered, where it leads, and what it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.pictures: list[dict[str, str | None]] = []
        self.description = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = dict(attrs)
        self.ids.add(told.get("id") or "")
        if tag == "a" and "href" in told:
            self.links.append(told["href"] or "")
        if tag in ("script", "img", "iframe"):
            self.loads.append(told.get("src") or "")
        if tag == "link" and (told.get("rel") or "") not in ("canonical", "prev", "next", "edit"):
            self.loads.append(told.get("href") or "")
        if tag == "img":
            self.pictures.append(told)
        if tag == "meta" and told.get("name") == "description":
            self.description = told.get("content") or ""


@cache
def pages(site: Path) -> dict[Path, Seen]:
    return {path: Seen(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}


def test_a_warning_fails_the_build() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert re.search(r"^strict: true$", text, re.MULTILINE)
    for rule in ("omitted_files", "absolute_links", "unrecognized_links", "anchors"):
        assert re.search(rf"^  {rule}: warn$", text, re.MULTILINE), rule


def test_every_public_name_has_its_place(site: Path) -> None:
    """Names are those of the imported packages: a new one is on the site without anybody's doing."""
    packages = [
        ".".join(file.parent.relative_to(ROOT).parts)
        for file in sorted((ROOT / "vtokens").rglob("__init__.py"))
        if "__all__ =" in file.read_text(encoding="utf-8")
    ]
    assert {"vtokens", "vtokens.engine", "vtokens.strategies", "vtokens.kernels", "vtokens.filter"} <= {*packages}
    for package in packages:
        ids = pages(site)[site / "reference" / package / "index.html"].ids
        names = importlib.import_module(package).__all__
        assert [name for name in names if f"{package}.{name}" not in ids] == [], package


def test_docstrings_come_out_with_shapes_and_errors(site: Path) -> None:
    text = (site / "reference" / "vtokens.kernels" / "index.html").read_text(encoding="utf-8")
    part = unescape(re.sub(r"<[^>]*>", "", text.partition('id="vtokens.kernels.farthest_point"')[2]))
    part = " ".join(part.split())
    for said in ("(G, M, D), any float dtype", "Raises:", "a count below 0 or above M", "ToDRE v2, greedy max-sum"):
        assert said in part, said


def test_commands_say_what_their_help_says(site: Path) -> None:
    text = unescape(re.sub(r"<[^>]*>", "", (site / "reference" / "cli" / "index.html").read_text(encoding="utf-8")))
    for command in (["strategies"], ["filter", "fit"]):
        asked = [sys.executable, "-m", "vtokens", *command, "--help"]
        told = subprocess.run(asked, capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "88"})
        assert told.stdout.strip() in text, command


def test_links_lead_to_pages_places_and_files_that_exist(site: Path) -> None:
    broken = []
    for page, seen in pages(site).items():
        for link in seen.links:
            parts = urlsplit(link)
            if link.startswith(f"{REPOSITORY}/"):
                inside = re.fullmatch(r"/vtokens/vtokens/(?:blob|tree|edit|raw)/main/(.*)", parts.path)
                if inside and not (ROOT / unquote(inside[1])).exists():
                    broken.append((page.relative_to(site), link))
            elif not parts.scheme and not parts.netloc:
                start = site.parent if link.startswith("/") else page.parent
                target = (start / unquote(parts.path).lstrip("/")).resolve() if parts.path else page
                target = target / "index.html" if target.is_dir() else target
                found = pages(site).get(target)
                if not target.exists() or (found and parts.fragment and unquote(parts.fragment) not in found.ids):
                    broken.append((page.relative_to(site), link))
    assert broken == []


def test_pages_load_nothing_from_elsewhere_and_say_what_they_are(site: Path) -> None:
    for page, seen in pages(site).items():
        assert [one for one in seen.loads if re.match(r"(https?:)?//", one)] == [], page
        assert seen.description or page.name == "404.html", page
    descriptions = [seen.description for page, seen in pages(site).items() if "strategies" in page.parts]
    assert len(descriptions) > 60
    assert len({*descriptions}) == len(descriptions)


def test_every_picture_is_described(site: Path) -> None:
    pictures = [(page, one) for page, seen in pages(site).items() for one in seen.pictures]
    assert len(pictures) >= 15
    for page, picture in pictures:
        assert len((picture.get("alt") or "").split()) >= 2, (page, picture)


def test_the_number_on_the_first_page_is_the_measured_one() -> None:
    measured = read("prefill-cpu")
    row = next(one for one in measured["batch_1"] if one["strategy"] == "cls(keep=0.1)")
    text = " ".join((ROOT / "docs" / "index.md").read_text(encoding="utf-8").split())
    assert f"{row['speed_up']['median']:.1f} times sooner with {row['kv_ratio']:.2f} of the KV cache" in text
    assert f"{row['of_ideal']['median']:.0%} of what the same model" in text
    assert f"{measured['conditions']['parameters'] / 1e6:.0f}M parameters" in text
    assert f"{measured['conditions']['visual_tokens']} visual tokens" in text
