"""`vtokens search-patterns`: which pattern each attention head of a model runs over long prompts."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any

from vtokens.cli.loaded import plain_model
from vtokens.cli.options import above_zero, add_placement, check_file, numbers, whole
from vtokens.cli.output import console, quoted, say
from vtokens.cli.pictures import add_pictures, images
from vtokens.core.prompts import encode_prompts, question_prompt
from vtokens.loading.hardware import check_device

_QUESTION = "What is to be seen in these pictures?"


def add_to(commands: Any) -> None:
    """Add the command."""
    command = commands.add_parser(
        "search-patterns",
        help="find the attention patterns that mminference runs",
        description="Try sparse attention patterns on prompts with pictures and write, for each head, the one that "
        "changes its output least among those of bounded cost.",
        epilog="examples:\n  vtokens search-patterns llava-hf/llava-onevision-qwen2-7b-ov-hf --samples 8 --out p.json\n"
        "  vtokens search-patterns scenes-llava --pictures 1,2,4 --block 16 16 --density 0.5 --out p.json\n"
        "  vtokens run ... --strategy \"mminference(patterns='p.json')\"\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_pictures(command, "the JSON file to write")
    command.add_argument("--samples", type=whole(), default=8, help="prompts to try patterns on (default: %(default)s)")
    command.add_argument(
        "--pictures",
        type=numbers(1, 1000),
        default=(1, 2, 4, 8),
        help="pictures of a prompt, in turn (default: 1,2,4,8)",
    )
    command.add_argument(
        "--block", type=int, nargs=2, default=(128, 64), metavar=("ROWS", "KEYS"), help="a tile (default: 128 64)"
    )
    bound = command.add_mutually_exclusive_group()
    bound.add_argument("--cost", type=above_zero, help="the most time, as a share of dense attention's (default: 0.5)")
    bound.add_argument("--density", type=above_zero, help="instead: the most tiles, as a share of the causal ones")
    command.add_argument("--max-error", type=above_zero, help="heads with a larger relative error stay dense")
    add_placement(command)
    command.set_defaults(run=_search)


def _search(options: argparse.Namespace) -> None:
    from rich.progress import Progress

    from vtokens.calibrate.patterns import search
    from vtokens.tables.patterns import BLOCKS

    device = check_device(options.device)
    check_file(options.out, "--out")
    if any(size not in BLOCKS for size in options.block):
        raise ValueError(f"--block {' '.join(map(str, options.block))} is not allowed: two of {BLOCKS}")
    model, processor = plain_model(options.model, options.dtype, device)
    cost = 0.5 if options.cost is None and options.density is None else options.cost
    screen = console(stderr=True)
    with Progress(transient=True, console=screen, disable=not screen.is_terminal) as bar:
        task = bar.add_task("trying patterns", total=options.samples)
        found = search(
            model, _prompts(processor, options, model.device), block=tuple(options.block), cost=cost,
            density=options.density, max_error=options.max_error, progress=lambda: bar.advance(task),
        )  # fmt: skip
    found.save(options.out)
    heads = [head for layer in found.heads for head in layer]
    names = Counter("dense" if head.run.intra is None else f"{head.run.intra.intra}/{head.run.inter}" for head in heads)
    say(", ".join(f"{count} x {name}" for name, count in names.most_common()))
    say(
        f"tiles visited {_mean([head.density for head in heads]):.1%}, relative error of the output "
        f"{_mean([head.score for head in heads]):.3f}, attention kept {_mean([head.recall for head in heads]):.1%} "
        f"(means over {len(heads)} heads); a visited tile takes {found.ratio:g} times one of dense attention"
    )
    say(f"written to {options.out}; use it as {quoted(f'mminference(patterns={options.out!r})')}")


def _prompts(processor: Any, options: argparse.Namespace, device: Any) -> Iterator[dict[str, Any]]:
    """Prompts of different lengths; a folder's pictures are taken again when they have run out."""
    counts = [options.pictures[number % len(options.pictures)] for number in range(options.samples)]
    pictures = list(images(options.images, sum(counts)))
    endless = (picture for _ in iter(int, 1) for picture in pictures)
    for count in counts:
        text = question_prompt(processor, _QUESTION, count)
        yield dict(encode_prompts(processor, [text], [islice(endless, count)]).to(device))


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
