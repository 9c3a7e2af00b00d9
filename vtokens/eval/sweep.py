"""A sweep: every task under every strategy, keep and seed, through lmms-eval, resumable after any interruption."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vtokens.core.budget import Keep
from vtokens.core.extras import check, needs
from vtokens.core.lock import alone
from vtokens.core.writing import clear_drafts, line, replacing, write_json
from vtokens.engine import attach
from vtokens.eval import manifest, new_manifest, pictures, processes, suite, tables
from vtokens.eval.asking import ask, quiet, try_out, warm_up
from vtokens.eval.board import Board
from vtokens.eval.cells import Cell, cells
from vtokens.eval.journal import Journal, collect
from vtokens.eval.lmms.loading import default_device, load
from vtokens.eval.score import Graded, grade
from vtokens.loading.context import check_room, context_of
from vtokens.loading.hardware import check_device, check_dtype
from vtokens.recipes import parse_recipe
from vtokens.strategies import parse


@dataclass(frozen=True)
class SweepOutcome:
    """What a finished sweep left behind.

    Attributes:
        folder: where the results are (docs/results-format.md).
        results, summary: the rows of `results.jsonl` and `summary.json`.
        unknown: the results whose value is no number, by cell, task and metric.
    """

    folder: Path
    results: list[dict[str, Any]]
    summary: list[dict[str, Any]]
    unknown: list[str]


def run(
    model: str,
    tasks: Sequence[str],
    strategies: Sequence[str],
    keeps: Sequence[Keep] = (),
    seeds: int | Sequence[int] = 1,
    out: str | Path = "runs/eval",
    *,
    limit: int | None = None,
    batch_size: int = 8,
    max_new_tokens: int = 64,
    device: str | None = None,
    dtype: str = "auto",
    attn_implementation: str | None = None,
    include: Sequence[str | Path] = (),
    recipes: Sequence[str] = (),
    command: str = "",
    show: bool = True,
) -> SweepOutcome | None:
    """Run a sweep, or go on with one that was interrupted.

    Under `torchrun` or `accelerate launch` each process loads the model once and takes its share of every task's
    documents; the first process puts the results together.

    Args:
        model: an embedded model, a folder or a hub id.
        tasks: of lmms-eval, of vtokens, or of `include`.
        strategies, keeps, seeds: see `vtokens.eval.cells.cells`.
        out: a new folder, or one of the same sweep.
        limit: the most documents of each task; without it, all of a task, and 500 of those drawn from scenes.
        batch_size: requests answered together.
        max_new_tokens: for tasks that set no limit.
        device: by default the process's GPU, or the CPU where there is none.
        dtype, attn_implementation: as in `from_pretrained`.
        include: folders with further task files.
        recipes: see `vtokens.eval.cells.cells`.
        command: what to run to get the same, for the record.
        show: whether to show progress.

    Returns:
        What was found; None in every process but the first.

    Raises:
        TypeError, ValueError: a setting out of range, an unknown name, or a folder of another sweep.
        OSError: the folder cannot be written, or its disk is full; every batch answered before is kept.
        RuntimeError: a task that cannot be loaded.
        ImportError: lmms-eval is not installed, or something beside it that is known to break it.
    """
    with needs("eval-light", "a sweep"):
        import lmms_eval
    check("eval-light", "a sweep")
    with needs("eval-light", "a sweep"):
        import lmms_eval.evaluator  # noqa: F401
    wanted, folder = cells(strategies, keeps, seeds, recipes), Path(out)
    for name, value in (("limit", limit), ("batch_size", batch_size), ("max_new_tokens", max_new_tokens)):
        if value is not None and value < 1:
            raise ValueError(f"{name}={value} is not allowed: an int of at least 1")
    check_dtype(dtype)
    if device is not None:
        check_device(device)
    rank, ranks = processes.ranks((device or default_device()).startswith("cpu"))
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder / f".rank{rank}.lock", f"sweeping into {folder}", "folder"):
        with quiet():
            loaded = suite.load(tasks, sorted({cell.seed for cell in wanted}), include, limit)
            facts = suite.facts(loaded, limit)
        network, processor, _ = load(
            model, "none", None, {}, device=device, dtype=dtype, attn_implementation=attn_implementation
        )
        check_room(1, max_new_tokens, context_of(network))
        for cell in wanted:
            attach(network, cell.strategy).detach()  # what cannot work says so before anything is asked
            if cell.recipe != "none":
                parse_recipe(cell.recipe).check(network)
        settings = {"batch_size": batch_size, "max_new_tokens": max_new_tokens, "limit": limit}
        if rank == 0:
            _try_counts(folder, wanted, loaded, (network, processor), settings)
            manifest.settle(folder, new_manifest.build(network, model, facts, wanted, settings, command))
        processes.wait()  # nobody answers into the folder of another sweep
        share = {name: range(rank, fact["samples"], ranks) for name, fact in facts.items()}
        work = _Work(folder, wanted, loaded, facts, (network, processor), settings, rank, share)
        graded = work.ask(show and rank == 0)
        if rank:
            return None
        outcome = _finish(folder, graded)
        pictures.save(folder, loaded, facts, processor)
        return outcome


@dataclass(frozen=True)
class _Work:
    """What one process has to do.

    Attributes:
        tasks: lmms-eval's, by seed and name.
        facts: the manifest's, by name.
        live: model and processor.
        share: the documents of each task that this process asks.
    """

    folder: Path
    cells: Sequence[Cell]
    tasks: Mapping[int, suite.Tasks]
    facts: Mapping[str, Mapping[str, Any]]
    live: tuple[Any, Any]
    settings: Mapping[str, Any]
    rank: int
    share: Mapping[str, range]

    def ask(self, show: bool) -> list[Graded]:
        """Ask what is not answered yet, and write `samples.jsonl`; in the first process, what all cells gave."""
        # In other processes nothing is graded, so nothing is written.
        if self.rank == 0:
            clear_drafts(self.folder / "samples.jsonl")
        samples = replacing(self.folder / "samples.jsonl") if self.rank == 0 else nullcontext(str)
        graded, done, total = [], self._answered(), len(self.cells) * sum(map(len, self.share.values()))
        if done < total:
            warm_up(self.live, next(iter(self.tasks[self.cells[0].seed].values())), self.settings)
        with Board(done, total, show) as board, samples as write:
            for cell in self.cells:
                for found in self._cell(cell, board):
                    write("".join(map(line, found.rows())))
                    graded.append(found.light())
                board.finished(cell.cell)
        return graded

    def _answered(self) -> int:
        known = (key for cell in self.cells for key in collect(self.folder / "answers", cell.cell))
        return sum(doc in self.share[task] for task, doc in known)

    def _cell(self, cell: Cell, board: Board) -> list[Graded]:
        tasks, outcomes = self.tasks[cell.seed], {}
        with Journal(self.folder / "answers", cell.cell, self.rank, board.answered) as journal:
            for name, task in tasks.items():
                board.now(cell.cell, name)
                outcomes[name] = ask(self.live, cell, task, self.facts[name]["samples"], journal, self.settings)
        if self.rank:
            return []
        known = collect(self.folder / "answers", cell.cell)
        answers = {name: {doc: answer for (task, doc), answer in known.items() if task == name} for name in tasks}
        return [grade(cell, tasks[name], found, answers[name]) for name, found in outcomes.items() if found is not None]


def _try_counts(
    folder: Path,
    wanted: Sequence[Cell],
    tasks: Mapping[int, suite.Tasks],
    live: tuple[Any, Any],
    settings: Mapping[str, Any],
) -> None:
    """Try each count of tokens on the first document of each task that has no answers under its cell yet.

    A count may be more than a picture has, which is known no sooner: without a try, after all cells before it.

    Raises:
        ValueError: names cell and task.
    """
    tried = set()
    for cell in wanted:
        counts = any(isinstance(getattr(one, "keep", None), int) for one in parse(cell.strategy))
        if not counts or cell.recipe != "none" or (cell.name, cell.keep) in tried:
            continue
        tried.add((cell.name, cell.keep))
        answered = {name for name, _ in collect(folder / "answers", cell.cell)}
        for name, task in tasks[cell.seed].items():
            if name not in answered:
                try_out(live, cell, task, settings)


def _finish(folder: Path, graded: Sequence[Graded]) -> SweepOutcome:
    content = manifest.read(folder)
    results = tables.results(graded, content)
    summary = tables.summary(graded, results, content["tasks"])
    with replacing(folder / "results.jsonl") as write:
        write("".join(map(line, results)))
    write_json(folder / "summary.json", summary)
    return SweepOutcome(folder, results, summary, tables.unknown_values(results))
