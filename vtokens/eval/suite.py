"""The lmms-eval tasks of a sweep: found by name, checked, and told apart by what they ask."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vtokens.core.errors import nearest
from vtokens.eval.foreign import cause
from vtokens.eval.score import plain

Tasks = dict[str, Any]
"""lmms-eval's task objects by name."""

_DOCUMENTS = 500
_DRAWN = 100_000
_FIELD = rb"^[\"']?(?:task|group|tag)[\"']?[ \t]*:[ \t]*"
_NAMES = re.compile(_FIELD + rb"[\"']?([\w.+-]+)", re.MULTILINE)
_LISTS = re.compile(_FIELD + rb"\r?\n((?:[ \t]*-[ \t]+[\w.+-]+[ \t]*\r?\n)+)", re.MULTILINE)


def load(
    names: Sequence[str], seeds: Sequence[int], include: Sequence[str | Path] = (), limit: int | None = None
) -> dict[int, Tasks]:  # fmt: skip
    """The tasks under each seed, groups and tags taken apart, in the order given.

    The documents of our own tasks are drawn with the seed; other tasks ask the same under every seed. lmms-eval's own
    tasks are looked through only for a name that is neither ours nor in `include`, as that takes seconds.

    Raises:
        FileNotFoundError: a folder to include that is not there.
        ValueError: a name that no task has, or one that is there twice; a task that has nothing to ask.
        RuntimeError: a task that cannot be loaded, and why.
    """
    from lmms_eval.tasks import TaskManager

    from vtokens.eval.tasks import TASKS, tasks_path

    ours = [*TASKS, "scenes_pope"]
    paths = [str(path) for path in include]
    for path in paths:
        if not Path(path).is_dir():
            raise FileNotFoundError(f"no such folder of tasks: {path!r}")
    foreign = TaskManager(include_path=paths, include_defaults=False)
    there = {*ours, *foreign.all_tasks}
    if missing := [name for name in names if name not in there]:
        check_written(missing, ours, there)
        foreign = TaskManager(include_path=paths)
        known = {*ours, *foreign.all_tasks}
        for name in names:
            if name not in known:
                raise _unknown(name, ours, known)
    once = {name: _load(name, foreign) for name in names if name not in ours}
    if limit is not None and limit > _DRAWN and {*names} & {*ours}:
        raise ValueError(f"limit={limit:,} is not allowed: at most {_DRAWN:,} documents are drawn of a task of scenes")
    found = {}
    for seed in seeds:
        drawn = tasks_path(limit or _DOCUMENTS, seed) if {*names} & {*ours} else None
        own = TaskManager(include_path=None if drawn is None else str(drawn), include_defaults=False)
        found[seed] = _joined([(name, once.get(name) or _load(name, own)) for name in names])
    return found


def check_written(names: Sequence[str], ours: Sequence[str], there: Collection[str]) -> None:
    """Refuse a name that stands nowhere in lmms-eval's task files.

    lmms-eval reads some 2,000 files of YAML before it knows its tasks, which takes a minute where they are not in
    memory; to look for a few words in them takes a fraction.

    Raises:
        ValueError: names the nearest.
    """
    import lmms_eval.tasks

    missing, known = {name: _word(name) for name in names}, {*there}
    for folder, _, files in os.walk(Path(lmms_eval.tasks.__file__).parent):
        for file in files:
            if Path(file).suffix in ("", ".yaml"):  # what task files include has no suffix
                text = Path(folder, file).read_bytes()
                missing = {name: word for name, word in missing.items() if not word.search(text)}
                if not missing:
                    return
                words = [*_NAMES.findall(text), *b" ".join(_LISTS.findall(text)).split()]
                known |= {word.decode() for word in words if word != b"-"}
    raise _unknown(next(iter(missing)), ours, known)


def _word(name: str) -> re.Pattern[bytes]:
    return re.compile(rb"(?<![\w.+-])" + re.escape(name).encode() + rb"(?![\w.+-])")


def _load(name: str, manager: Any) -> Tasks:
    from lmms_eval.tasks import get_task_dict

    try:
        return dict(_leaves(get_task_dict([name], manager, "chat")))
    except Exception as error:  # a task is foreign code, and may fail in any way
        reason = cause(error)
        if isinstance(reason, IndexError):  # lmms-eval looks at the first document of every task
            raise ValueError(f"the task {name!r} has no samples") from error
        raise RuntimeError(f"the task {name!r} cannot be loaded: {type(reason).__name__}: {reason}") from error


def _joined(loaded: Sequence[tuple[str, Tasks]]) -> Tasks:
    found: Tasks = {}
    for name, tasks in loaded:
        twice = sorted({*found} & {*tasks})
        if twice:
            raise ValueError(f"the task {twice[0]!r} is asked for twice, the second time by {name!r}")
        found |= tasks
    return found


def facts(tasks: Mapping[int, Tasks], limit: int | None) -> dict[str, dict[str, Any]]:
    """What the manifest says of each task: how many `samples` are asked under a seed, what each seed asks (`hash`), and
    the `metrics`: whether more is better.

    Raises:
        ValueError: no samples, none with a picture or video, or a task that does not generate an answer.
    """
    found: dict[str, dict[str, Any]] = {}
    for seed, loaded in tasks.items():
        for name, task in loaded.items():
            samples = _samples(task, limit)
            better = {metric: task.higher_is_better().get(metric) for metric in task.aggregation()}
            fact = found.setdefault(name, {"samples": samples, "hash": {}, "metrics": better})
            same = next((s for s, other in tasks.items() if other[name] is task and str(s) in fact["hash"]), None)
            fact["hash"][str(seed)] = digest(task, samples) if same is None else fact["hash"][str(same)]
    return found


def _samples(task: Any, limit: int | None) -> int:
    name, docs = task.config.task, task.eval_docs
    if task.OUTPUT_TYPE != "generate_until":
        raise ValueError(
            f"the task {name!r} is of type {task.OUTPUT_TYPE!r}: a sweep asks tasks that generate an answer in one "
            "round (generate_until); lmms-eval runs others with --model vtokens"
        )
    samples = len(docs) if limit is None else min(limit, len(docs))
    if samples < 1:
        raise ValueError(f"the task {name!r} has no samples")
    if not any(_shows(task, docs[number]) for number in range(samples)):
        raise ValueError(
            f"the task {name!r} has no images or videos in the {samples} samples asked: "
            "there are no visual tokens that a strategy could drop"
        )
    return samples


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


def _unknown(name: str, ours: Sequence[str], known: Collection[str]) -> ValueError:
    return ValueError(
        f"unknown task {name!r}.{nearest(name, known, 3)} vtokens brings {', '.join(ours)}; "
        "lmms-eval has some 2,000 more: `lmms-eval tasks list`"
    )
