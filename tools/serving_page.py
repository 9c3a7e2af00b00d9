"""What docs/serve.md says of speed, from `benchmarks/serving_http.py`; `python tools/readme.py` writes it.

As long as nothing was measured the page has no such section.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shared import COMMAND, ROOT, Page, markdown, read

MEASURED = ROOT / "benchmarks" / "results" / "serving-cpu" / "http"


def speed(folder: Path = MEASURED) -> str:
    """The section, with its heading; empty where there are no tables."""
    if not (folder / "conditions.csv").exists():
        return ""
    found = read(folder)
    about, rows = found["conditions"], found["throughput"]
    plain = [row for row in rows if row["server"] == "vtokens" and row["strategy"] == "none"]
    same, answers = (sum(row[name] for row in plain) for name in ("same_text", "answers"))
    return f"""## How fast it is

The same requests, greedy and {about["at_once"]} at once or one after the other, to `vtokens serve` and to `transformers serve`, which answers one after the other. Each server is a process of its own with the same model, and the rounds of all take turns.
Medians with quartiles. Without a strategy {same:,} of {answers:,} answers were the text that transformers' server wrote.

{_throughput(rows)}{_by_itself(rows)}
To the first text of a streamed answer, one request by itself. The ideal speed-up is that of `generate` in one process, fed only what the strategy keeps: what a server adds to each request, picture and protocol, is in our figures and not in it.

{_first(found["first_token"])}
`mixed` is a quarter each of none, `cls(keep=0.25)`, `fastv(keep=0.5)` and `todre(keep=0.25)`. {about["dtype"]}, {about["threads_of_each"]} thread(s) a process, {about["device"]}, transformers {about["versions"]["transformers"]}, {about["date"][:10]}; `llava-300m` is LLaVA-1.5-7B with widths divided by four and half its depth, with random weights. Command: `{about["command"]}`.

"""  # noqa: E501


def _throughput(rows: list[dict[str, Any]]) -> str:
    head = ["model", "asked", "server", "strategy", "at once", "tokens", "requests a second",
            "times transformers' server", "times one at a time"]  # fmt: skip
    ideal = any("model_by_itself" in row for row in rows)
    head += ["the model by itself", "of that"] if ideal else []
    lines = []
    for row in rows:
        alone = row["at_once"] == 1
        told = ideal and "model_by_itself" in row
        more = [
            "" if alone or not told else _times(row["model_times_one_at_a_time"]),
            _share(row["model_by_itself"]) if told else "",
        ]
        lines.append([
            row["model"], row["asked"], f"`{row['server']} serve`", _strategy(row), str(row["at_once"]),
            f"{row['tokens']:.1f}", f"{1 / row['seconds']['median']:.3g}",
            _times(row["times_transformers"]) if row["server"] == "vtokens" else "",
            "" if alone or "times_one_at_a_time" not in row else _times(row["times_one_at_a_time"]),
            *(more if ideal else ()),
        ])  # fmt: skip
    return markdown(head, lines)


def _by_itself(rows: list[dict[str, Any]]) -> str:
    """What the last two columns are, where they are there."""
    if not any("model_by_itself" in row for row in rows):
        return ""
    return (
        "\nThe model by itself is `generate` on prompts that are ready: how many times faster one batch of them all is than one after the other, which is what answering at once can gain on this machine, and which share of its requests a second the\n"  # noqa: E501
        "server reaches, pictures, prompts and protocol included.\n"
    )


def _first(rows: list[dict[str, Any]]) -> str:
    head = ["model", "strategy", "`transformers serve`", "`vtokens serve`", "with it", "speed-up", "ideal speed-up",
            "of the ideal", "of the ideal, without HTTP"]  # fmt: skip
    lines = []
    for row in rows:
        seconds = [
            f"{1e3 * row['seconds'][name]['median']:,.1f} ms" for name in ("transformers", "served", "served_pruned")
        ]
        ratios = [_times(row[name]) for name in ("served_speed_up", "ideal_speed_up")]
        shares = [_share(row[name]) for name in ("served_of_ideal", "batcher_of_ideal")]
        lines.append([row["model"], f"`{row['strategy']}`", *seconds, *ratios, *shares])
    return markdown(head, lines)


def _strategy(row: dict[str, Any]) -> str:
    return row["strategy"] if row["strategy"] in ("none", "mixed") else f"`{row['strategy']}`"


def _times(part: dict[str, float]) -> str:
    return f"{part['median']:.2f} ({part['q1']:.2f} to {part['q3']:.2f})"


def _share(part: dict[str, float]) -> str:
    return f"{part['median']:.0%} ({part['q1']:.0%} to {part['q3']:.0%})"


PAGE = Page(ROOT / "docs" / "serve.md", COMMAND, {"speed": speed})

if __name__ == "__main__":
    PAGE.write()
