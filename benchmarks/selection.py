"""What selecting costs before the decoder: seconds and FLOPs of every pruner at the width of a 7B model.

python benchmarks/selection.py                          # 576 and 2,880 visual tokens of 4,096 channels, one thread
python benchmarks/selection.py --width 512 --rounds 2   # seconds, to see that it runs

Features are drawn in clusters, signals are drawn too: a strategy sees what the engine would show it, and its stage is
timed by processor time. The first token is not run but counted (`core/costs.py`, tower and decoder of LLaVA-1.5-7B or
LLaVA-NeXT-7B and 40 words) and divided by the rate of a product of large matrices in the same process, which a
model does not reach: shares are upper bounds. A method's own FLOPs are matrix products alone, by the formulas below.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from benchmarks.common import Clock, conditions, summary, write  # noqa: E402
from benchmarks.shapes import build  # noqa: E402
from vtokens.core.costs import call_flops  # noqa: E402
from vtokens.core.layout import Layout  # noqa: E402
from vtokens.core.picture import Picture  # noqa: E402
from vtokens.eval.presets import preset  # noqa: E402
from vtokens.strategies import Composition, Facts, Strategy, VideoPruner, Visuals, get, list_strategies  # noqa: E402

KEEP, WORDS, ROUNDS = 0.1, 40, 3
TOKENS = {576: "llava-1.5-7b", 2880: "llava-next-7b"}
GRID = {576: (1, 24, 24), 2880: (1, 48, 60)}
TOWER = {576: 0.41e12, 2880: 2.03e12}
"""Operations of tower and projector, as docs/costs.md has them."""
FACTS = Facts("llava", depth=32, tower_depth=24, has_cls=True)
SETTINGS: dict[str, dict[str, Any]] = {"apet": {"layer": 0}, "nuwa": {"layer": 0}, "todre": {"exit_threshold": None}}
"""The first stage alone, where a second one has to read a decoder's layers."""
METHODS: dict[str, Callable[[int, int, int], float]] = {
    # Tokens, kept tokens and channels -> operations; the products of a definition, a multiply-add counted as two.
    "todre": lambda n, k, d: 2 * n * k * d,
    "weighted_kcenter": lambda n, k, d: 2 * n * k * d,
    "zoo": lambda n, k, d: 2 * n * k * d,
    "idselection": lambda n, k, d: 2 * n * k * d,
    "cdpruner": lambda n, k, d: 2 * n * k * d + n * k**2,  # rows of the kernel, and of its factor
    "divprune": lambda n, k, d: 2 * n**2 * d,  # all distances, for the nearest neighbours
    "scope": lambda n, k, d: 2 * n**2 * d,
    "mmtok": lambda n, k, d: 2 * n * (n + WORDS) * d,
    "vispruner": lambda n, k, d: 2 * (n - k // 2) ** 2 * d,
    # Subspace iteration, twice, and the decomposition in the subspace: six products with the features; and all cosines.
    "prunesid": lambda n, k, d: 12 * n * d * (k // 4) + 2 * n**2 * d,
    "agilepruner": lambda n, k, d: (
        2 * min(n, d) ** 2 * (max(n, d) + min(n, d)) + 2 * n * k * d
    ),  # singular values (R-bidiagonalisation)
    "apet": lambda n, k, d: 4 * n * 10 * d + 2 * n * k * d,  # the basis and its weights, and the nearest kept token
    "census": lambda n, k, d: 4 * n * k * d,
    "vmtc": lambda n, k, d: 11 * 2 * (n - k // 2) * (k // 2) * d,
}


def main() -> None:
    """Time, print, write."""
    options = _options()
    torch.set_num_threads(1)
    device = torch.device("cpu")
    with torch.device("meta"):
        model = build("llava-1.5-7b", torch.device("meta"), torch.float32)
    about = conditions(
        device, Clock(device, 1), model, draws=[0], keep=KEEP, width=options.width, rounds=options.rounds
    )
    about["first_token"] = "counted FLOPs over the rate of a 2,048 x 2,048 float32 product in the same process"
    rows = []
    for tokens in TOKENS:
        visuals = {grouping: shown(tokens, options.width, grouping) for grouping in ("image", "frame", "view")}
        for name in options.strategy or list_strategies():
            strategy = made(name)
            if strategy is not None:
                rows.append(measure(strategy, visuals, tokens, options))
                print({key: f"{value:.3g}" if isinstance(value, float) else value for key, value in rows[-1].items()
                       if key != "seconds"}, flush=True)  # fmt: skip
    if options.output:
        write(options.output, {"conditions": about, "rows": rows})


def made(name: str) -> Strategy | None:
    """The strategy at keep 0.1; None if it does not select among a picture's tokens before the decoder."""
    kind: Any = get(name)
    if (
        "prompt" not in kind.stages()
        or {"encode", "pixels"} & {*kind.stages()}
        or issubclass(kind, VideoPruner | Composition)
    ):
        return None
    settings = dict(SETTINGS.get(name, {}))
    return kind(**settings, keep=KEEP) if "keep" in {field.name for field in dataclasses.fields(kind)} else None


def shown(tokens: int, width: int, grouping: Any, seed: int = 0) -> Visuals:
    """What a strategy sees of one picture between a word and 40 words; every signal is there."""
    made, size = torch.Generator().manual_seed(seed), tokens + 1 + WORDS

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=made)

    centre, which = normal(tokens // 12, width), torch.randint(tokens // 12, (tokens,), generator=made)
    hidden = torch.zeros(1, size, width)
    hidden[0, 1 : 1 + tokens] = centre[which] + 0.7 * normal(tokens, width) + 0.5 * normal(1, width)
    hidden[0, 1 + tokens :] = normal(WORDS, width)
    visual = torch.zeros(1, size, dtype=torch.bool)
    visual[0, 1 : 1 + tokens] = True
    words = torch.zeros_like(visual)
    words[0, 1 + tokens :] = True
    layout = Layout.build({"image": visual}, {"image": [Picture.of([GRID[tokens]], [False])]}, torch.ones_like(visual))
    saliency, relevance = (1.5 * normal(1, size)).softmax(1), normal(1, size).tanh() / 2
    keys, pushed = normal(1, size, 16, 64), normal(1, size).square()
    given: Any = SimpleNamespace(
        saliency=lambda *_, **__: saliency, tower_keys=lambda *_: keys, relevance=lambda *_: relevance,
        sensitivity=lambda *_: pushed, text=lambda *_: words, copies=lambda: None, sizes=lambda: None,
        notes=lambda *_: {}, depth=FACTS.depth,
    )  # fmt: skip
    return Visuals(hidden, layout, grouping, given)


@torch.no_grad()
def measure(
    strategy: Strategy, visuals: dict[str, Visuals], tokens: int, options: argparse.Namespace
) -> dict[str, Any]:
    """One row: seconds of the stage, its share of a first token, and its matrix products beside the method's own."""
    seen = dataclasses.replace(visuals[strategy.grouping], prepared=strategy.prepare(FACTS))
    taken, rates = [], []
    for _ in range(options.rounds + 1):
        rates.append(rate())
        begin = time.process_time()
        selection = strategy.at_prompt(seen)
        taken.append(time.process_time() - begin)
    taken = taken[1:]  # the first warms up
    with FlopCounterMode(display=False) as counter:
        strategy.at_prompt(seen)
    kept = tokens if selection is None else int(selection.keep.sum())
    text = preset(TOKENS[tokens]).get_text_config()
    speed = sorted(rates)[len(rates) // 2]
    whole, pruned = (
        (TOWER[tokens] + call_flops(text, None, [left + WORDS] * text.num_hidden_layers, 1).prefill) / speed
        for left in (tokens, kept)
    )
    method = METHODS.get(strategy.name)
    own = method(tokens, kept, options.width) if method else 0.0
    middle, counted = summary(taken), counter.get_total_flops()
    return {
        "strategy": strategy.name, "visual_tokens": tokens, "kept": kept, "seconds": middle,
        "gflops_per_second": speed / 1e9, "of_first_token": middle["median"] / whole,
        "of_pruned_first_token": middle["median"] / pruned, "ideal": pruned / (pruned + middle["median"]),
        "method_gflop": own / 1e9, "counted_gflop": counted / 1e9, "factor": counted / own if own else None,
        "seconds_over_method": middle["median"] * speed / own if own else None,
    }  # fmt: skip


def rate(size: int = 2048) -> float:
    """Operations a second of a large product of this process."""
    one = torch.ones(size, size)
    begin = time.process_time()
    one @ one
    return 2 * size**3 / (time.process_time() - begin)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strategy", nargs="+", help="names (default: all that select before the decoder)")
    parser.add_argument("--width", type=int, default=4096, help="channels of a token (%(default)s)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="that count (%(default)s)")
    parser.add_argument("--output", type=Path, help="the folder for the tables (default: none is written)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
