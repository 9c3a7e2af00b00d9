"""What holds of every strategy that drops tokens inside the decoder by several stages."""

import pytest
import torch

import vtokens
from tests.families import build, image, inputs
from tests.limits import close_pass
from tests.strategies.helpers import kept, pair, report, three_rows

SPECS = (
    "pyramiddrop(keep=0.2)",
    "v2drop(keep=0.2)",
    "transprune(keep=0.2)",
    "sparsevlm(keep=0.1)",
    "feather",
    "dart(keep=0.4)",
    "priortr(keep=0.3, layer=2)",
    "late_random",
    "vtw",
)
PROMPTS = ["Is there a cat?", "Compare <image> with <image> please, and say which one is red"]


@pytest.mark.parametrize("spec", SPECS)
@torch.no_grad()
def test_a_row_is_as_it_would_be_alone_and_padding_does_not_matter(spec: str) -> None:
    """Logits of the last position, and what stays, on either side of padding, in float32; bfloat16 runs."""
    model = pair("llava_next")[0]
    pictures = [[image(100, 60, seed=0)], [image(84, 112, seed=1), image(60, 60, seed=2)]]
    together = {side: inputs(pair("llava_next")[1], PROMPTS, pictures, side) for side in ("left", "right")}
    found = {}
    with vtokens.attach(model, spec):
        for side, batch in together.items():
            out, last = model(**batch).logits, [int(row.nonzero().max()) for row in batch["attention_mask"]]
            found[side] = torch.stack([out[row, place] for row, place in enumerate(last)])
        alone = [
            model(**inputs(pair("llava_next")[1], PROMPTS[row : row + 1], pictures[row : row + 1])).logits[0, -1]
            for row in range(2)
        ]
    close_pass(found["left"], torch.stack(alone))
    close_pass(found["right"], torch.stack(alone))
    assert kept(model, together["left"], spec) == kept(model, together["right"], spec)


@pytest.mark.parametrize("spec", SPECS)
@torch.no_grad()
def test_keep_one_changes_nothing_and_survivors_are_in_order(spec: str) -> None:
    model, batch = pair("qwen2_5_vl")[0], three_rows("qwen2_5_vl")
    for layer in report(model, batch, spec).samples[1].positions:
        assert list(layer) == sorted(layer)
    if spec == "vtw":  # which has nothing to keep
        return
    plain = model(**batch).logits
    with vtokens.attach(model, f"{spec.split('(')[0]}(keep=1.0)"):
        assert torch.equal(model(**batch).logits, plain)


@pytest.mark.parametrize("spec", SPECS)
@torch.no_grad()
def test_half_precision(spec: str) -> None:
    """It runs in bfloat16 and leaves as many tokens, but where a union decides how many."""
    half = build("llava")[0].to(torch.bfloat16)
    batch = three_rows("llava")
    batch["pixel_values"] = batch["pixel_values"].to(torch.bfloat16)
    counts = [len(ranks) for ranks in kept(half, batch, spec)]
    assert spec == "feather" or counts == [len(ranks) for ranks in kept(pair("llava")[0], three_rows("llava"), spec)]


@pytest.mark.parametrize("spec", SPECS)
def test_compact_numbers(spec: str) -> None:
    """`positions="compact"` is taken, and answers go on from it, in a static cache too."""
    model, batch = pair("llava")[0], three_rows("llava")
    compact = f"{spec[:-1]}, positions=compact)" if spec.endswith(")") else f"{spec}(positions=compact)"
    with torch.no_grad(), vtokens.attach(model, compact):
        first = model.generate(**batch, max_new_tokens=3, do_sample=False)
        again = model.generate(**batch, max_new_tokens=3, do_sample=False, cache_implementation="static")
    assert torch.equal(first, again)
