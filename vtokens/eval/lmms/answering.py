"""A batch of prompts answered by `model.generate`, with what it cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vtokens.adapters import adapter_for
from vtokens.core.costs import kv_bytes, prefill_flops
from vtokens.core.kept import KeptPicture
from vtokens.engine import Handle, Report
from vtokens.eval.clock import PhaseClock
from vtokens.eval.journal import Answer
from vtokens.eval.lmms.asked import Asked
from vtokens.eval.lmms.generation import StopStringCriteria
from vtokens.loading.media import MediaPrompt, batch_inputs
from vtokens.loading.responses import response_lengths


def answers(
    model: Any, processor: Any, handle: Handle, asked: Sequence[Asked], prompts: Sequence[MediaPrompt]
) -> list[Answer]:
    """Answer requests that share their settings, in one call of `generate`.

    Args:
        model, processor: genuine transformers classes.
        handle: what is attached to `model`.
        asked, prompts: the requests, one a row.
    """
    size, chosen = len(asked), asked[0].settings
    inputs = batch_inputs(processor, prompts).to(model.device, model.dtype)
    start = inputs["input_ids"].shape[1]
    ends = [StopStringCriteria(processor.tokenizer, chosen.stop, start)] if chosen.stop else []
    before = handle.record
    with PhaseClock(model) as clock:
        tokens = model.generate(**inputs, **chosen.arguments, stopping_criteria=ends)[:, start:]
    phases = clock.phases()
    times = {name: getattr(phases, name) / size for name in ("encode", "select", "prefill", "decode")}
    report = None if handle.record is before else handle.report()
    flops, flops_full, cached, cached_full = (cost // size for cost in _costs(model, inputs, report))
    fed = inputs["attention_mask"].sum(1).tolist()
    lengths = response_lengths(model, tokens, dict(chosen.arguments), end=True)
    texts = processor.batch_decode(tokens, skip_special_tokens=True)
    found = []
    for row, one in enumerate(asked):
        visual, average, kept, grid = pruned(report, row, size)
        found.append(
            Answer(
                task=one.task,
                doc=one.doc,
                text=chosen.cut(texts[row]),
                output_tokens=lengths[row],
                prompt_tokens=fed[row],
                visual_tokens=visual,
                kept_tokens=average,
                flops=flops,
                flops_full=flops_full,
                kv_bytes=cached,
                kv_bytes_full=cached_full,
                batch=size,
                kept=kept,
                grid=grid,
                **times,
            )
        )
    return found


def _costs(model: Any, inputs: Any, report: Report | None) -> tuple[int, int, int, int]:
    """FLOPs and KV bytes of the batch's prefill, each as run and unpruned; without pictures there is no report."""
    if report is not None:
        return report.flops, report.flops_full, report.kv_bytes, report.kv_bytes_full
    adapter = adapter_for(model)
    rows, length = inputs["input_ids"].shape
    config, lengths = adapter.language_model.config, [length] * len(adapter.layers)
    flops, cached = rows * prefill_flops(config, lengths), rows * kv_bytes(config, lengths, model.dtype.itemsize)
    return flops, flops, cached, cached


def pruned(report: Report | None, row: int, size: int) -> tuple[int, float, list[int] | None, list[int] | None]:
    """(visual tokens, kept on average, cells the middle layer saw of the first picture, their grid)."""
    if report is None:
        return 0, 0.0, None, None
    sample = report.samples[row * (len(report.samples) // size)]  # beams are rows of their own
    visual = sum(kept.picture.tokens for kept in sample.pictures)
    cells, grid = _cells(sample.pictures[0]) if sample.pictures else (None, None)
    return visual, sample.average_tokens, cells, grid


def _cells(first: KeptPicture) -> tuple[list[int] | None, list[int] | None]:
    seen, picture = first.kept[len(first.kept) // 2], first.picture
    if picture.tiled:  # and nobody knows where in it the tiles lay
        return None, None
    last = len(picture.grids) - 1
    seen = seen[(picture.view[seen] == last) & (picture.t[seen] == 0)]
    _, height, width = picture.grids[last]
    return sorted((picture.y[seen] * width + picture.x[seen]).tolist()), [height, width]
