"""Every way of decoding gives on a pruned model what it gives on the masked one."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, TextIteratorStreamer

import vtokens
from tests.engine.cases import model
from tests.engine.compare import GREEDY, SPEC, both, check_tokens, one, ragged
from tests.families import FAMILIES, build, image, inputs
from tests.families.processors import tokenizer

pytestmark = [pytest.mark.parametrize("family", FAMILIES), pytest.mark.usefixtures("no_grad")]


@pytest.mark.parametrize(
    "options",
    [
        {"num_return_sequences": 3, "do_sample": True, "temperature": 1.5},
        {"num_beams": 4, "num_return_sequences": 2, "do_sample": False},
        {"num_beams": 2, "do_sample": True},
        {"do_sample": False, "repetition_penalty": 1.4, "no_repeat_ngram_size": 2},
    ],
    ids=["sampled copies", "beam copies", "beam sampling", "processors"],
)
def test_ragged_batches_decode_as_the_masked_model(family: str, options: dict[str, Any]) -> None:
    got, expected, report = both(family, ragged(family), max_new_tokens=6, min_new_tokens=6, **options)
    check_tokens(got, expected, 6)
    copies = max(options.get("num_beams", 1), options.get("num_return_sequences", 1))
    assert len(report.samples) == 3 * copies
    for row, sample in enumerate(report.samples):
        assert len(sample.pictures) == (1, 2, 0)[row // copies]


def test_twice_in_a_row_and_streamed(family: str) -> None:
    """A second call is not disturbed by the first, and a streamer in a thread gets the same text."""
    pruned, batch, tok = model(family, "pruned"), one(family), tokenizer(family)
    with vtokens.attach(pruned, SPEC):
        first = pruned.generate(**batch, **GREEDY)
        other = pruned.generate(**inputs(family, ["Other <image>"], [[image(60, 130, seed=9)]]), **GREEDY)
        assert torch.equal(pruned.generate(**batch, **GREEDY), first)
        assert not torch.equal(other[0, -5:], first[0, -5:])
        streamer = TextIteratorStreamer(tok, skip_prompt=True, timeout=60)
        worker = threading.Thread(target=pruned.generate, kwargs={**batch, **GREEDY, "streamer": streamer})
        worker.start()
        text = "".join(streamer)
        worker.join()
    assert text == tok.decode(first[0, batch["input_ids"].shape[1] :])


@pytest.mark.parametrize("how", ["prompt lookup", "small language model", "same family"])
def test_assisted_decoding_gives_the_greedy_tokens(family: str, how: str, caplog: pytest.LogCaptureFixture) -> None:
    """Candidates are checked, and refused ones cropped from caches of different lengths."""
    caplog.set_level("ERROR", "transformers.generation.utils")  # it calls itself in a way that it calls deprecated
    pruned, batch = model(family, "pruned"), one(family)
    if how == "prompt lookup":
        extra: dict[str, Any] = {"prompt_lookup_num_tokens": 3}
    elif how == "same family":
        extra = {"assistant_model": build(family, seed=1)[0]}
    else:
        config = LlamaConfig(vocab_size=320, hidden_size=32, intermediate_size=32, num_hidden_layers=1)
        extra = {"assistant_model": LlamaForCausalLM(config).eval()}
        extra["assistant_model"].generation_config = pruned.generation_config
    longer = {**GREEDY, "max_new_tokens": 12, "min_new_tokens": 12}
    if family.startswith("qwen") and how == "small language model":
        with pytest.raises(ValueError, match="mm_token_type_ids"):  # transformers itself hands them to the assistant
            model(family, "plain").generate(**batch, **longer, **extra)
        return
    with vtokens.attach(pruned, SPEC):
        plain = pruned.generate(**batch, **longer)
        assert torch.equal(pruned.generate(**batch, **longer, **extra), plain)
