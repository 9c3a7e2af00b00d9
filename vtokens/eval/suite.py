"""The lmms-eval tasks of a sweep: found by name, checked, and told apart by what they ask."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vtokens.eval.score import plain


def load(names: Sequence[str], include: Sequence[str | Path] = ()) -> dict[str, Any]:
    """The tasks by name, groups and tags taken apart, in the order given.

    lmms-eval's own tasks are looked through only for a name that is neither ours nor in `include`, as that takes
    seconds.

    Raises:
        ValueError: a name that no task has, or one that is there twice; a task that has nothing to ask.
        RuntimeError: a task that cannot be loaded, and why.
    """
    from lmms_eval.tasks import TaskManager, get_task_dict

    from vtokens.eval import tasks_path

    paths = [str(tasks_path()), *map(str, include)]
    manager = TaskManager(include_path=paths, include_defaults=False)
    if not set(names) <= set(manager.all_tasks):
        ours = manager.all_tasks
        manager = TaskManager(include_path=paths)
        for name in names:
            if name not in manager.all_tasks:
                raise _unknown(name, ours, manager.all_tasks)
    found: dict[str, Any] = {}
    for name in names:
        try:
            loaded = dict(_leaves(get_task_dict([name], manager, "chat")))
        except IndexError as error:  # lmms-eval looks at the first document of every task
            raise ValueError(f"the task {name!r} has no samples") from error
        except Exception as error:  # a task is foreign code, and may fail in any way
            raise RuntimeError(f"the task {name!r} cannot be loaded: {type(error).__name__}: {error}") from error
        twice = sorted({*found} & {*loaded})
        if twice:
            raise ValueError(f"the task {twice[0]!r} is asked for twice, the second time by {name!r}")
        found |= loaded
    return found


def facts(task: Any, limit: int | None) -> dict[str, Any]:
    """What the manifest says of a task: how many `samples` are asked, their `hash`, and its `metrics`: is more better?

    Raises:
        ValueError: no samples, or none with a picture or video.
    """
    name, docs = task.config.task, task.eval_docs_no_media
    samples = len(docs) if limit is None else min(limit, len(docs))
    if samples < 1:
        raise ValueError(f"the task {name!r} has no samples")
    if not any(_shows(task, task.eval_docs[number]) for number in range(samples)):
        raise ValueError(
            f"the task {name!r} has no images or videos in the {samples} samples asked: "
            "there are no visual tokens that a strategy could drop"
        )
    better = task.higher_is_better()
    return {
        "samples": samples,
        "hash": digest(task, samples),
        "metrics": {m: better.get(m) for m in task.aggregation()},
    }


def digest(task: Any, samples: int) -> str:
    """SHA-256 of what the first `samples` documents ask: settings, prompts, targets and stored data, pictures too."""
    found = hashlib.sha256(json.dumps(plain(task.config.generation_kwargs or {}), sort_keys=True).encode())
    docs = task.eval_docs_no_media
    stored = _stored(task.eval_docs)
    for number in range(samples):
        asked = [plain(task.doc_to_text(docs[number])), plain(task.doc_to_target(docs[number]))]
        found.update(f"{json.dumps(asked)}\n{next(stored, None)!r}\n".encode())
    return found.hexdigest()


def _stored(docs: Any) -> Iterator[Any]:
    """Rows as they lie in the file: pictures as bytes, not decoded."""
    if not hasattr(docs, "with_format"):
        return
    for batch in docs.with_format("arrow").iter(256):
        yield from batch.to_pylist()


def _shows(task: Any, doc: Any) -> bool:
    messages = task.doc_to_messages(doc) or ()
    return any(part.get("type") != "text" for turn in messages for part in turn["content"] if isinstance(part, dict))


def _leaves(tree: Any) -> Iterator[tuple[str, Any]]:
    for name, branch in tree.items():
        if isinstance(branch, dict):
            yield from _leaves(branch)
        else:
            yield str(name), branch


def _unknown(name: str, ours: Sequence[str], everything: Sequence[str]) -> ValueError:
    near = difflib.get_close_matches(name, everything, n=3, cutoff=0.6)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    return ValueError(
        f"unknown task {name!r}.{hint} vtokens brings {', '.join(sorted(ours))}; "
        f"lmms-eval has {len(everything) - len(ours)} more: `lmms-eval tasks list`"
    )
