"""`vtw`: from a layer on there is text alone."""

import pytest
import torch

import vtokens
from tests.engine.masked import masking
from tests.limits import close_pass
from tests.strategies.helpers import pair, report
from tests.strategies.staging import FAMILIES
from tests.strategies.test_fastv import batch_of
from vtokens.strategies import Facts, get, parse


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_layers_behind_it_see_the_text_alone(family: str) -> None:
    """Logits of the text are those of a copy whose later layers have every placeholder masked."""
    batch = batch_of(family, "left")
    model, eager = pair(family)[0], pair(family, attn_implementation="eager")[0]
    visual = batch["input_ids"] == model.config.image_token_id
    text = batch["attention_mask"].bool() & ~visual
    sees = [torch.zeros_like(visual), torch.zeros_like(visual), visual, visual]
    with vtokens.attach(model, "vtw"):
        got = model(**batch).logits
    if family == "llava_next":  # newline tokens always stay
        tokens = [sample.positions[2] for sample in report(model, batch, "vtw").samples]
        for row, places in enumerate(tokens):
            visual[row, torch.from_numpy(places)] = False
    with masking(eager, sees):
        expected = eager(**batch).logits
    close_pass(got[text], expected[text])


def test_the_layer_is_a_number_or_a_share_of_the_depth() -> None:
    """The released 15 of 32, in proportion elsewhere."""
    for depth, layer in ((32, 15), (28, 13), (40, 19), (4, 2), (2, 1)):
        needs = get("vtw")().needs(Facts("llava", depth=depth, tower_depth=4, has_cls=True))
        assert needs.layer == (layer,)
    with pytest.raises(ValueError, match=r"layer=1\.5 is out of range"):
        parse("vtw(layer=1.5)")
    with pytest.raises(ValueError, match="layer=0 is out of range"):
        vtokens.attach(pair("llava")[0], "vtw(layer=0)")
    with pytest.raises(ValueError, match="of the 1 of this decoder 0 are possible"):
        get("vtw")().needs(Facts("llava", depth=1, tower_depth=4, has_cls=True))
