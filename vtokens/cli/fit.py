"""`vtokens filter fit`: a filter for one's own model and pictures, from a few hundred labelled answers."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from vtokens.cli.check import add_filter_options, make_filter
from vtokens.cli.options import whole
from vtokens.cli.output import console, note, say

_EXAMPLES = """examples:
  vtokens filter fit --labels labels.jsonl --images photos --out my-filter --model llava-hf/llava-1.5-7b-hf
  vtokens filter fit --labels labels.jsonl --images photos --out my-filter --strategy todre --extractor coco

A row of the labels is {"image": "a.jpg", "prompt": "Describe the image.", "response": "A dog and a cat.", "wrong":
["cat"]}: the answer that the model gave, and what of it the picture does not support, as words of the answer or as
[start, end], characters of it; [] where all is right. Three hundred rows are a beginning.

my-filter is a folder of JSON and safetensors: --filter my-filter of check and filter, or
HallucinationFilter.from_pretrained(..., calibrator="my-filter"); a hub repository can hold it as it is.
"""
_FEW = 300  # rows below which figures mean little
_HELD = 0.4  # of the images, to set thresholds on


def add_to(commands: Any) -> None:
    """Add the command below `filter`."""
    command = commands.add_parser(
        "fit",
        help="fit and calibrate a filter on labelled answers",
        description="Fit and calibrate a filter on labelled answers of a model, and say how good it is.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("--labels", required=True, metavar="JSONL", help="labelled answers")
    command.add_argument("--images", required=True, metavar="DIR", help="paths of images are relative to this folder")
    command.add_argument("--out", required=True, metavar="PATH", help="a folder, or a file that ends in .json")
    command.add_argument("--prompt", default="Describe the image.", help='for rows without one ("%(default)s")')
    command.add_argument(
        "--kind", choices=("any", "share"), default="any",
        help="what --risk bounds: the chance that an answer keeps something wrong, or the share that it keeps (any)",
    )  # fmt: skip
    command.add_argument("--batch-size", type=whole(), default=16, metavar="B", help="(%(default)s)")
    add_filter_options(command)
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from rich.table import Table

    from vtokens.eval.detectors.crossvalidated import crossvalidated
    from vtokens.filter.calibrators.label_file import labelled, read_labels
    from vtokens.filter.guarantees.risk import Risk

    if options.filter is not None:
        raise ValueError("--filter is for filters that are there already: fit makes one, --out")
    risk = Risk(options.kind, 0.1 if options.risk is None else options.risk, 0.1)
    rows = list(read_labels(options.labels, options.prompt))
    if not rows:
        raise ValueError(f"{options.labels} has no rows")
    options.filter = "none"
    hf = make_filter(options, options.batch_size)
    records, lost = labelled(hf, rows, options.images, options.batch_size)
    mentions, wrong = sum(len(one.labels) for one in records), sum(sum(one.labels) for one in records)
    images = len({one.image for one in records})
    say(f"{len(records)} answers about {images} images: {wrong} of {mentions} mentions wrong")
    if lost:
        shown = ", ".join(map(repr, lost[:5])) + (f" and {len(lost) - 5} more" if len(lost) > 5 else "")
        note(
            f"said to be wrong, but no mention that this extractor finds and this model can read: {shown}. What is "
            "not found is outside of any guarantee"
        )
    if len(records) < _FEW:
        note(
            f"{len(records)} rows are few: intervals will be wide, and small risks out of reach; {_FEW} are a beginning"
        )
    table = Table(box=None, pad_edge=False, header_style="dim", title="cross-validated by image, with 95% intervals")
    found = [one.row() for one in crossvalidated(records)]
    for name in found[0]:
        table.add_column(name, no_wrap=name == "detector")
    for row in found:
        table.add_row(*map(str, row.values()))
    console().print(table)
    fit, held = parted(records)
    hf.fit(fit).calibrate(held, risk)
    hf.save(options.out)
    certificate = hf.certificate(risk, "redact")
    say(f"written to {options.out}. Its promise where flagged sentences are dropped: {certificate}")
    if certificate.infeasible:
        note(
            "the promise cannot be kept with these labels: the filter gives probabilities, and refuses that risk. A "
            "larger --risk, more rows, or signals that rank better would do"
        )


def parted(records: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """Records to fit on and records to set thresholds on, of different images, the same in every run."""
    from vtokens.filter.calibrators.fitting import lot

    held = {one.image for one in records if lot(one.image, "thresholds") / 2**64 < _HELD}
    return [one for one in records if one.image not in held], [one for one in records if one.image in held]
