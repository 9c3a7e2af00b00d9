"""Writing and reading responses for a filter, a few samples at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessorList

from vtokens.adapters import adapter_for
from vtokens.core.prompts import POSITION_KINDS
from vtokens.core.weights import input_device
from vtokens.filter.actions.banned import Banned
from vtokens.filter.actions.decoding import limit
from vtokens.filter.actions.live import listen
from vtokens.filter.actions.regenerate import JudgedResponse
from vtokens.filter.datasets.bounds import check_length
from vtokens.filter.gate import Gate, kind_of
from vtokens.filter.guarantees.setting import CalibrationSetting
from vtokens.filter.judge import Judge, Threshold, Values
from vtokens.filter.mentions.base import Span
from vtokens.filter.trace import passes
from vtokens.filter.trace.offsets import encode_with_spans, token_spans
from vtokens.filter.trace.prompts import prompt_inputs
from vtokens.filter.trace.trace import Parts, Trace
from vtokens.loading.media import Medium
from vtokens.loading.responses import response_lengths

Samples = Sequence[Sequence[Medium]]


class FilterGeneration:
    """Generates responses with a model, and judges them from the traces of the same passes.

    Args:
        model, processor: genuine transformers classes.
        judge: of responses.
        parts: what the judge's signals need of a trace.
        threshold: what is to be flagged.
        setting: goes into the reports.
        size: samples in one pass.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        judge: Judge,
        parts: Parts,
        threshold: Threshold,
        setting: CalibrationSetting,
        size: int,
    ) -> None:
        self._model, self._processor, self._judge = model, processor, judge
        self._parts, self._threshold, self._setting, self._size = parts, threshold, setting, size
        self._tokenizer = getattr(processor, "tokenizer", processor)

    def draft(
        self, images: Samples, prompts: Sequence[str], gate: Gate | None = None, **generate_kwargs: Any
    ) -> list[JudgedResponse]:
        """Generate answers, each judged from the trace of the pass that generated it; or let through by the gate."""
        found: list[JudgedResponse] = []
        for part in self._parted(len(prompts)):
            shown, asked = images[part], prompts[part]
            open_to = None if gate is None else partial(_all_pass, gate, asked)
            traces = passes.gated(self._model, self._processor, shown, asked, self._parts, open_to, **generate_kwargs)
            written: list[tuple[Sequence[Medium], str, Trace]] = []
            unchecked: dict[int, JudgedResponse] = {}
            for number, (media, prompt, trace) in enumerate(zip(shown, asked, traces, strict=True)):
                if gate is not None and not isinstance(trace, passes.Unchecked):
                    first = float(trace.entropy[:1].sum())
                    trace = passes.Unchecked(trace.ids, first) if gate.passes(prompt, first) else trace
                if isinstance(trace, passes.Unchecked):
                    unchecked[number] = self._unchecked(media, prompt, trace)
                else:
                    written.append((media, prompt, trace))
            judged = iter(self._written(written))
            found += [unchecked[number] if number in unchecked else next(judged) for number in range(len(traces))]
        return found

    @property
    def guaranteed(self) -> bool:
        """Whether what is flagged follows from a certificate."""
        return self._threshold.certificate is not None

    def listen(
        self,
        images: Sequence[Medium],
        prompt: str,
        heard: Callable[[JudgedResponse, int], bool],
        **generate_kwargs: Any,
    ) -> JudgedResponse:
        """An answer; `heard` is called with it, and the number of its sentences that are complete, as it is written,
        and returns whether to stop."""

        def judged(trace: Trace, complete: int) -> bool:
            return heard(self._written([(images, prompt, trace)])[0], complete)

        split = self._judge.extractor.sentences
        trace = listen(self._model, self._processor, images, prompt, self._parts, split, judged, **generate_kwargs)
        return self.read([images], [prompt], [[]])[0] if trace is None else self._written([(images, prompt, trace)])[0]

    def write(
        self,
        images: Samples,
        prompts: Sequence[str],
        begun: Sequence[Sequence[int]],
        banned: Sequence[Sequence[Sequence[int]]] | None = None,
        **generate_kwargs: Any,
    ) -> list[list[int]]:
        """Whole responses, going on behind what was begun, without some sequences of tokens."""
        found: list[list[int]] = []
        for part in self._parted(len(prompts)):
            inputs = prompt_inputs(self._processor, images[part], prompts[part], input_device(self._model))
            most = limit(self._model, generate_kwargs, inputs["input_ids"].shape[1])
            inputs, options = (
                behind(self._model, inputs, begun[part], self._tokenizer.pad_token_id or 0),
                dict(generate_kwargs),
            )
            if most is not None:
                options["max_new_tokens"] = max(1, most - min(map(len, begun[part])))
                options.pop("max_length", None)
            if banned is not None:
                copies = int(options.get("num_beams") or getattr(self._model.generation_config, "num_beams", None) or 1)
                given = options.get("logits_processor") or ()
                options["logits_processor"] = LogitsProcessorList(
                    [*given, Banned(banned[part], input_device(self._model), copies)]
                )
            with torch.no_grad():
                output = self._model.generate(**inputs, **options)
            said = getattr(output, "sequences", output)[:, inputs["input_ids"].shape[1] :]
            lengths = response_lengths(self._model, said, generate_kwargs)
            for first, row, length in zip(begun[part], said.tolist(), lengths, strict=True):
                found.append([*first, *row[:length]][:most])
        return found

    def read(
        self, images: Samples, prompts: Sequence[str], responses: Sequence[str | Sequence[int]]
    ) -> list[JudgedResponse]:
        """Judge given responses, as text or as token ids; one that mentions nothing costs no pass.

        Raises:
            ValueError: a response that is too long.
        """
        for number, response in enumerate(responses):
            if isinstance(response, str):
                check_length(f"responses[{number}]", response)
        known = [self._spans(response) for response in responses]
        context = getattr(self._model.config.get_text_config(), "max_position_embeddings", None)
        for number, (_, ids, _) in enumerate(known):  # before mentions are looked for, which takes long in long texts
            if context is not None and len(ids) > context:
                raise ValueError(
                    f"responses[{number}] has {len(ids)} tokens, but the model's context holds {context}: check it in "
                    "parts"
                )
        said = [
            self._judge.about(images[i]).sort(prompts[i], text, spans) if ids else None
            for i, (text, ids, spans) in enumerate(known)
        ]
        asked = [i for i, one in enumerate(said) if one and one[0]]
        traces: dict[int, Trace] = {}
        values: dict[int, Values] = {}
        for part in self._parted(len(asked)):
            some = asked[part]
            shown, texts, given = [images[i] for i in some], [prompts[i] for i in some], [known[i][1] for i in some]
            scored = passes.score(self._model, self._processor, shown, texts, given, self._parts)
            traces |= dict(zip(some, scored, strict=True))
            mentions = [said[i] for i in some]
            values |= dict(zip(some, self._judge.features_of(scored, [one[0] for one in mentions if one]), strict=True))
        found = []
        for i, (text, ids, spans) in enumerate(known):
            report = self._judge.report(
                images[i],
                prompts[i],
                text,
                spans,
                traces.get(i),
                self._threshold,
                self._setting,
                said[i],
                values.get(i),
            )
            found.append(JudgedResponse(report, ids, spans))
        return found

    def _written(self, answers: Sequence[tuple[Sequence[Medium], str, Trace]]) -> list[JudgedResponse]:
        """Judge what was written, from pictures, prompt and trace of each."""
        known = [self._spans(trace.ids.tolist()) for _, _, trace in answers]
        said = [
            self._judge.about(images).sort(prompt, text, spans)
            for (images, prompt, _), (text, _, spans) in zip(answers, known, strict=True)
        ]
        values = self._judge.features_of([trace for _, _, trace in answers], [mentions for mentions, _ in said])
        return [
            JudgedResponse(
                self._judge.report(
                    images, prompt, text, spans, trace if ids else None, self._threshold, self._setting, sort, some
                ),
                ids,
                spans,
            )
            for (images, prompt, trace), (text, ids, spans), sort, some in zip(
                answers, known, said, values, strict=True
            )
        ]

    def _unchecked(self, images: Sequence[Medium], prompt: str, said: passes.Unchecked) -> JudgedResponse:
        text, ids, spans = self._spans(said.ids.tolist())
        note = f"not checked: the gate let it through ({kind_of(prompt)}, {said.entropy:.3g} nats at prefill)"
        report = self._judge.unchecked(images, prompt, text, self._threshold, self._setting, note)
        return JudgedResponse(report, ids, spans)

    def _spans(self, response: str | Sequence[int]) -> tuple[str, list[int], list[Span]]:
        if isinstance(response, str):
            ids, spans = encode_with_spans(self._tokenizer, response)
            return response, ids, spans
        ids = [int(one) for one in response]
        text, spans = token_spans(self._tokenizer, ids, self._tokenizer.decode(ids, skip_special_tokens=True).strip())
        return text, ids, spans

    def _parted(self, count: int) -> list[slice]:
        return [slice(start, start + self._size) for start in range(0, count, self._size)]


def _all_pass(gate: Gate, prompts: Sequence[str], entropies: Tensor) -> bool:
    """Whether all rows of a batch are let through; rows of one prompt, its beams, begin alike."""
    rows = entropies.view(len(prompts), -1)[:, 0].tolist()
    return all(gate.passes(prompt, entropy) for prompt, entropy in zip(prompts, rows, strict=True))


def behind(model: Any, inputs: dict[str, Any], begun: Sequence[Sequence[int]], pad: int) -> dict[str, Any]:
    """Prompts, padded on the left, with what is written already behind each, padded on the left again."""
    mask, anatomy = inputs["attention_mask"].bool(), adapter_for(model).anatomy
    device = mask.device
    tails = [torch.tensor(list(one), dtype=torch.long, device=device) for one in begun]
    lengths = [int(row.sum()) + len(tail) for row, tail in zip(mask, tails, strict=True)]

    def padded(rows: Tensor, fill: int, tail: Callable[[Tensor], Tensor]) -> Tensor:
        parts = [torch.cat([row[real], tail(one)]) for row, real, one in zip(rows, mask, tails, strict=True)]
        return torch.stack([torch.nn.functional.pad(part, (max(lengths) - len(part), 0), value=fill) for part in parts])

    changed = dict(inputs, input_ids=padded(inputs["input_ids"], pad, lambda tail: tail))
    changed["attention_mask"] = padded(inputs["attention_mask"], 0, torch.ones_like)
    for name in inputs.keys() & POSITION_KINDS:
        changed[name] = padded(inputs[name], 0, partial(torch.full_like, fill_value=anatomy.written_kind(name)))
    return changed
