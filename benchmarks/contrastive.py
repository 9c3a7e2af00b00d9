"""Contrastive decoding on scenes: what it does to yes/no answers and captions, and what an answer costs.

python benchmarks/contrastive.py                # everything, one thread; writes the result and the page's tables
python benchmarks/contrastive.py --quick        # a few questions, to see that it runs; writes nothing tracked
python benchmarks/contrastive.py --page         # only the tables of docs/contrastive.md, from the result

Questions, captions and tests are those of `hallucination.py`, whose replies are kept in the same way. Times are of a
round each: every strategy answers the same questions and captions in every round, and each is compared with plain
decoding of that round.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from rich.progress import track  # noqa: E402

import vtokens  # noqa: E402
from benchmarks.asking import loaded  # noqa: E402
from benchmarks.common import Clock, conditions, write  # noqa: E402
from benchmarks.hallucination import remembered, replies  # noqa: E402
from benchmarks.hallucination_page import chair, pope  # noqa: E402
from benchmarks.hallucination_rows import adjust_together, make_row  # noqa: E402
from benchmarks.page import Page  # noqa: E402
from benchmarks.tables import interval, markdown, read  # noqa: E402
from vtokens import scenes  # noqa: E402
from vtokens.eval.hallucination import exam, grade  # noqa: E402

CELLS: tuple[tuple[str, str | None], ...] = (
    ("none", None),
    ("vcd", "none"),
    ("avisc", "none"),
    ("avisc(others='drop')", "none"),
    ("damro", "none"),
    ("pai", "none"),
    ("m3id", "none"),
    ("contrast", "none"),
    ("vcd(branch='random(keep=0.1)')", "none"),
    ("contrast(branch='cls(keep=0.1)')", "none"),
    ("todre(keep=0.25)", "none"),
    ("todre(keep=0.25)+vcd", "todre(keep=0.25)"),
    ("todre(keep=0.25)+pai", "todre(keep=0.25)"),
)
"""Strategies, and what each is compared with."""
BRANCHES = ("random(keep=0.1)", "cls(keep=0.1)")
"""Branches of `contrast` that are asked by themselves."""
RESULT = ROOT / "benchmarks" / "results" / "contrastive-scenes"


def times(model: Any, processor: Any, specs: Sequence[str], rounds: int, each: int) -> dict[str, dict[str, Any]]:
    """Processor time per answer over that of plain decoding, and what the branch of a prefill costs."""
    parts = {"question": exam("test", each, 0, seed=7)[:each], "caption": exam("test", 0, each, seed=7)}
    found: dict[str, dict[str, list[float]]] = {spec: {name: [] for name in parts} for spec in specs}
    branch: dict[str, dict[str, float]] = {}
    for turn in range(rounds + 1):
        for spec in specs:
            with vtokens.attach(model, spec) as handle:
                for name, asked in parts.items():
                    begin = time.process_time()
                    scenes.answer(model, processor, asked, each)
                    if turn:  # the first round warms up
                        found[spec][name].append(time.process_time() - begin)
                side = handle.report().negative
            if side is not None:
                branch[spec] = {"flops": side.flops, "kv_bytes": side.kv_bytes, "visual_tokens": side.visual_tokens}
    plain = found[specs[0]]
    ratios = {
        spec: {
            name: median(own / other for own, other in zip(found[spec][name], plain[name], strict=True))
            for name in parts
        }
        for spec in specs
    }
    return {spec: {"over_plain": ratios[spec], "branch": branch.get(spec)} for spec in specs}


def cost(rows: Sequence[dict[str, Any]]) -> str:
    """What an answer costs over plain decoding."""
    head = ["strategy", "tokens a layer", "tokens of the branch", "branch, of a full prefill", "KV cache of the branch"]
    head += ["time, a yes/no answer", "time, a caption"]
    lines = []
    for row in rows:
        branch, ratios = row["branch"], row["over_plain"]
        side = ["", "", ""]
        if branch is not None:
            shares = (branch["flops"] / row["flops_full"], branch["kv_bytes"] / row["kv_bytes_full"])
            side = [f"{branch['visual_tokens']:.0f}", *(f"{share:.2f}" for share in shares)]
        cells = [f"`{row['strategy']}`", f"{row['tokens']:.0f}", *side]
        lines.append([*cells, f"{ratios['question']:.2f}x", f"{ratios['caption']:.2f}x"])
    return markdown(head, lines)


def steps(result: dict[str, Any]) -> str:
    """Prefill, decoding step and memory over plain decoding, of a model whose weights are most of what is read."""
    about, lines = result["conditions"], []
    for row in result["rows"]:
        first, each = (row[part]["over_plain"]["median"] for part in ("prefill", "token"))
        lines.append([f"`{row['run']}`", f"{first:.2f}x", f"{each:.2f}x", f"{row['peak_bytes'] / 2**20:.0f} MiB"])
    head = ["strategy", "first token", "decoding step", "peak memory beside the weights"]
    return (
        f"{markdown(head, lines)}\n{about['parameters'] / 1e6:.0f}M parameters with random weights (LLaVA-1.5-7B, "
        f"widths divided by eight, 4 layers), 576 visual tokens, {about['dtype']}, one thread of an "
        f"{about['device'].split(' (')[0]}, "
        f"{about['date'][:10]}; median of {about['rounds']} rounds. Command: `{about['command']}`.\n"
    )


def branches(result: dict[str, Any]) -> str:
    """How often a branch says 'yes' by itself, and the model when it is held against it."""
    rows = {row["strategy"]: row for row in result["rows"] if row["split"] == "test"}
    lines = [["`none`", "", interval(rows["none"]["pope"]["adversarial"]["yes_ratio"])]]
    for own in result["branches"]:
        spec = own["branch"]
        name = "contrast" if spec == BRANCHES[0] else f"contrast(branch={spec!r})"
        lines.append([f"`{name}`", interval(own), interval(rows[name]["pope"]["adversarial"]["yes_ratio"])])
    head = ["strategy", "'yes' of the branch alone", "'yes' of the answer"]
    return markdown(head, lines)


def made(result: dict[str, Any]) -> dict[str, str]:
    """Every generated part of the page by its name."""
    about, rows = result["conditions"], result["rows"]
    versions = about["versions"]
    said = (
        f"{about['questions']:,} yes/no questions in each of POPE's three settings and {about['captions']} captions a "
        f"split, scene seed {about['seed']}, greedy; float32, one thread of an {about['device'].split(' (')[0]}, "
        f"transformers {versions['transformers']}, torch {versions['torch']}, {about['date'][:10]}. Times: median of "
        f"{about['rounds']} rounds of {about['each']} answers, processor time. Command: `{about['command']}`.\n"
    )
    found = {"conditions": said}
    for split in dict.fromkeys(row["split"] for row in rows):
        part = [row for row in rows if row["split"] == split]
        found |= {f"pope {split}": pope(part), f"chair {split}": chair(part)}
    found["branches"] = branches(result)
    found["steps"] = steps(read("contrastive-cpu"))
    return found | {"cost": cost([row for row in rows if "over_plain" in row])}


def page(result: Path = RESULT) -> Page:
    """docs/contrastive.md, of the result in a folder."""
    return Page(ROOT / "docs" / "contrastive.md", "python benchmarks/contrastive.py", lambda: made(read(result)))


def main() -> None:
    """Ask, grade, compare, time, write."""
    options = _options()
    if not options.page:
        write(options.output, _measured(options))
    if options.page or options.output == RESULT:
        page(options.output).write()


def _measured(options: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(1)
    model, processor, weights = loaded(options.model, "float32")
    size = {"questions": options.questions, "captions": options.captions, "seed": options.seed}
    clock = {"rounds": options.rounds, "each": options.each}
    about = conditions(torch.device("cpu"), Clock(torch.device("cpu"), 1), model, weights=weights, **size, **clock)
    specs, rows = [spec for spec, _ in CELLS], []
    identity = {"spec": "times", "split": "test", **clock, "weights": weights, "versions": about["versions"]}
    cost = remembered(options.replies, identity, lambda: times(model, processor, specs, **clock))
    for split in options.splits:
        asked, told = exam(split, **size), dict[str, list[str]]()
        of_split = []
        for spec, base in track(CELLS, description=split):
            identity = {"spec": spec, "split": split, **size, "weights": weights, "versions": about["versions"]}
            given = remembered(
                options.replies, identity, lambda s=spec, a=asked: replies(model, processor, s, a, options.batch_size)
            )
            told[spec] = given["texts"]
            row = make_row(asked, given["texts"], told[base] if base else None)
            of_split.append({"strategy": spec, "base": base, "split": split, "tokens": given["tokens"], **row})
        rows += adjust_together(of_split)
    asked = exam("test", options.questions, 0, options.seed)
    asked = [example for example in asked if example.kind == "pope_adversarial"]
    said = []
    for spec in BRANCHES:
        identity = {"spec": f"{spec} alone", "split": "test", **size, "weights": weights, "versions": about["versions"]}
        given = remembered(
            options.replies, identity, lambda s=spec: replies(model, processor, s, asked, options.batch_size)
        )
        said.append({"branch": spec, **asdict(grade(asked, given["texts"]).pope["adversarial"].yes_ratio)})
    with vtokens.attach(model, "none") as handle:
        scenes.answer(model, processor, exam("test", 0, options.each, seed=7), options.each)
        full = handle.report()
    for row in rows[: len(CELLS)]:
        row |= {**cost[row["strategy"]], "flops_full": full.flops_full, "kv_bytes_full": full.kv_bytes_full}
    return {"conditions": about, "rows": rows, "branches": said}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="scenes-llava")
    parser.add_argument("--splits", nargs="+", default=["test", "partner-removed"])
    parser.add_argument("--questions", type=int, default=400, help="yes/no, per setting and split (%(default)s)")
    parser.add_argument("--captions", type=int, default=300, help="per split (%(default)s)")
    parser.add_argument("--seed", type=int, default=100, help="of the scenes (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=32, help="(%(default)s)")
    parser.add_argument("--rounds", type=int, default=4, help="of timing (%(default)s)")
    parser.add_argument("--each", type=int, default=8, help="answers a round (%(default)s)")
    parser.add_argument("--replies", type=Path, default=ROOT / "runs" / "contrastive", help="kept here (%(default)s)")
    parser.add_argument("--output", type=Path, default=RESULT)
    parser.add_argument("--page", action="store_true", help="only write the page's tables, from the result")
    parser.add_argument("--quick", action="store_true", help="20 questions and 10 captions; write nothing tracked")
    options = parser.parse_args()
    if options.quick:
        options.questions, options.captions, options.rounds, options.each = 20, 10, 1, 4
        options.output = options.replies / "quick"
    return options


if __name__ == "__main__":
    main()
