"""Hooks of mkdocs: pages from outside docs/, links that hold in both places, the API, the command line, navigation."""

from __future__ import annotations

import logging
from typing import Any

import brought
import commands
import described
import diagrams
import links
import navigation
import reference
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

# mkdocstrings' parser says of each parameter without a type that it has none; ours stand in the signature.
logging.getLogger("mkdocs.plugins.griffe").setLevel(logging.ERROR)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fill in the navigation of strategies and of the reference."""
    config.nav = navigation.filled(config.nav or [])
    config.watch += [str(brought.ROOT / one) for one in [*brought.PAGES, "vtokens"]]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not files of docs/."""
    for source, page in brought.PAGES.items():
        if page in files.src_uris:
            raise PluginError(f"{source} cannot be {page}: docs/ has a page of that name (tools/website/brought.py)")
        files.append(File.generated(config, page, abs_src_path=str(brought.ROOT / source)))
    made = reference.pages() | {commands.PAGE: commands.page()}
    for page, text in made.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links of the repository into links of the site, and say of the page what search engines show."""
    source = page.file.src_uri
    page.meta.setdefault("description", described.sentence(source, markdown))
    if source.startswith("strategies/") and not source.endswith("README.md"):
        name = source.removeprefix("strategies/").removesuffix(".md")
        page.meta.setdefault("search", {"boost": described.boost(name)})
        markdown += described.usage(name)
    if source in brought.PAGES.values():
        path = brought.path(source)
        page.edit_url = f"{config.repo_url}/blob/main/{path}"
    elif source.startswith("reference/"):
        page.edit_url, path = None, ""
        return markdown
    else:
        path = f"docs/{source}"
    return links.rewritten(diagrams.told(markdown), path, source, config.repo_url or "")


def on_page_content(html: str, page: Page, **_: Any) -> str:
    """Let wide tables scroll by themselves, by keyboard too, and public names lead to what is said of them."""
    html = described.tables(html)
    return html if page.file.src_uri.startswith("reference/") else links.named(html, page.url, reference.places())


def on_post_page(output: str, **_: Any) -> str:
    """Name what the theme leaves without a name."""
    return described.named(output)


def on_post_template(output_content: str, **_: Any) -> str:
    """The same in pages that are no page of ours: 404.html."""
    return described.named(output_content)
