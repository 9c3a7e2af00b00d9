"""The pretrained language model itself: what it says, and the sinks it has, behind a projector that nobody trained."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from vtokens.calibrate.sinks import default_tau, discover
from vtokens.core.errors import MissingExtra
from vtokens.scenes import examples, prompt
from vtokens.scenes.smol.language import Language
from vtokens.scenes.smol.model import build
from vtokens.scenes.smol.package import language_file
from vtokens.scenes.smol.text import build_processor, build_tokenizer

from .gguf_file import WORDS
from .test_smol import TEXT, random_adapter

MASSIVE = 507  # the one massive dimension of SmolLM2-135M


@pytest.fixture(scope="module")
def real():
    try:
        language = Language(language_file())
    except MissingExtra as error:
        pytest.skip(str(error))
    adapter = random_adapter(language)
    for name in adapter:
        if name.startswith("updates."):
            adapter[name].zero_()
    tokenizer = build_tokenizer(language)
    model = build(language.config(), language.weights(), adapter, tokenizer)
    model.set_attn_implementation("eager")
    return model, build_processor(tokenizer)


@pytest.fixture(scope="module")
def prompts(real):
    processor = real[1]
    asked = examples("test", 2, kinds=["exist"])
    return [dict(processor(images=e.image, text=prompt(processor, e.question), return_tensors="pt")) for e in asked]


def test_it_speaks(real):
    """SmolLM2 knows the capital of France; its tokenizer gives back what it was given."""
    model, processor = real
    tokenizer = processor.tokenizer
    text = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    inputs = tokenizer(text, return_tensors="pt")
    answer = model.generate(**inputs, max_new_tokens=8)[0, inputs["input_ids"].shape[1] :]
    assert tokenizer.decode(answer) == "The capital of France is Paris.<|im_end|>"
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT
    assert Counter(len(tokenizer.encode(f" {w}")) for w in WORDS) == {1: len(WORDS)}


def test_calibration_finds_its_sinks_and_no_others(real, prompts):
    """The first token alone; half of what a state can reach, the default once, takes visual tokens by the dozen."""
    found = discover(real[0], prompts)
    assert found.sinks.dims == (MASSIVE,)
    assert default_tau(576) <= found.sinks.tau < 22.8  # what the first token reaches
    assert found.visual < 0.02
    assert discover(real[0], prompts, tau=12.0).visual > 0.2


@torch.no_grad()
def test_what_calibration_calls_a_sink_draws_attention(real, prompts):
    """Of the tokens above the default threshold in layers 12 to 28, nearly all get five times the mean attention."""
    model, batch = real[0], prompts[0]
    out = model(**batch, output_attentions=True, output_hidden_states=True)
    length = batch["input_ids"].shape[1]
    drawn = []
    for layer in range(12, 28):
        state = out.hidden_states[layer][0].float()
        phi = state[:, MASSIVE].abs() / state.square().mean(-1).sqrt()
        # Attention that a token gets from the rows behind it, over what rows give that look nowhere.
        weights = out.attentions[layer][0].mean(0)
        rows = torch.arange(length)
        got = torch.stack([(weights[t + 1 :, t] * (rows[t + 1 :] + 1)).mean() for t in range(length - 8)])
        drawn += (got[phi[: length - 8] > default_tau(576)] > 5).tolist()
    assert len(drawn) >= 16  # the first token in every layer
    assert sum(drawn) / len(drawn) > 0.9
