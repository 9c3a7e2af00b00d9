"""Pictures at the edge of what a processor takes, and features that were computed beforehand."""

from __future__ import annotations

import pytest
import torch

import vtokens
from tests.engine.cases import model
from tests.engine.compare import GREEDY, SPEC, one
from tests.engine.masked import dropped_keys, masking
from tests.families import FAMILIES, image, inputs
from tests.limits import close_pass

pytestmark = pytest.mark.usefixtures("no_grad")
EVERY = pytest.mark.parametrize("family", FAMILIES)


@EVERY
@pytest.mark.parametrize("size", [(1, 1), (4000, 10), (10, 4000), (2000, 3)], ids=str)
def test_extreme_pictures(family: str, size: tuple[int, int]) -> None:
    """What the processor itself refuses stays its error; everything else is pruned like any picture."""
    prompt, pictures = ["Look <image> what?"], [[image(*size, seed=1)]]
    if family.startswith("qwen") and max(size) / min(size) > 200:
        with pytest.raises(ValueError, match="absolute aspect ratio must be smaller than 200"):
            inputs(family, prompt, pictures)
        return
    batch = dict(inputs(family, prompt, pictures))
    target, reference = model(family, "pruned"), model(family, "plain", "eager")
    for spec in ("uniform(keep=0.5)", "todre(keep=0.3)", SPEC):
        with vtokens.attach(target, spec) as handle:
            got = target(**batch).logits
            dropped = dropped_keys(handle.report(), batch["attention_mask"])
            target.generate(**batch, **GREEDY)
        assert dropped[0].any()
        with masking(reference, dropped):
            close_pass(got, reference(**batch).logits)


@EVERY
def test_features_from_before(family: str) -> None:
    """Precomputed `mm_encoder_outputs` are welcome if they were made by the attached model."""
    target, batch = model(family, "pruned"), one(family)
    text = {name: batch.pop(name) for name in ("input_ids", "attention_mask")}
    types = {"mm_token_type_ids": batch.pop("mm_token_type_ids")} if "mm_token_type_ids" in batch else {}
    grid = {name: part for name, part in batch.items() if name == "image_grid_thw"}
    early = target.model.get_image_features(**batch, return_dict=True)
    with vtokens.attach(target, SPEC):
        expected = target(**text, **types, **batch).logits
        with pytest.raises(
            ValueError, match=r"mm_encoder_outputs\['image'\] was computed before the strategy was attached"
        ):
            target(**text, **types, **grid, mm_encoder_outputs={"image": early})
        late = target.model.get_image_features(**batch, return_dict=True)
        assert torch.equal(target(**text, **types, **grid, mm_encoder_outputs={"image": late}).logits, expected)
