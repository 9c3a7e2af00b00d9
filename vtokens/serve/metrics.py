"""What /metrics tells: times, sizes and counts, in Prometheus' text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """The counters of one server.

    Each answer to a chat is one of `vtokens_http_responses_total{route="/v1/chat/completions"}`. One with another
    status than 200 is also one of `vtokens_refusals_total`; one with 200 has as many of `vtokens_answers_total` as it
    has choices, unless it was a stream that broke off, which is a refusal as well.

    Attributes:
        responses: by route and status.
        refusals: by reason, the `code` of the error.
        answers: by strategy and how they ended.
        seen, kept: visual tokens of prompts, and how many of them decoder layers saw on average, by strategy.
        flags: what the filter marked, by action.
        prompt, completion: tokens, as `usage` counts them.
        queue, first, whole: seconds until a batch began, until the first text, and until the answer was there.
        batch: rows of the batches that answers were written in.
    """

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()

        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(f"vtokens_{name}", what, labels, registry=registry)

        def histogram(name: str, what: str, buckets: Any = _SECONDS) -> Histogram:
            return Histogram(f"vtokens_{name}", what, buckets=buckets, registry=registry)

        self.responses = counter("http_responses", "Answers to requests of HTTP.", "route", "status")
        self.refusals = counter("refusals", "Requests that were refused, or whose stream broke off.", "reason")
        self.answers = counter("answers", "Answers of the model, as many as choices.", "strategy", "finish_reason")
        self.seen = counter("image_tokens_seen", "Visual tokens of answered prompts.", "strategy")
        self.kept = counter("image_tokens_kept", "Those that decoder layers saw, on average.", "strategy")
        self.flags = counter("filter_flags", "What the filter marked in answers.", "action")
        self.prompt = counter("prompt_tokens", "Fed to the decoder, as `usage` counts them.")
        self.completion = counter("completion_tokens", "Generated, as `usage` counts them.")
        self.queue = histogram("queue_seconds", "Waiting for a batch.")
        self.first = histogram("first_token_seconds", "From the request to the first text.")
        self.whole = histogram("request_seconds", "From a chat's request to the end of its answer.")
        self.batch = histogram(
            "batch_rows", "Rows of the batch that an answer was written in.", (1, 2, 4, 8, 16, 32, 64)
        )

    def watch(self, name: str, what: str, value: Callable[[], float]) -> None:
        """Add a gauge that is read when it is asked for."""
        Gauge(f"vtokens_{name}", what, registry=self._registry).set_function(value)

    def text(self) -> bytes:
        """All of it."""
        return generate_latest(self._registry)
