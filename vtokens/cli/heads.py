"""`vtokens heads`: classifiers of attention heads, task vectors, and where in a picture a word is."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vtokens.cli import press, relevance
from vtokens.cli.examples import read_examples
from vtokens.cli.loaded import plain_model
from vtokens.cli.options import add_placement, check_file, whole
from vtokens.cli.output import say
from vtokens.core.prompts import encode_prompts, question_prompt
from vtokens.loading.hardware import check_device

_QUESTION = "What is in this picture?"
_BATCH = 16


def add_to(commands: Any) -> None:
    """Add the command with its two subcommands."""
    heads = commands.add_parser(
        "heads",
        help="make a classifier of a model's attention heads, press a task into them, or show where a word is",
        description="Find the attention heads whose outputs tell classes apart (sparse attention vectors), from a few "
        "labelled pictures of each class and without training, and classify other pictures by them; press examples of "
        "a task into heads; show where in a picture a word is.",
    )
    parts = heads.add_subparsers(metavar="what", required=True)
    fit = parts.add_parser(
        "fit",
        help="find the heads",
        description="Find the heads that classify labelled pictures best. Prints how often classes are right that were "
        "found without the picture asked about (five parts, each left out in turn).",
        epilog="examples:\n  vtokens heads fit llava-hf/llava-1.5-7b-hf few.jsonl --out birds.safetensors\n\n"
        'each line of few.jsonl: {"image": "photos/1.jpg", "label": "wren"}; images are found beside it\n',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    fit.add_argument("model", help="an embedded model, a folder or a hub id")
    fit.add_argument("labels", help="JSON lines with image and label, at least two pictures a class")
    fit.add_argument("--out", required=True, help="the safetensors file to write")
    fit.add_argument("--heads", type=whole(), default=20, metavar="N", help="heads to take (%(default)s)")
    fit.add_argument("--question", default=_QUESTION, help="what to ask about each picture (%(default)s)")
    add_placement(fit)
    fit.set_defaults(run=_fit)
    classify = parts.add_parser("classify", help="classify pictures by them", description="Classify pictures.")
    classify.add_argument("model", help="the model that the heads were found in")
    classify.add_argument("vectors", help="the file that `vtokens heads fit` wrote")
    classify.add_argument("pictures", nargs="+", help="pictures")
    add_placement(classify)
    classify.set_defaults(run=_classify)
    press.add_to(parts)
    relevance.add_to(parts)


def _fit(options: argparse.Namespace) -> None:
    from vtokens.adapters import adapter_for
    from vtokens.calibrate.vectors import cross_validated, fit, outputs_of
    from vtokens.eval.metrics.intervals import wilson

    check_file(options.out, "--out", options.labels)
    rows = list(_labelled(Path(options.labels)))
    model, processor = plain_model(options.model, options.dtype, check_device(options.device))
    outputs = outputs_of(model, _batches(processor, [path for path, _ in rows], options.question, model.device))
    labels = [label for _, label in rows]
    found = fit(outputs, labels, adapter_for(model).facts.decoder, options.heads, options.question)
    right, tried = cross_validated(outputs, labels, options.heads)
    found.save(options.out)
    named = ", ".join(f"{layer}.{head}" for layer, head in found.heads.tolist())
    say(f"{len(found.labels)} classes, {len(labels)} pictures; heads (layer.head): {named}")
    if tried:
        say(f"right where the picture was left out: {wilson(right, tried)} of {tried}")
    else:
        say("too few pictures a class to leave some out: how often these heads are right was not measured")
    say(f"written to {options.out}; use it with `vtokens heads classify {options.model} {options.out} PICTURES`")


def _classify(options: argparse.Namespace) -> None:
    from vtokens.calibrate.vectors import HeadVectors

    vectors = HeadVectors.load(options.vectors)
    model, processor = plain_model(options.model, options.dtype, check_device(options.device))
    batches = _batches(processor, [Path(one) for one in options.pictures], vectors.question, model.device)
    found = [one for batch in batches for one in vectors.classify(model, batch)]
    for name, (label, share) in zip(options.pictures, found, strict=True):
        say(f"{name}: {label} ({share:.0%} of the heads)")


def _batches(processor: Any, paths: list[Path], question: str, device: Any) -> Iterator[dict[str, Any]]:
    from vtokens.core.images import open_image

    prompt = question_prompt(processor, question)
    for start in range(0, len(paths), _BATCH):
        pictures = [[open_image(path)] for path in paths[start : start + _BATCH]]
        yield dict(encode_prompts(processor, [prompt] * len(pictures), pictures).to(device))


def _labelled(path: Path) -> Iterator[tuple[Path, str]]:
    for row in read_examples(path, "an image or a label", {"image": "1.jpg", "label": "wren"}):
        yield path.parent / row["image"], row["label"]
