"""The tables of `vtokens profile`: what a strategy costs, and where the time goes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.table import Table

from vtokens.cli.output import cell

_COSTS = ("batch", "strategy", "keep", "tokens/layer", "encode", "prefill", "decode", "all", "KV cache", "peak memory")
_TIMES = ("batch", "strategy", "keep", "encode", "select", "prefill", "first token", "speed", "of ideal",
          "per token", "request", "speed", "of ideal", "tokens/s")  # fmt: skip


def tables(result: dict[str, Any]) -> Iterator[Any]:
    """Two tables a model (costs, times), what did not fit into memory, and the conditions."""
    about = result["conditions"]
    for model in result["models"]:
        rows = [row for row in result["rows"] if row["model"] == model["name"]]
        size = f"{_si(model['parameters'])} parameters"
        title = f"{model['name']}: {size}, {model['weights']} weights, {model['dtype']}"
        costs = f"{title}; FLOPs and bytes of the whole batch, unpruned -> pruned"
        times = f"{title}; ms, medians of {about['rounds']} rounds, {about['clock']}, unpruned -> pruned"
        if counted := [_cost(row) for row in rows if "flops" in row]:
            yield _table(_COSTS, counted, costs)
        if timed := [_time(row) for row in rows if "pruned" in row.get("seconds", {})]:
            yield _table(_TIMES, timed, times)
    for row in result["rows"]:
        for what, why in row["failed"].items():
            which = "" if what == "all" else f", {what}"
            yield cell(f"failed: {row['model']}, batch {row['batch']}, {row['strategy']}{which}: {why}", "red")
    hardware = about["hardware"]
    place = hardware["gpu"] or f"{hardware['cpu']}, {hardware['threads']} thread(s)"
    yield cell(
        f"{place}; {about['attention']} attention; one picture and {about['text']} text tokens a "
        f"prompt, {about['new_tokens']} new tokens. Noise for weights, pictures or words says nothing about quality."
    )


def _table(heads: tuple[str, ...], rows: list[list[str]], title: str) -> Table:
    table = Table(title=cell(title), title_justify="left")
    for head in heads:
        table.add_column(head, justify="left" if head == "strategy" else "right")
    for row in rows:
        table.add_row(*map(cell, row))
    return table


def _cost(row: dict[str, Any]) -> list[str]:
    full, flops, peak = row["flops_full"], row["flops"], row.get("peak_bytes", {})
    return [
        *_which(row),
        f"{row['visual_tokens']} -> {row['kept_tokens']:.4g}",
        _si(flops["tower"] + flops["projector"]),
        f"{_si(full['prefill'])} -> {_si(flops['prefill'])}",
        f"{_si(full['decode'])} -> {_si(flops['decode'])}",
        f"{flops['total'] / full['total']:.0%}",
        f"{_si(row['kv_bytes_full'])}B -> {_si(row['kv_bytes'])}B",
        " -> ".join(_si(peak[name]) + "B" if name in peak else "-" for name in ("unpruned", "pruned")),
    ]


def _time(row: dict[str, Any]) -> list[str]:
    pruned, unpruned = row["seconds"]["pruned"], row["seconds"].get("unpruned")
    pair = {phase: f"{_ms(unpruned, phase)} -> {_ms(pruned, phase)}" for phase in pruned}
    rate = row["tokens_per_second"]
    return [
        *_which(row),
        pair["encode"],
        _ms(pruned, "select"),
        pair["prefill"],
        pair["first_token"],
        _ratio(row["speed_up"]["first_token"], "{:.2f}x"),
        _ratio(row["of_ideal"]["first_token"], "{:.0%}"),
        pair["per_token"],
        pair["request"],
        _ratio(row["speed_up"]["request"], "{:.2f}x"),
        _ratio(row["of_ideal"]["request"], "{:.0%}"),
        f"{rate['unpruned']:,.1f} -> {rate['pruned']:,.1f}" if "unpruned" in rate else f"{rate['pruned']:,.1f}",
    ]


def _ms(phases: dict[str, Any] | None, phase: str) -> str:
    return "-" if phases is None else f"{1e3 * phases[phase]['median']:,.4g}"


def _ratio(value: dict[str, float] | None, form: str) -> str:
    return "-" if value is None else form.format(value["median"])


def _which(row: dict[str, Any]) -> list[str]:
    return [str(row["batch"]), row["name"], "" if row["keep"] is None else f"{row['keep']}"]


def _si(value: float) -> str:
    """Three digits and the letter of their thousands: 8.61T."""
    letters = " kMGTP"
    power = min(len(letters) - 1, max(0, (len(str(int(value))) - 1) // 3))
    return f"{value / 1000**power:.3g}{letters[power].strip()}"
