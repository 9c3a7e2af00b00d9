"""census on scenes: what its settings do on calibration questions, and how it compares with every other pruner.

python benchmarks/census.py choose                      # split calibration: share, saliency in the picks, cap, places
python benchmarks/census.py compare --split test hard   # settings as committed, against the pruners that are there
python benchmarks/census.py choose --questions 66 --seeds 1 --keeps 0.1 --replies /tmp/replies   # a look

Answers are kept in `--replies` batch by batch, and a run that was stopped goes on from there; delete that folder when
a strategy's code has changed. Every row says how many questions it counts; differences are paired by question, with
a bootstrap over pictures, and p-values are adjusted after Holm over all comparisons of the run.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from rich.progress import track  # noqa: E402

import benchmarks.census_variants  # noqa: E402, F401  # registers what is compared here alone
import vtokens  # noqa: E402
from benchmarks.asking import ask, called, journal_at, loaded  # noqa: E402
from benchmarks.common import Clock, conditions, write  # noqa: E402
from benchmarks.leaderboard import pruners  # noqa: E402
from vtokens import scenes  # noqa: E402
from vtokens.eval.metrics.paired import holm  # noqa: E402
from vtokens.scenes.evaluation import accuracy  # noqa: E402

CHOICES = (
    "kcenter", *(f"census(share={share})" for share in (0.0, 0.5, 0.6, 0.75, 0.9, 1.0)),
    "census_variant(alpha=0.5)", "census_variant(cap=16)", "census_variant(place=middle)",
)  # fmt: skip
"""What is asked on the calibration split; all are compared with the first."""
PRUNERS = ("random", "uniform", "cls", "fastv", "todre", "divprune", "weighted_kcenter", "visionzip", "cdpruner",
           "vispruner", "hiprune", "scope", "prumerge", "downsample")  # fmt: skip
"""Those of them that are registered are compared with census, and with themselves and census behind them."""
RESULTS = Path(__file__).parent / "results"


def specs_there(named: Sequence[str], alone: bool = False) -> list[str]:
    """census, and the named pruners that are registered, each also with census behind it unless they are `alone`."""
    there = [name for name in named if name in vtokens.strategies()]
    return ["census", *(spec for name in there for spec in ((name,) if alone else (name, f"{name}+census")))]


def paired(a: np.ndarray, b: np.ndarray, groups: Sequence[Any], resamples: int = 10_000) -> dict[str, float]:
    """How much larger the mean of `a` is than that of `b`, both (n,), with a bootstrap over groups.

    `p` is two-sided: how often centred resamples are as far from 0 as what was found.
    """
    _, group = np.unique(np.asarray(groups), return_inverse=True)
    gain, count = np.bincount(group, a - b), np.bincount(group)
    drawn = np.random.default_rng(0).integers(len(gain), size=(resamples, len(gain)))
    found, mean = gain[drawn].sum(1) / count[drawn].sum(1), float(gain.sum() / count.sum())
    low, high = np.quantile(found, [0.025, 0.975])
    p = (1 + int((np.abs(found - mean) >= abs(mean) - 1e-12).sum())) / (resamples + 1)
    return {"difference": mean, "low": float(low), "high": float(high), "p": p, "n": len(a)}


class Asking:
    """A model, its questions and where replies are kept."""

    def __init__(self, options: argparse.Namespace, model: str, name: str) -> None:
        self.options = options
        self.name = name
        self.model, self.processor, weights = loaded(model, options.dtype)
        self.about = {"weights": weights, "dtype": options.dtype, "batch": options.batch_size}
        self._questions: dict[tuple[str, int], list[scenes.Example]] = {}

    def questions(self, split: str, seed: int) -> list[scenes.Example]:
        """Those of one draw, sorted by kind: a batch runs until its longest answer ends."""
        if (split, seed) not in self._questions:
            found = scenes.examples(split, n=self.options.questions, seed=seed, kinds=list(self.options.kinds))
            self._questions[split, seed] = sorted(found, key=lambda one: one.kind)
        return self._questions[split, seed]

    def right(self, spec: str, keep: float | None, split: str) -> tuple[dict[str, Any], np.ndarray]:
        """A row of the table, and whether each question was answered rightly, all draws behind one another."""
        hits, kinds, tokens, seconds = [], [], list[float](), 0.0
        for seed in range(self.options.first_seed, self.options.first_seed + self.options.seeds):
            examples = self.questions(split, seed)
            asked = {"spec": spec, "keep": keep, "split": split, "seed": seed, "n": self.options.questions}
            asked |= {"kinds": list(self.options.kinds), **self.about}
            fields = {"seed": seed} if spec == "random" else {}
            named = spec.replace("random+", f"random(seed={seed})+")
            found = ask(self.model, self.processor, named, examples, self.options.batch_size, keep=keep,
                        journal=journal_at(self.options.replies, **asked), **fields)  # fmt: skip
            hits += [scenes.score(text, one) for text, one in zip(found.texts, examples, strict=True)]
            kinds += [one.kind for one in examples]
            tokens, seconds = tokens + found.tokens, seconds + found.seconds
        row = {"strategy": spec, "keep": keep or 1.0, "split": split, "tokens_per_layer": float(np.mean(tokens))}
        row |= {"cpu_seconds": round(seconds, 1), "accuracy": vars(accuracy(sum(hits), len(hits)))}
        by_kind = {
            kind: [hit for hit, one in zip(hits, kinds, strict=True) if one == kind] for kind in dict.fromkeys(kinds)
        }
        row["kinds"] = {kind: {"share": sum(part) / len(part), "n": len(part)} for kind, part in by_kind.items()}
        return row, np.array(hits, dtype=float)

    def pictures(self, split: str) -> list[str]:
        """The picture of each question, as `right` has them."""
        seeds = range(self.options.first_seed, self.options.first_seed + self.options.seeds)
        return [f"{seed} {one.index}" for seed in seeds for one in self.questions(split, seed)]


def measured(models: Sequence[Asking], specs: Sequence[str], splits: Sequence[str], pairs: Any) -> dict[str, Any]:
    """Rows of all cells, and the comparisons that `pairs(specs)` names: (spec, other) by keep and split.

    Where several models are asked, a comparison is over the answers of all of them, and `by_model` has each one's
    difference; what they say about one picture is resampled as one.
    """
    keeps = models[0].options.keeps
    cells = [(one, spec, keep, split) for one in models for split in splits for keep in keeps for spec in specs]
    rows, refused, hits = [], [], dict[tuple[str, float, str], dict[str, np.ndarray]]()

    def told(one: Asking, row: dict[str, Any]) -> dict[str, Any]:
        return {"model": one.name, **row} if len(models) > 1 else row

    rows += [told(one, one.right("none", None, split)[0]) for one in models for split in splits]
    for one, spec, keep, split in track(cells, description="asking"):
        try:
            row, right = one.right(spec, keep, split)
        except ValueError as error:  # what cannot run here is said in the result
            refused.append(told(one, {"strategy": spec, "keep": keep, "split": split, "why": str(error)}))
            continue
        hits.setdefault((spec, keep, split), {})[one.name] = right
        rows.append(told(one, row))
        print(f"{one.name} {split} {keep} {spec}: {row['accuracy']}", flush=True)
    compared, wanted = [], list(itertools.product(keeps, pairs(specs)))
    resamples = max(10_000, 40 * len(wanted) * len(splits))  # the smallest p is above 0, and Holm multiplies it
    for split in splits:
        pictures = models[0].pictures(split)
        for keep, (spec, other) in wanted:
            mine, theirs = hits.get((spec, keep, split), {}), hits.get((other, keep, split), {})
            if len(mine) == len(theirs) == len(models):
                both = [np.concatenate([each[one.name] for one in models]) for each in (mine, theirs)]
                found = {"strategy": spec, "over": other, **paired(*both, pictures * len(models), resamples)}
                if len(models) > 1:
                    found["by_model"] = {one.name: (mine[one.name] - theirs[one.name]).mean() for one in models}
                compared.append({"split": split, "keep": keep, **found})
    for row, p in zip(compared, holm([row["p"] for row in compared]), strict=True):
        row["p_holm"] = p
    return {"rows": rows, "compared": compared, **({"refused": refused} if refused else {})}


def against_pruners(specs: Sequence[str]) -> list[tuple[str, str]]:
    """census over each pruner, and each pruner with census over itself."""
    plain = [spec for spec in specs if spec != "census" and not spec.endswith("+census")]
    return [pair for spec in plain for pair in (("census", spec), (f"{spec}+census", spec))]


def main() -> None:
    """Ask, compare, write."""
    options = _options()
    torch.set_num_threads(1)
    models = [Asking(options, *each) for each in called(options.model).items()]
    if options.what == "choose":
        specs, splits = options.specs or list(CHOICES), ["calibration"]
        result = measured(models, specs, splits, lambda some: [(spec, some[0]) for spec in some[1:]])
    else:
        named = options.specs or ([name for name in pruners() if name != "census"] if options.alone else PRUNERS)
        specs, splits = specs_there(named, options.alone), options.split
        result = measured(models, specs, splits, against_pruners)
    about = conditions(
        torch.device("cpu"), Clock(torch.device("cpu"), 1), models[0].model, questions_per_seed=options.questions,
        seeds=options.seeds, first_seed=options.first_seed, kinds=list(options.kinds),
    )  # fmt: skip
    write(options.output or RESULTS / f"census-{options.what}", {"conditions": about, **result})


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("choose", "compare"))
    parser.add_argument("--model", nargs="+", default=["scenes-llava"], help="embedded ones, or folders (%(default)s)")
    parser.add_argument("--specs", nargs="*", metavar="SPEC", help="in place of all")
    parser.add_argument("--alone", action="store_true", help="every pruner there is, without census behind it")
    parser.add_argument("--split", nargs="+", default=["test", "hard"], choices=("test", "hard"))
    parser.add_argument("--keeps", nargs="+", type=float, default=[0.25, 0.1, 0.05, 0.03], metavar="SHARE")
    parser.add_argument("--kinds", nargs="*", default=list(scenes.KINDS), metavar="KIND")
    parser.add_argument("--questions", type=int, default=330, help="of each draw, over all kinds (%(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="draws of questions (%(default)s)")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--replies", type=Path, default=ROOT / "runs" / "census")
    parser.add_argument("--output", type=Path)
    options: argparse.Namespace = parser.parse_args()
    return options


if __name__ == "__main__":
    main()
