"""All pruners x keeps x seeds of an embedded model's held-out scenes in one table: `python benchmarks/leaderboard.py`.

python benchmarks/leaderboard.py --specs cls todre "visionzip+fastv(keep=0.5)" --keeps 0.25 0.1
python benchmarks/leaderboard.py --model scenes-smol --dtype bfloat16 --longest 64 --rounds 0     # without times
python benchmarks/leaderboard.py --specs random downsample sparsevlm_plus --add leaderboard-scenes-llava

Answers, and times, are kept in `--replies` as they come, and a run that was stopped goes on from there; delete that
folder when a strategy's code has changed. Writes `benchmarks/results/leaderboard-MODEL`, which docs/results.md shows.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from rich.progress import track  # noqa: E402

import vtokens  # noqa: E402
from benchmarks import tables  # noqa: E402
from benchmarks.asking import ask, journal_at, loaded  # noqa: E402
from benchmarks.cells import first_token  # noqa: E402
from benchmarks.common import Clock, conditions, load_average, write  # noqa: E402
from benchmarks.leaderboard_added import added  # noqa: E402
from benchmarks.leaderboard_rows import FLOORS, Replies, row  # noqa: E402
from benchmarks.scenes import drawn  # noqa: E402
from vtokens import scenes  # noqa: E402
from vtokens.core.prompts import encode_prompts, question_prompt  # noqa: E402
from vtokens.core.writing import write_text  # noqa: E402
from vtokens.strategies import Choice, describe, get, list_strategies  # noqa: E402

KEEPS = (0.5, 0.25, 0.1, 0.05, 0.03)
KINDS = (*scenes.KINDS, "pope_adversarial")
RESULTS = Path(__file__).parent / "results"


KIND = ("prune", "merge")
"""The kinds that are compared; a mitigation drops tokens of its second prompt, and says of those what it keeps."""


def pruners() -> list[str]:
    """The strategies that leave a share of a picture's tokens, of those that need nothing found for the model.

    A choice (`auto`) is none: it runs one of the others.
    """
    told = [one for one in map(describe, list_strategies()) if one.kind in KIND and "keep" in one.fields]
    found = [
        one.name for one in told if not {"video", "table"} & {*one.needs} and not issubclass(get(one.name), Choice)
    ]
    return [*(name for name in FLOORS if name in found), *(name for name in found if name not in FLOORS)]


def asked(
    model: Any, processor: Any, spec: str, keep: float, questions: dict[int, list[Any]], options: argparse.Namespace
) -> Replies:
    """What one strategy answers at one keep to the questions of all seeds; `random` draws with each seed anew."""
    texts: list[str] = []
    tokens: list[float] = []
    for seed, examples in questions.items():
        fields = {"seed": seed} if "seed" in _fields(spec) else {}
        about = {"board": 1, "spec": spec, "keep": keep, "seed": seed, **options.about}
        found = ask(
            model, processor, spec, examples, options.batch_size, keep=None if spec == "none" else keep,
            journal=journal_at(options.replies, **about), longest=options.longest, **fields,
        )  # fmt: skip
        texts, tokens = texts + found.texts, tokens + found.tokens
    return Replies([one for part in questions.values() for one in part], texts, tokens)


def timed(model: Any, batch: Any, spec: str, keep: float, options: argparse.Namespace) -> dict[str, float]:
    """The time to the first token over the unpruned model's, and seconds spent selecting; nothing without rounds."""
    if not options.rounds:
        return {}
    path = journal_at(options.replies, times=options.rounds, spec=spec, keep=keep, **options.about).with_suffix(".json")
    if not path.exists():
        full = vtokens.strategies.format_spec(vtokens.strategies.parse(spec, keep))
        found = first_token(model, batch, full, Clock(model.device, 1), options.rounds)
        pair = {"first_token": 1 / found["speed_up"]["median"], "selecting": found["select_wall_seconds"]["median"]}
        write_text(path, json.dumps(pair))
    kept: dict[str, float] = json.loads(path.read_text(encoding="utf-8"))
    return kept


def board(model: Any, processor: Any, options: argparse.Namespace) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows, the unpruned model first, and what is not in them with the reason."""
    questions = {seed: drawn(seed, options.questions, KINDS, []) for seed in range(options.seeds)}
    first = questions[0][0]
    batch = encode_prompts(processor, [question_prompt(processor, first.question)], [[first.image]])
    specs, left = _allowed(model, options.specs, options.keeps)
    plain = asked(model, processor, "none", 1.0, questions, options)
    rows = [row("none", 1.0, plain, {"first_token": 1.0, "selecting": 0.0} if options.rounds else {}, {})]
    for keep in track(options.keeps, description="asking"):
        floors: dict[str, Replies] = {}
        for spec in specs:
            replies = asked(model, processor, spec, keep, questions, options)
            if spec in FLOORS:
                floors[spec] = replies
            against = {name: floor for name, floor in floors.items() if name != spec}
            rows.append(row(spec, keep, replies, timed(model, batch, spec, keep, options), against))
    return rows, left


def _allowed(model: Any, specs: Sequence[str], keeps: Sequence[float]) -> tuple[list[str], list[str]]:
    """The specs that the model takes with each keep, floors first, and why it does not take the others."""
    taken, left = [], []
    for spec in sorted(specs, key=lambda one: one not in FLOORS):
        try:
            for keep in keeps:
                vtokens.attach(model, spec, keep).detach()
            taken.append(spec)
        except ValueError as error:
            left.append(f"{spec}: {error}")
    return taken, left


def _fields(spec: str) -> set[str]:
    from vtokens.strategies.spec import field_names

    return field_names(spec) if "+" not in spec else set()


def main() -> None:
    """Measure, print what is left out, write."""
    options = _options()
    torch.set_num_threads(1)
    model, processor, weights = loaded(options.model, options.dtype)
    about = {"questions_per_seed": options.questions, "kinds": list(KINDS), "longest": options.longest}
    told = conditions(torch.device("cpu"), Clock(torch.device("cpu"), 1), model, seeds=options.seeds, **about)
    kept = {"dtype": options.dtype, "batch": options.batch_size, "weights": weights, "versions": told["versions"]}
    options.about = {**about, **kept}
    rows, left = board(model, processor, options)
    print(*left, sep="\n")
    folder = options.output or RESULTS / f"leaderboard-{Path(options.model).name}"
    result = {"conditions": told, "rows": rows, "left_out": [{"why": one} for one in left]}
    if options.add:
        told["load_average"]["at_end"] = load_average()
        tables.write(folder, added(tables.read(options.add), result))
    else:
        write(folder, result)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="scenes-llava", help="an embedded model (%(default)s)")
    parser.add_argument("--specs", nargs="+", default=pruners(), metavar="SPEC", help="(all pruners)")
    parser.add_argument("--keeps", nargs="+", type=float, default=list(KEEPS), metavar="SHARE")
    parser.add_argument("--questions", type=int, default=1200, help="per seed, over all kinds (%(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="draws of questions (%(default)s)")
    parser.add_argument("--rounds", type=int, default=9, help="of each time; 0: none (%(default)s)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="(%(default)s)")
    parser.add_argument("--longest", type=int, help="tokens of an answer at most, for captions that never end")
    parser.add_argument("--batch-size", type=int, default=32, help="(%(default)s)")
    parser.add_argument("--replies", type=Path, default=ROOT / "runs" / "leaderboard", help="kept here (%(default)s)")
    parser.add_argument("--add", type=Path, metavar="TABLE", help="a stored table whose other rows stay as they are")
    parser.add_argument("--output", type=Path, help="by default a folder under benchmarks/results that names the model")
    options: argparse.Namespace = parser.parse_args()
    return options


if __name__ == "__main__":
    main()
