"""Reports: a results folder as one self-contained HTML page and as PNG plots."""

from __future__ import annotations

from pathlib import Path

__all__ = ["write"]


def write(folder: str | Path, out: str | Path | None = None) -> Path:
    """Write `report.html` and `plots/*.png`.

    Args:
        folder: what `vtokens eval --out` wrote.
        out: where to write; default the results folder itself.

    Returns:
        The path of the page. It needs nothing beside it and no network.

    Raises:
        ValueError: no results folder (naming what is missing), or an unfinished sweep.
        OSError: `out` cannot be written, or a picture is broken.
    """
    from vtokens.core.writing import write_text

    from . import answers, flips, page, plots, reading

    results = reading.read_results(folder)
    given = answers.read_answers(results)
    changes = flips.flips(results, given)
    target = Path(out) if out is not None else results.folder
    target.mkdir(parents=True, exist_ok=True)
    plots.write(results, given, changes, target / "plots")
    path = target / "report.html"
    write_text(path, page.render(results, given, changes))
    return path
