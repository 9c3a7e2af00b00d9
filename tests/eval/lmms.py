"""Running genuine lmms-eval inside a test: the scenes tasks, requests made by hand, and what came out of them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lmms_eval.api.instance import Instance
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.tasks import TaskManager
from PIL import Image


def evaluate(model: Any, tasks: Sequence[str], folder: Path, model_args: str = "", **more: Any) -> dict[str, Any]:
    """`simple_evaluate` over the tasks in `folder` alone, without bootstraps; `more` as it takes it."""
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    return simple_evaluate(model, model_args, tasks=list(tasks), task_manager=manager, bootstrap_iters=0, **more)


def texts(results: dict[str, Any]) -> dict[tuple[str, int], str]:
    """(task, document) -> the answer as the model gave it."""
    return {
        (task, sample["doc_id"]): sample["resps"][0][0]
        for task, samples in results["samples"].items()
        for sample in samples
    }


def request(visuals: Sequence[Any], question: str, doc: int = 0, **settings: Any) -> Instance:
    """A request of the chat interface about no task's document."""
    parts = [{"type": "image" if isinstance(v, Image.Image) else "video", "url": v} for v in visuals]
    messages = [{"role": "user", "content": [*parts, {"type": "text", "text": question}]}]
    return _instance("generate_until", (question, lambda _: messages, settings, doc, "made", "test"), doc)


def simple_request(visuals: Sequence[Any] | None, question: str, doc: int = 0, **settings: Any) -> Instance:
    """The same of the simple interface."""
    return _instance("generate_until", (question, settings, lambda _: visuals, doc, "made", "test"), doc)


def scored_request(visuals: Sequence[Any] | None, question: str, answer: str, doc: int = 0) -> Instance:
    """A request to score an answer."""
    return _instance("loglikelihood", (question, answer, lambda _: visuals, doc, "made", "test"), doc)


def _instance(kind: Any, arguments: tuple[Any, ...], doc: int) -> Instance:
    return Instance(kind, arguments, 0, {"task": "made", "doc_id": doc, "repeats": 1})


def ask(model: Any, requests: Sequence[Instance]) -> list[str]:
    """The answers to requests made by hand."""
    model.task_dict = {"made": {"test": list(range(100))}}
    return [result.text for result in model.generate_until(list(requests))]


@contextmanager
def old_names() -> Iterator[None]:
    """Let code that is not ours use names that transformers has deprecated; the tests make errors of them."""
    logger = logging.getLogger("transformers")
    ours = [handler for handler in logger.handlers if type(handler).__name__ == "RaiseOnDeprecation"]
    for handler in ours:
        logger.removeHandler(handler)
    try:
        yield
    finally:
        for handler in ours:
            logger.addHandler(handler)
