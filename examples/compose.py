"""Strategies composed on the embedded model: answers, costs, and what each part contributed.

python -m examples.compose
python -m examples.compose "cls(keep=0.5)+vhr(alpha=3)" "dymu+fastv(keep=0.5)"
"""

from __future__ import annotations

import argparse

from rich.console import Console
from rich.table import Table
from transformers.utils import logging

import vtokens
from vtokens import scenes

SPECS = ["none", "todre(keep=0.1)+var+vhr", "dymu+vhr", "cls(keep=0.5)+fastv(keep=0.5, layer=2)"]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("specs", nargs="*", default=SPECS, help="strategies joined by +")
    specs = options.parse_args().specs
    logging.disable_progress_bar()

    model, processor = vtokens.load("scenes-llava")
    examples = [scenes.examples("test", n=1, seed=7, kinds=[kind])[0] for kind in ("where", "count_all", "caption")]
    table = Table(title="One batch of three questions about three scenes", show_lines=True)
    table.add_column("strategies", overflow="fold")
    for column in (*(example.question for example in examples), "visual tokens", "KV cache"):
        table.add_column(column)
    reports = []
    for spec in specs:
        with vtokens.attach(model, spec) as handle:
            answers = scenes.answer(model, processor, examples)
            report = handle.report()
        right = [scenes.score(answer, example) for answer, example in zip(answers, examples, strict=True)]
        cells = [f"[{'green' if ok else 'red'}]{answer}" for answer, ok in zip(answers, right, strict=True)]
        tokens = sum(sample.average_tokens for sample in report.samples) / len(report.samples)
        table.add_row(report.strategy, *cells, f"{tokens:.0f}", f"{report.kv_bytes / report.kv_bytes_full:.0%}")
        reports.append(report)
    console = Console()
    console.print(table)
    for report in reports:
        console.print(str(report), highlight=False)


if __name__ == "__main__":
    main()
