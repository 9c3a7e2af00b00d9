"""What `generate` takes and returns: text alone, embeddings, hidden states, no cache; and what is refused, and why."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import vtokens
from tests.engine.cases import model
from tests.engine.compare import DETAILS, GREEDY, SPEC, both, check_tokens, one, ragged
from tests.families import FAMILIES, inputs
from tests.families.processors import tokenizer
from tests.limits import close_pass

pytestmark = [pytest.mark.parametrize("family", FAMILIES), pytest.mark.usefixtures("no_grad")]


def test_text_alone_is_untouched(family: str) -> None:
    """Prompts without pictures give the very bits of the plain model, and there is nothing to report."""
    pruned, batch = model(family, "pruned"), inputs(family, ["hello there, what is this?", "a"])
    plain, expected = model(family, "plain"), model(family, "plain").generate(**batch, **GREEDY, **DETAILS)
    with vtokens.attach(pruned, SPEC) as handle:
        assert torch.equal(pruned(**batch).logits, plain(**batch).logits)
        got = pruned.generate(**batch, **GREEDY, **DETAILS)
        assert torch.equal(got.sequences, expected.sequences)
        assert all(torch.equal(a, b) for a, b in zip(got.logits, expected.logits, strict=True))
        with pytest.raises(RuntimeError, match="no pictures went through this model"):
            handle.report()


def test_hidden_states_are_those_of_the_masked_model(family: str) -> None:
    """Step by step and layer by layer, at the positions that every layer still had."""
    batch = ragged(family)
    got, expected, report = both(family, batch, **GREEDY, output_hidden_states=True)
    for step, (mine, theirs) in enumerate(zip(got.hidden_states, expected.hidden_states, strict=True)):
        assert [part.shape for part in mine] == [part.shape for part in theirs]
        for row, sample in enumerate(report.samples):
            for a, b in zip(mine, theirs, strict=True):
                at = torch.from_numpy(sample.positions[-1]) if step == 0 else slice(None)
                close_pass(a[row, at], b[row, at])


def test_embeddings_with_pixels(family: str) -> None:
    """`inputs_embeds` that hold placeholder embeddings work as ids do; without pixels their layout is unknown."""
    batch = one(family)
    batch["inputs_embeds"] = model(family, "plain").get_input_embeddings()(batch.pop("input_ids"))
    got, expected, report = both(family, batch, **GREEDY)
    check_tokens(got, expected, 5)
    assert report.samples[0].visual_tokens[3] < report.samples[0].visual_tokens[0]
    alone = {name: batch[name] for name in ("inputs_embeds", "attention_mask")}
    with (
        vtokens.attach(model(family, "pruned"), SPEC),
        pytest.raises(ValueError, match=r"inputs_embeds without pixel_values .* pass input_ids and pixel_values"),
    ):
        model(family, "pruned").generate(**alone, **GREEDY)


def test_without_a_cache_every_step_prunes_the_whole_sequence(family: str) -> None:
    """Where selection does not look at the text, the tokens are those of the cached run."""
    pruned, batch = model(family, "pruned"), one(family)
    special = [[token] for token in tokenizer(family).all_special_ids]  # a generated placeholder would need a picture
    with vtokens.attach(pruned, "cls(keep=0.3)"):
        cached = pruned.generate(**batch, **GREEDY, bad_words_ids=special)
        assert torch.equal(pruned.generate(**batch, **GREEDY, bad_words_ids=special, use_cache=False), cached)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"prefill_chunk_size": 8}, r"cut by prefill_chunk_size.*leave prefill_chunk_size out"),
        ({"output_attentions": True}, r"output_attentions=True cannot be met.*handle\.report\(\)"),
    ],
)
def test_what_cannot_work_says_so(family: str, options: dict[str, Any], reason: str) -> None:
    """And the next call works as if nothing had been asked."""
    pruned, batch = model(family, "pruned"), one(family)
    plain = model(family, "plain").generate(**batch, **GREEDY)
    if "prefill_chunk_size" in options and not torch.equal(
        model(family, "plain").generate(**batch, **GREEDY, **options), plain
    ):
        pytest.skip("this release of transformers loses the pictures itself, whatever is attached")
    with vtokens.attach(pruned, SPEC):
        expected = pruned.generate(**batch, **GREEDY)
        with pytest.raises(ValueError, match=reason):
            pruned.generate(**batch, **GREEDY, **options)
        assert torch.equal(pruned.generate(**batch, **GREEDY), expected)
