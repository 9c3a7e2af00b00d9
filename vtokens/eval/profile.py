"""What a strategy costs and saves on one model: FLOPs, time, memory, against the same model unpruned and the ideal."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from vtokens.adapters import Adapter, adapter_for
from vtokens.core.costs import Flops, call_flops
from vtokens.core.timing import Clock, peak_bytes, ran_out_of_memory, ratio, rounds, summary
from vtokens.engine import Report, attach
from vtokens.engine.checks.outside import check_inside
from vtokens.eval.cells import Cell
from vtokens.eval.clock import PhaseClock
from vtokens.eval.ideal import Ideal
from vtokens.eval.synthetic import prompts

COMPARED = ("first_token", "request")
"""What speed-ups are given for: pixels in and one token out, and the whole answer."""


@dataclass(frozen=True)
class ProfileSettings:
    """What every row of a profile has in common.

    Attributes:
        text: text tokens of a prompt.
        size: (width, height) of its picture in pixels; None for the family's default.
        new_tokens: length of the answers.
        rounds: rounds that count; one more before them warms up.
    """

    text: int = 40
    size: tuple[int, int] | None = None
    new_tokens: int = 128
    rounds: int = 5

    def __post_init__(self) -> None:
        for name in ("new_tokens", "rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is not possible: an int of at least 1")


def profile(
    model: PreTrainedModel, cells: Sequence[Cell], batches: Sequence[int], settings: ProfileSettings, clock: Clock
) -> Iterator[dict[str, Any]]:
    """One row for each batch size and strategy, as it is measured.

    In every round the unpruned model, the pruned one and the ideal (`Ideal`: the same model given what the strategy
    keeps from the start) answer the same prompts one after another, under the same attention implementation. Ratios are
    taken within rounds. What does not fit into memory is named in the row's `failed`, and the next is measured.

    Args:
        model: from `vtokens.eval.shapes`, so that it answers at the length asked for.
        cells: the strategies.
        batches: prompts of a call.
        settings: the rest.
        clock: what to time with.

    Raises:
        ValueError: a batch of less than one prompt; a strategy or picture this model cannot take.
    """
    for batch in batches:
        if batch < 1:
            raise ValueError(f"a batch of {batch} prompts is not possible: an int of at least 1")
    for batch in batches:
        for cell in cells:
            row: dict[str, Any] = {
                "strategy": cell.strategy, "name": cell.name, "keep": cell.keep, "batch": batch,
                "new_tokens": settings.new_tokens, "failed": {},
            }  # fmt: skip
            failed = failure(partial(_measure, model, cell, batch, settings, clock, row))
            if failed is not None:
                row["failed"]["all"] = failed
            tidy(model.device)
            yield row


def _measure(model: Any, cell: Cell, batch: int, settings: ProfileSettings, clock: Clock, row: dict[str, Any]) -> None:
    adapter = adapter_for(model)
    check_inside(adapter, "a profile")
    inputs = prompts(adapter, [settings.text] * batch, settings.size)
    with attach(model, cell.strategy) as handle:
        model.generate(**inputs, max_new_tokens=1)
        report = handle.report()
    row |= costs(adapter, inputs, report, settings.new_tokens)
    ideal = Ideal(model, inputs, report)
    length = {"min_new_tokens": settings.new_tokens, "max_new_tokens": settings.new_tokens}
    calls: dict[str, Callable[[], Any]] = {
        "unpruned": partial(model.generate, **inputs, **length),
        "pruned": partial(model.generate, **inputs, **length),
        "ideal": partial(ideal.generate, **length),
    }

    def attached(name: str) -> Any:
        return attach(model, cell.strategy) if name == "pruned" else nullcontext()

    def timed(name: str) -> dict[str, float]:
        with attached(name):
            return _request(model, calls[name], clock)

    possible = {}
    for name in calls:  # the warm-up, which also tells what fits
        failed = failure(partial(timed, name))
        if failed is None:
            possible[name] = partial(timed, name)
        else:
            row["failed"][name] = failed
            tidy(model.device)
    row |= _compared(rounds(possible, settings.rounds, warm_up=0), batch * settings.new_tokens)
    row["peak_bytes"] = {}
    for name in possible:
        with attached(name):
            row["peak_bytes"][name] = peak_bytes(calls[name], model.device)


def costs(adapter: Adapter, inputs: dict[str, Tensor], report: Report, new_tokens: int) -> dict[str, Any]:
    """Tokens, FLOPs and KV bytes of a call, by formula (`vtokens.core.costs`), with and without the strategy."""
    batch, length = inputs["input_ids"].shape
    samples, config = report.samples, adapter.language_model.config
    depth, encoding = len(adapter.layers), adapter.encoding("image", inputs)
    seen = [max(len(sample.positions[layer]) for sample in samples) for layer in range(depth)]

    def flops(lengths: Sequence[int]) -> dict[str, int]:
        counted: Flops = call_flops(config, encoding, lengths, new_tokens, batch)
        return asdict(counted) | {"first_token": counted.first_token, "total": counted.total}

    return {
        "prompt_tokens": length,
        "visual_tokens": sum(kept.picture.tokens for kept in samples[0].pictures),
        "kept_tokens": sum(sample.average_tokens for sample in samples) / batch,
        "flops": flops(seen),
        "flops_full": flops([length] * depth),
        "kv_bytes": report.kv_bytes,
        "kv_bytes_full": report.kv_bytes_full,
    }


def _request(model: PreTrainedModel, run: Callable[[], Any], clock: Clock) -> dict[str, float]:
    """Seconds of one whole call, by phase."""
    with PhaseClock(model, clock.now) as phase_clock:
        whole = clock.time(run)
    phases = phase_clock.phases()
    return {
        "encode": phases.encode,
        "select": phases.select,
        "prefill": phases.prefill,
        "first_token": phases.first_token,
        "decode": phases.decode,
        "per_token": phases.decode / max(1, phases.tokens),
        "request": whole,
    }


def _compared(measured: dict[str, list[dict[str, float]]], tokens: int) -> dict[str, Any]:
    """Summaries of what was measured in the same rounds, and the ratios between."""

    def column(name: str, phase: str) -> list[float]:
        return [call[phase] for call in measured[name]]

    def against(above: str, phase: str) -> dict[str, float] | None:
        if above not in measured or "pruned" not in measured:
            return None
        return ratio(column(above, phase), column("pruned", phase))

    seconds = {name: {phase: summary(column(name, phase)) for phase in calls[0]} for name, calls in measured.items()}
    return {
        "seconds": seconds,
        "tokens_per_second": {name: tokens / phases["request"]["median"] for name, phases in seconds.items()},
        "speed_up": {phase: against("unpruned", phase) for phase in COMPARED},
        "of_ideal": {phase: against("ideal", phase) for phase in COMPARED},
    }


def failure(run: Callable[[], Any]) -> str | None:
    """Why `run()` did not fit into memory; None if it did. The error itself, which holds on to tensors, ends here."""
    try:
        run()
    except (RuntimeError, MemoryError) as error:
        if not ran_out_of_memory(error):
            raise
        text = str(error).strip()
        return "out of memory" + (f": {text.splitlines()[0]}" if text else "")
    return None


def tidy(device: torch.device) -> None:
    """Give back what a failed call still held, so that the next one starts with what there is."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
