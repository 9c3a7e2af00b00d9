"""Do recipes that ask again help scenes-llava with what is small, and at what cost?

python benchmarks/recipes.py --n 240 --recipes none,crop,"crop(method=gradient)" --strategies none

Questions whose answer lies in one cell of a scene, or that count objects (split test), asked one by one; accuracy with
its 95% interval, the p-value of McNemar's test against the first way to ask, passes, CPU seconds a question, FLOPs.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

import vtokens
from vtokens.eval.cells import cells, split
from vtokens.eval.metrics import mcnemar
from vtokens.recipes import parse_recipe
from vtokens.recipes.looking.asking import Asking
from vtokens.scenes import accuracy, examples, score

KINDS = ("digit", "at", "colour_at", "count_all", "count_colour", "count_shape")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    options.add_argument("--n", type=int, default=240)
    options.add_argument("--recipes", default="none,crop,crop(method=gradient)")
    options.add_argument("--strategies", default="none")
    options.add_argument("--keep", type=float, default=0.25)
    options.add_argument("--model", default="scenes-llava")
    given = options.parse_args()
    model, processor = vtokens.load(given.model, strategy="none")
    vtokens.detach(model)
    asked = examples("test", given.n, 0, kinds=KINDS)
    print(f"{given.model}, {given.n} questions, torch {torch.__version__}, {torch.get_num_threads()} thread(s)")
    baseline: list[bool] = []
    wanted = split(given.strategies)
    keeps = [given.keep] if any(one != "none" for one in wanted) else []
    for cell in cells(wanted, keeps, recipes=split(given.recipes)):
        right, spent, passes, flops = [], 0.0, 0, 0
        with vtokens.attach(model, cell.strategy):
            for example in asked:
                begun = time.process_time()
                if cell.recipe == "none":
                    asking = Asking(model, processor, example.image, example.question)
                    text = asking.ask().text
                    passes, flops = passes + asking.passes, flops + asking.flops
                else:
                    looked = parse_recipe(cell.recipe)(model, processor, example.image, example.question)
                    text, passes, flops = looked.text, passes + looked.passes, flops + looked.flops
                spent += time.process_time() - begun
                right.append(bool(score(text, example)))
        baseline = baseline or right
        kinds = {
            kind: statistics.fmean(ok for ok, one in zip(right, asked, strict=True) if one.kind == kind)
            for kind in KINDS
        }
        p_value = mcnemar(baseline, right).p_value
        n = len(asked)
        print(
            f"| {cell.cell} | {accuracy(sum(right), n)} | {p_value:.2g} | {passes / n:.1f} | {spent / n:.3f} s | "
            f"{flops / n / 1e9:.2f} GFLOP | " + " ".join(f"{kind} {share:.2f}" for kind, share in kinds.items()),
            flush=True,
        )


if __name__ == "__main__":
    main()
