"""Profiles of one or several models, with what they were measured under, in one file that grows row by row."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import PretrainedConfig, PreTrainedModel

from vtokens.bench.row import commit
from vtokens.core.reading import read_json
from vtokens.core.timing import Clock
from vtokens.core.writing import write_json
from vtokens.engine import attach
from vtokens.eval.cells import Cell
from vtokens.eval.machine import hardware, versions
from vtokens.eval.presets import preset
from vtokens.eval.profile import ProfileSettings, failure, profile, tidy
from vtokens.eval.shapes import random_model, read_config, resize, supported, trained_model
from vtokens.schemas import check

SCHEMA = 1
_FREE = ("commands", "date", "commit", "load_average")


@dataclass(frozen=True)
class Job:
    """What to profile.

    Attributes:
        names: models, as the user calls them.
        source: whether these name presets, configurations that get random weights, or models with their weights.
        scale, layers: as in `vtokens.eval.shapes.resize`; for random weights only.
        device, attention: of every model.
        dtype: of every model; None is what trained weights were saved in, and for random ones bfloat16 on CUDA and
            float32 elsewhere.
        cells: the strategies.
        batches: prompts of a call.
        settings: the rest.
        command: what to run to get the same.
    """

    names: tuple[str, ...]
    source: Literal["preset", "config", "weights"]
    device: torch.device
    dtype: torch.dtype | None
    cells: tuple[Cell, ...]
    batches: tuple[int, ...]
    settings: ProfileSettings
    scale: int = 1
    layers: int | None = None
    attention: str = "sdpa"
    command: str = ""

    def shapes(self) -> dict[str, tuple[PretrainedConfig, str]]:
        """Name -> configuration and what was changed of it, for every model; errors as `shapes.read_config`."""
        read = preset if self.source == "preset" else read_config
        found = {name: supported(read(name), name) for name in self.names}
        if self.source == "weights":
            if self.scale != 1 or self.layers is not None:
                raise ValueError("--scale and --layers change the shape, which trained weights do not fit: "
                                 "add --random-weights, or give a --preset")  # fmt: skip
            return {name: (config, "") for name, config in found.items()}
        return {name: resize(config, self.scale, self.layers) for name, config in found.items()}

    def build(self, name: str, config: PretrainedConfig) -> PreTrainedModel:
        """The model to be measured, on its device."""
        options, (weights, dtype) = {"attn_implementation": self.attention}, self.kind(config)
        if weights == "trained":
            return trained_model(name, self.device, self.dtype, **options)
        return random_model(config, self.device, dtype or torch.float32, **options)

    def kind(self, config: PretrainedConfig) -> tuple[str, torch.dtype | None]:
        """What weights a model gets, "trained" or "random", and its dtype; None where only the saved weights tell."""
        if self.source == "weights":
            dtype = self.dtype or config.dtype
            return "trained", dtype if isinstance(dtype, torch.dtype) else None
        return "random", self.dtype or (torch.bfloat16 if self.device.type == "cuda" else torch.float32)


def run(job: Job, out: Path | None = None, advance: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Measure all of it.

    Args:
        job: what to profile.
        out: a JSON file that is rewritten after each row. One that holds rows measured under the same conditions is
            gone on with, and rows that failed in it are tried again.
        advance: called after each row.

    Returns:
        `{"schema", "conditions", "models", "rows"}`: what holds for all, a dict a model, a dict a row.

    Raises:
        ValueError: names the preset, model, family, strategy, size or file that is not possible.
        OSError: a model that is not there, or a file that cannot be written.
    """
    shapes = job.shapes()
    clock = Clock(job.device, torch.get_num_threads())
    result = _begin(job, clock, out)
    done = {(row["model"], row["strategy"], row["batch"]) for row in result["rows"]}
    titles = {name: f"{name} ({changed})" if changed else name for name, (_, changed) in shapes.items()}
    for name, (config, _) in shapes.items():
        _check_kind(titles[name], job.kind(config), result, out)
    for name, (config, _) in shapes.items():
        title = titles[name]
        missing = [(b, c) for b in job.batches for c in job.cells if (title, c.strategy, b) not in done]
        for _ in range(len(job.batches) * len(job.cells) - len(missing)):
            advance()
        for row in _rows(job, name, title, config, missing, clock, result) if missing else ():
            result["rows"].append({"model": title, **row})
            result["conditions"]["load_average"]["at_end"] = _load()
            if out is not None:
                write_json(out, result)
            advance()
    return result


def _check_kind(title: str, kind: tuple[str, torch.dtype | None], result: dict[str, Any], out: Path | None) -> None:
    """Raise `ValueError` if there are rows of a model of this title with other weights, or in another dtype."""
    weights, dtype = kind
    for known in result["models"] if any(row["model"] == title for row in result["rows"]) else ():
        asked = weights, known["dtype"] if dtype is None else str(dtype).removeprefix("torch.")
        there = known["weights"], known["dtype"]
        if known["name"] == title and there != asked:
            raise ValueError(
                f"{out} holds rows of {title} with {' weights in '.join(there)}, and {' weights in '.join(asked)} are "
                "asked for: give another file"
            )


def _rows(
    job: Job, name: str, title: str, config: PretrainedConfig, missing: list[tuple[int, Cell]], clock: Clock,
    result: dict[str, Any],
) -> Iterator[dict[str, Any]]:  # fmt: skip
    held: list[PreTrainedModel] = []
    failed = failure(lambda: held.append(job.build(name, config)))
    if failed is not None:
        tidy(job.device)
        for batch, cell in missing:
            yield {"strategy": cell.strategy, "name": cell.name, "keep": cell.keep, "batch": batch,
                   "failed": {"all": failed}}  # fmt: skip
        return
    model = held.pop()
    about = {
        "name": title,
        "family": model.config.model_type,
        "weights": "trained" if job.source == "weights" else "random",
        "dtype": str(model.dtype).removeprefix("torch."),
        "layers": config.get_text_config().num_hidden_layers,
        "parameters": model.num_parameters(),
        "weights_bytes": sum(p.numel() * p.element_size() for p in model.parameters()),
    }
    result["models"] = [known for known in result["models"] if known["name"] != title] + [about]
    for cell in dict.fromkeys(cell for _, cell in missing):  # what this model cannot take is told before the work
        attach(model, cell.strategy).detach()
    for batch in dict.fromkeys(batch for batch, _ in missing):
        yield from profile(model, [cell for b, cell in missing if b == batch], [batch], job.settings, clock)
    del model
    tidy(job.device)


def _begin(job: Job, clock: Clock, out: Path | None) -> dict[str, Any]:
    conditions: dict[str, Any] = {
        "commands": [job.command],
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "versions": versions(),
        "hardware": hardware(job.device),
        "load_average": {"at_start": _load()},
        "clock": clock.kind,
        "attention": job.attention,
        **json.loads(json.dumps(asdict(job.settings))),
    }
    result: dict[str, Any] = {"schema": SCHEMA, "conditions": conditions, "models": [], "rows": []}
    if out is None:
        return result
    if not out.exists():
        write_json(out, result)  # what cannot be written is known before the work
        return result
    try:
        found = check(read_json(out), "profile")
        before = found["conditions"]
        differ = [key for key in conditions if key not in _FREE and before.get(key) != conditions[key]]
        found["rows"] = [row for row in found["rows"] if not row["failed"]]
    except ValueError as error:
        raise ValueError(
            f"{out} is there and is no profile, so it is left alone: {error}; give another file"
        ) from error
    if found.get("schema") != SCHEMA or differ:
        what = differ[0] if differ else "schema"
        raise ValueError(f"{out} holds rows measured under other conditions ({what}): give another file")
    before["commands"] += [job.command] * (job.command not in before["commands"])
    return dict(found)


def _load() -> list[float]:
    return [round(load, 2) for load in os.getloadavg()]
