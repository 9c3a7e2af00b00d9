"""The data-set filter on several machines, through Ray Data (the optional extra `ray`)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from PIL import Image

from vtokens.core.on_ray import cluster, imported
from vtokens.filter.datasets.rows import DatasetRow, Refusal

if TYPE_CHECKING:
    from vtokens.filter.datasets.worker import Batch, Done, Opener, Worker


_OPENING = 0.25  # of a CPU for a task that opens pictures, which leaves the rest of each to a worker


def spread(
    batches: Iterator[Batch],
    make: Callable[[], Worker],
    opener: Opener,
    workers: int | None = None,
    address: str = "local",
    gpus: float = 0,
) -> Iterator[Done]:
    """Do batches on the machines of a Ray cluster, each worker with a model of its own; results come as they are ready.

    All batches go to Ray as text before the first is done. Pictures are opened by tasks in front of the workers, on any
    machine, so every machine has to see the folder under the same path, and no model waits for a picture.

    Args:
        make: makes a worker, on the machine where it will be.
        opener: opens the pictures of a batch.
        workers: how many; None for one a GPU, or one a core where no GPU is asked for.
        address: "local" for a cluster of this machine alone, "auto" for the one it belongs to, or where the head is.
        gpus: share of a GPU for each worker.

    Raises:
        ImportError: Ray is not installed.
        ConnectionError: no cluster at the address.
        RuntimeError: a worker failed; what was done before is kept.
        ValueError: fewer than one worker.
    """
    if workers is not None and workers < 1:
        raise ValueError(f"workers={workers} is not allowed: a whole number from 1 on")
    ray = imported("`--ray`")
    items = [{"batch": _sent(batch)} for batch in batches]
    if not items:
        return
    with cluster(ray, address):
        most = int(ray.cluster_resources().get("GPU" if gpus else "CPU", 1) / (gpus or 1))
        pool = ray.data.ActorPoolStrategy(size=min(workers or max(most, 1), len(items)))
        needs = {"num_gpus": gpus} if gpus else {"num_cpus": 1 - _OPENING}
        data = ray.data.from_items(items, override_num_blocks=len(items))
        opened = data.map(_Opened(opener), num_cpus=_OPENING)
        for row in opened.map(_Remote, fn_constructor_args=(make,), compute=pool, **needs).iter_rows():
            yield _received(row["done"])


class _Opened:
    """The stage in front: a batch with the pixels of its pictures, in the order of their names."""

    def __init__(self, opener: Opener) -> None:
        self._opener = opener

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        names, pixels = [], []
        for name, shown in self._opener(_batch(row["batch"])).items():
            names.append([name, shown if isinstance(shown, str) else [*shown.size]])
            pixels.append(b"" if isinstance(shown, str) else shown.tobytes())
        return row | {"names": json.dumps(names), "pixels": b"".join(pixels)}


def _shown(names: str, pixels: bytes) -> dict[str, Image.Image | str]:
    """The pictures that `_Opened` sent, or why one is not there."""
    found: dict[str, Image.Image | str] = {}
    at = 0
    for name, size in json.loads(names):
        if isinstance(size, str):
            found[name] = size
            continue
        width, height = size
        end = at + 3 * width * height
        found[name] = Image.frombytes("RGB", (width, height), pixels[at:end])
        at = end
    return found


class _Remote:
    """A worker behind Ray, which sends text."""

    def __init__(self, make: Callable[[], Worker]) -> None:
        self._worker = make()

    def __call__(self, row: dict[str, Any]) -> dict[str, str]:
        rows, refusals = self._worker(_batch(row["batch"]), _shown(row["names"], row["pixels"]))
        sent = [[asdict(one), content] for one, content in rows]
        return {"done": json.dumps([sent, [asdict(one) for one in refusals]])}


def _sent(batch: Batch) -> str:
    return json.dumps([["row" if isinstance(one, DatasetRow) else "refusal", asdict(one)] for one in batch])


def _batch(text: str) -> Batch:
    return [DatasetRow(**content) if kind == "row" else Refusal(**content) for kind, content in json.loads(text)]


def _received(text: str) -> Done:
    rows, refusals = json.loads(text)
    return [(DatasetRow(**row), content) for row, content in rows], [Refusal(**one) for one in refusals]
