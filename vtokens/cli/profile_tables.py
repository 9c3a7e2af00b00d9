"""The tables of `vtokens profile`: what a strategy costs, and where the time goes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.table import Table
from rich.text import Text

_COSTS = ("batch", "strategy", "tokens/layer", "encode", "prefill", "decode", "FLOPs", "KV cache", "peak memory")
_TIMES = ("batch", "strategy", "encode", "select", "prefill", "first token", "speed-up", "of ideal", "per token",
          "request", "speed-up", "of ideal", "tokens/s")  # fmt: skip


def tables(result: dict[str, Any]) -> Iterator[Any]:
    """Two tables a model (costs, times), what did not fit into memory, and the conditions."""
    about = result["conditions"]
    for model in result["models"]:
        rows = [row for row in result["rows"] if row["model"] == model["name"]]
        title = f"{model['name']}: {model['parameters'] / 1e9:.3g}B parameters, {model['weights']} weights"
        yield _table(_COSTS, [_cost(row) for row in rows if "flops" in row],
                     f"{title}; unpruned -> pruned, TFLOPs and MB of the whole batch")  # fmt: skip
        yield _table(_TIMES, [_time(row) for row in rows if "pruned" in row.get("seconds", {})],
                     f"{title}; ms, medians of {about['rounds']} rounds, {about['clock']}")  # fmt: skip
    for row in result["rows"]:
        for what, why in row["failed"].items():
            which = "" if what == "all" else f", {what}"
            yield Text(f"failed: {row['model']}, batch {row['batch']}, {row['strategy']}{which}: {why}", style="red")
    hardware = about["hardware"]
    place = hardware["gpu"] or f"{hardware['cpu']}, {hardware['threads']} thread(s)"
    yield Text(
        f"{place}; {about['dtype']}, {about['attention']} attention; one picture and {about['text']} text tokens a "
        f"prompt, {about['new_tokens']} new tokens. Noise for weights, pictures or words says nothing about quality."
    )


def _table(heads: tuple[str, ...], rows: list[list[str]], title: str) -> Table:
    table = Table(title=title, title_justify="left")
    for head in heads:
        table.add_column(head, justify="left" if head == "strategy" else "right", no_wrap=head != "strategy")
    for row in rows:
        table.add_row(*row)
    return table


def _cost(row: dict[str, Any]) -> list[str]:
    full, flops, peak = row["flops_full"], row["flops"], row.get("peak_bytes", {})
    before, after = peak.get("unpruned"), peak.get("pruned")
    return [
        str(row["batch"]),
        row["strategy"],
        f"{row['visual_tokens']} -> {row['kept_tokens']:.4g}",
        f"{(flops['tower'] + flops['projector']) / 1e12:.3g}",
        f"{full['prefill'] / 1e12:.3g} -> {flops['prefill'] / 1e12:.3g}",
        f"{full['decode'] / 1e12:.3g} -> {flops['decode'] / 1e12:.3g}",
        f"{flops['total'] / full['total']:.0%}",
        f"{row['kv_bytes_full'] / 1e6:,.1f} -> {row['kv_bytes'] / 1e6:,.1f}",
        f"{_mega(before)} -> {_mega(after)}",
    ]


def _time(row: dict[str, Any]) -> list[str]:
    pruned, unpruned = row["seconds"]["pruned"], row["seconds"].get("unpruned")
    pair = {phase: f"{_ms(unpruned, phase)} -> {_ms(pruned, phase)}" for phase in pruned}
    rate = row["tokens_per_second"]
    return [
        str(row["batch"]),
        row["strategy"],
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


def _mega(size: int | None) -> str:
    return "-" if size is None else f"{size / 1e6:,.0f}"
