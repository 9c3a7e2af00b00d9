"""One task asked under one cell, by lmms-eval's own evaluator in this process."""

from __future__ import annotations

import argparse
import copy
import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

from vtokens.eval.cells import Cell
from vtokens.eval.foreign import cause
from vtokens.eval.journal import Journal


def ask(
    live: tuple[Any, Any], cell: Cell, task: Any, samples: int, journal: Journal, settings: Mapping[str, Any]
) -> dict[str, Any] | None:  # fmt: skip
    """Run `simple_evaluate` with the live plugin model.

    Args:
        live: a model with nothing attached, and its processor.
        task: lmms-eval's task object.
        samples: how many of its documents.
        journal: has what need not be asked again, and takes what is asked.
        settings: `batch_size` and `max_new_tokens`.

    Returns:
        lmms-eval's results, with samples; None in every process but the first.

    Raises:
        OSError: the disk is full; the journal says what was kept.
        RuntimeError: the task's own code failed.
        ValueError: the cell's strategy cannot work with what a document shows.
    """
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.tasks import TaskManager

    model = _plugin(live, settings, strategy=cell.strategy, seed=cell.seed, journal=journal, recipe=cell.recipe)
    with quiet(), _named(cell, task):
        found: dict[str, Any] | None = simple_evaluate(
            model=model,
            tasks=[task],
            limit=samples,
            bootstrap_iters=0,
            task_manager=TaskManager(include_defaults=False),  # the task is here; nothing needs looking up
            # Uses the process group there is; the other choice would build an Accelerator a call.
            distributed_executor_backend="torchrun",
            # What tasks read of lmms-eval's command line.
            cli_args=argparse.Namespace(output_path=str(journal.path.parent), process_with_media=False),
            random_seed=cell.seed,
            numpy_random_seed=cell.seed,
            torch_random_seed=cell.seed,
        )
    return found


def warm_up(live: tuple[Any, Any], task: Any, settings: Mapping[str, Any]) -> None:
    """Ask one batch and forget the answers: the slow first call of a process is not to count for the first cell."""
    with quiet():
        _begun(live, task, settings, settings["batch_size"]).generate_until(task.instances)


def try_out(live: tuple[Any, Any], cell: Cell, task: Any, settings: Mapping[str, Any]) -> None:
    """Ask the first document of a task for one token under a cell, and forget the answer.

    Raises:
        ValueError: the cell's strategy cannot work with the document's pictures.
    """
    with quiet():
        model = _begun(live, task, settings, 1, strategy=cell.strategy, seed=cell.seed)
        first = copy.copy(task.instances[0])
        context, messages, given, *rest = first.args
        first.arguments = (context, messages, {**(given or {}), "max_new_tokens": 1}, *rest)
        try:
            model.generate_until([first])
        except ValueError as error:
            raise ValueError(f"{cell.cell} fails at the first document of {task.config.task}: {error}") from error


def _begun(live: tuple[Any, Any], task: Any, settings: Mapping[str, Any], documents: int, **more: Any) -> Any:
    """The plugin model, about to be asked the first documents of a task, whose requests are `task.instances`."""
    task.build_all_requests(limit=documents)
    model = _plugin(live, settings, **more)
    model.task_dict = {task.config.task: task.dataset}
    return model


def _plugin(live: tuple[Any, Any], settings: Mapping[str, Any], **more: Any) -> Any:
    from vtokens.eval.lmms.model import VTokens

    sizes = {name: settings[name] for name in ("batch_size", "max_new_tokens")}
    return VTokens.of(live[0], live[1], **sizes, **more, progress=False)


@contextmanager
def _named(cell: Cell, task: Any) -> Iterator[None]:
    """Say where code that is not ours failed, in whatever way."""
    where = f"the task {task.config.task!r} failed under {cell.cell}"
    try:
        yield
    except (ImportError, OSError, RuntimeError, TypeError):
        raise
    except ValueError as error:
        raise ValueError(f"{where}: {error}; every answer so far is kept") from error
    except Exception as error:
        reason = cause(error)
        raise RuntimeError(f"{where}: {type(reason).__name__}: {reason}; every answer so far is kept") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the bars and remarks of lmms-eval and its tasks from the terminal; `VTOKENS_DEBUG` lets them through."""
    if os.environ.get("VTOKENS_DEBUG"):
        yield
        return
    from loguru import logger

    logger.disable("lmms_eval")
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.enable("lmms_eval")
