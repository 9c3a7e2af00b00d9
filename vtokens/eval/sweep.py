"""A sweep: every task under every strategy, keep and seed, through lmms-eval, resumable after any interruption."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import torch

from vtokens.budget import Keep
from vtokens.eval import manifest, pictures, suite, tables
from vtokens.eval.asking import ask, quiet
from vtokens.eval.board import Board
from vtokens.eval.cells import Cell, cells
from vtokens.eval.files import line, replacing, write_json
from vtokens.eval.journal import Journal, collect
from vtokens.eval.lmms.loading import default_device, load
from vtokens.eval.score import Graded, grade


@dataclass(frozen=True)
class Outcome:
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
    command: str = "",
    show: bool = True,
) -> Outcome | None:
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
        command: what to run to get the same, for the record.
        show: whether to show progress.

    Returns:
        What was found; None in every process but the first.

    Raises:
        TypeError, ValueError: a setting out of range, an unknown name, or a folder of another sweep.
        OSError: the folder cannot be written, or its disk is full; every batch answered before is kept.
        RuntimeError: a task that cannot be loaded.
    """
    wanted, folder = cells(strategies, keeps, seeds), Path(out)
    for name, value in (("limit", limit), ("batch_size", batch_size), ("max_new_tokens", max_new_tokens)):
        if value is not None and value < 1:
            raise ValueError(f"{name}={value} is not allowed: an int of at least 1")
    rank, ranks = _ranks(device)
    with _alone(folder, rank):
        with quiet():
            loaded = suite.load(tasks, sorted({cell.seed for cell in wanted}), include, limit)
            facts = suite.facts(loaded, limit)
        live = _load(model, device, dtype, attn_implementation)
        settings = {"batch_size": batch_size, "max_new_tokens": max_new_tokens, "limit": limit}
        if rank == 0:
            manifest.settle(folder, manifest.build(live[0], model, facts, wanted, settings, command))
        _wait(ranks)  # nobody answers into the folder of another sweep
        share = {name: range(rank, fact["samples"], ranks) for name, fact in facts.items()}
        answers, per_cell = folder / "answers", sum(map(len, share.values()))
        done = sum(doc in share[task] for cell in wanted for task, doc in collect(answers, cell.cell))
        samples: AbstractContextManager[Callable[[str], Any]] = nullcontext(str)
        if rank == 0:
            samples = replacing(folder / "samples.jsonl")
        graded = []
        with Board(done, len(wanted) * per_cell, show and rank == 0) as board, samples as write:
            for cell in wanted:
                for found in _cell(cell, live, loaded[cell.seed], facts, settings, answers, rank, board):
                    write("".join(map(line, found.rows())))
                    graded.append(found.light())
        if rank:
            return None
        outcome = _finish(folder, graded)
        pictures.save(folder, loaded, facts, live[1])
        return outcome


def _cell(
    cell: Cell,
    live: tuple[Any, Any],
    tasks: suite.Tasks,
    facts: Mapping[str, Mapping[str, Any]],
    settings: Mapping[str, Any],
    answers: Path,
    rank: int,
    board: Board,
) -> list[Graded]:
    """Ask all tasks under one cell; what they gave, in the first process."""
    outcomes = {}
    with Journal(answers, cell.cell, rank, board.answered) as journal:
        for name, task in tasks.items():
            board.now(cell.cell, name)
            outcomes[name] = ask(live, cell, task, facts[name]["samples"], journal, settings)
    known = collect(answers, cell.cell) if rank == 0 else {}
    return [
        grade(cell, tasks[name], found, {doc: answer for (task, doc), answer in known.items() if task == name})
        for name, found in outcomes.items()
        if found is not None
    ]


def _ranks(device: str | None) -> tuple[int, int]:
    """This process's number and how many there are."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return 0, 1
    from accelerate import PartialState

    state = PartialState(cpu=(device or default_device()).startswith("cpu"))
    return state.process_index, state.num_processes


def _wait(ranks: int) -> None:
    if ranks > 1:
        torch.distributed.barrier()


def _alone(folder: Path, rank: int) -> filelock.AcquireReturnProxy:
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return filelock.FileLock(folder / f".rank{rank}.lock", timeout=0).acquire()
    except filelock.Timeout as error:
        raise ValueError(f"another process is sweeping into {folder}: wait for it, or give another folder") from error


def _load(name: str, device: str | None, dtype: str, attention: str | None) -> tuple[Any, Any]:
    model, processor, _ = load(name, "none", None, {}, device=device, dtype=dtype, attn_implementation=attention)
    return model, processor


def _finish(folder: Path, graded: Sequence[Graded]) -> Outcome:
    content = manifest.read(folder)
    results, summary = tables.results(graded, content), tables.summary(graded, content["tasks"])
    with replacing(folder / "results.jsonl") as write:
        write("".join(map(line, results)))
    write_json(folder / "summary.json", summary)
    return Outcome(folder, results, summary, tables.unknown_values(results))
