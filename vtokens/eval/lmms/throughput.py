"""The means over a run that lmms-eval writes into its results file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vtokens.eval.journal import Answer


def throughput(answers: Sequence[Answer]) -> dict[str, Any]:
    """The entries under `throughput` of that file; lmms-eval puts `avg_` before the additional names."""
    seconds = sum(a.first_token + a.decode for a in answers)
    tokens = sum(a.output_tokens for a in answers)

    def mean(name: str) -> float:
        return sum(getattr(a, name) for a in answers) / len(answers)

    def share(part: str) -> float:
        return mean(part) / mean(f"{part}_full")

    more = {name: mean(name) for name in ("visual_tokens", "kept_tokens", "encode", "select", "prefill", "decode")}
    return {
        "total_elapsed_time": seconds,
        "total_gen_tokens": tokens,
        "avg_speed": tokens / seconds if seconds else 0.0,
        "additional_metrics": more
        | {"ttft": mean("first_token"), "flops_ratio": share("flops"), "kv_ratio": share("kv_bytes")},
    }
