"""Which files outside docs/ are pages of the site, and under which name."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = {
    "README.md": "project/readme.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "CHANGELOG.md": "project/changelog.md",
    "CODE_OF_CONDUCT.md": "project/conduct.md",
    "GOVERNANCE.md": "project/governance.md",
    "SECURITY.md": "project/security.md",
    "benchmarks/README.md": "project/benchmarks.md",
    "examples/README.md": "examples.md",
    "examples/vtokens-example-plugin/README.md": "project/example-plugin.md",
    **{
        f"vtokens/scenes/weights/{name}/README.md": f"models/{name}.md"
        for name in ("scenes-llava", "scenes-qwen", "scenes-smol")
    },
}


def path(page: str) -> str:
    """Where the source of a page lies in the repository."""
    return next((source for source, name in PAGES.items() if name == page), f"docs/{page}")
