"""Acting on captions: redact and regenerate beside truncation, with recall. Part of docs/reports/filter-scenes.md.

python benchmarks/filter_actions.py           # the filter that ships with the embedded model
python benchmarks/filter_actions.py --quick
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from rich.progress import track  # noqa: E402

from benchmarks.common import Clock, conditions, write  # noqa: E402
from vtokens import scenes  # noqa: E402
from vtokens.eval.hallucination import mentioned, visible  # noqa: E402
from vtokens.eval.metrics import Interval, chair  # noqa: E402
from vtokens.eval.metrics.paired import difference  # noqa: E402
from vtokens.filter import HallucinationFilter, ResponseReport  # noqa: E402
from vtokens.filter.actions.action import without  # noqa: E402

THRESHOLDS = (0.05, 0.1, 0.3, 0.5)
RETRIES = {("ban",): (0.1,), ("resample",): (0.1,)}
RESULT = ROOT / "benchmarks" / "results" / "filter-actions"


def act(hf: HallucinationFilter, examples: Sequence[scenes.Example], action: str, **more: Any) -> dict[str, Any]:
    """Texts after an action, passes a response, and for "flag" the texts after redaction at each threshold."""
    texts, passes, redacted = [], 0, {str(threshold): list[str]() for threshold in THRESHOLDS}
    for start in range(0, len(examples), 50):
        part = examples[start : start + 50]
        images, prompts = [example.image for example in part], [example.question for example in part]
        for outcome in hf.generate(images, prompts, action, do_sample=False, **more):
            texts.append(outcome.text)
            passes += outcome.passes
            for threshold in THRESHOLDS if action == "flag" else ():
                redacted[str(threshold)].append(_redacted(outcome.report, threshold))
    return {"texts": texts, "passes": passes / len(examples), "redacted": redacted}


def graded(examples: Sequence[scenes.Example], texts: Sequence[str], plain: Sequence[str]) -> dict[str, Any]:
    """CHAIR of the texts, and by how much it and recall differ from those of the plain captions."""
    truths = [visible(example) for example in examples]
    found = chair([mentioned(text) for text in texts], truths)
    row = {name: value and _rounded(value) for name, value in vars(found).items() if name != "n"}
    counts = [[_counts(mentioned(text), truth) for text, truth in zip(t, truths, strict=True)] for t in (texts, plain)]
    for name, hit, tried in (("chair_i", 0, 1), ("recall", 2, 3)):
        pairs = [([c[hit] for c in rows], [c[tried] for c in rows]) for rows in counts]
        change = difference(*pairs)
        row[f"{name}_change"] = change and _rounded(change)
    return row


def truncated(texts: Sequence[str], objects: int) -> list[str]:
    """The captions up to so many objects."""
    return [" , ".join(text.split(" , ")[:objects]) for text in texts]


def measure(hf: HallucinationFilter, examples: Sequence[scenes.Example], folder: Path) -> list[dict[str, Any]]:
    """Rows of the table: plain, truncated, redacted and regenerated."""
    split = examples[0].split
    jobs: list[tuple[str, dict[str, Any]]] = [("flag", {})]
    jobs += [("regenerate", {"threshold": t, "retries": list(way)}) for way, at in RETRIES.items() for t in at]
    rows, plain = [], list[str]()
    for action, more in track(jobs, description=split):
        path = folder / f"{split}-{len(examples)}-{action}-{'-'.join(map(str, more.values()))}.json"
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(act(hf, examples, action, **more)), encoding="utf-8")
        found = json.loads(path.read_text(encoding="utf-8"))
        plain = plain or found["texts"]
        rows.append({"action": action, **more, "passes": found["passes"], **graded(examples, found["texts"], plain)})
        for threshold in THRESHOLDS if action == "flag" else ():
            texts = found["redacted"][str(threshold)]
            rows.append({"action": "redact", "threshold": threshold, "passes": 1.0, **graded(examples, texts, plain)})
    for objects in range(1, 8):
        rows.append({"action": "truncate", "objects": objects, **graded(examples, truncated(plain, objects), plain)})
    return [{"split": split, **row} for row in rows]


def _redacted(report: ResponseReport, threshold: float) -> str:
    """The response without sentences that hold a mention above the threshold."""
    bad = {judged.mention.sentence for judged in report.mentions if judged.p > threshold}
    return without(report.response, report.spans, [number in bad for number in range(len(report.spans))]).strip()


def _counts(said: Sequence[str], truth: set[str]) -> tuple[int, int, int, int]:
    """Mentions that are wrong, mentions, things there that are mentioned, things there."""
    return sum(name not in truth for name in said), len(said), len(truth.intersection(said)), len(truth)


def _rounded(interval: Interval) -> dict[str, float]:
    return {name: float(f"{value:.6g}") for name, value in vars(interval).items()}


def main() -> None:
    """Act, grade, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strategy", default="none")
    parser.add_argument("--captions", type=int, default=300, help="per split (%(default)s)")
    parser.add_argument("--splits", nargs="+", default=["partner-removed", "test"])
    parser.add_argument(
        "--replies", type=Path, default=ROOT / "runs" / "filter-actions", help="kept here (%(default)s)"
    )
    parser.add_argument("--output", type=Path, default=RESULT)
    parser.add_argument("--quick", action="store_true", help="30 captions; write nothing tracked")
    options = parser.parse_args()
    if options.quick:
        options.captions, options.output = 30, options.replies / "quick"
    torch.set_num_threads(1)
    hf = HallucinationFilter.from_pretrained("scenes-llava", strategy=options.strategy, dtype=torch.float32)
    about = conditions(hf.model.device, Clock(hf.model.device, 1), hf.model, seed=3000, captions=options.captions)
    rows = []
    for split in options.splits:
        examples = scenes.examples(split, n=options.captions, seed=3000, kinds=["caption"])
        rows += measure(hf, examples, options.replies)
    write(options.output, {"conditions": about, "rows": rows})
    print(f"written to {options.output}")


if __name__ == "__main__":
    main()
