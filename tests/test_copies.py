"""An attached model may be copied, pickled, saved and dropped like any other."""

import copy
import gc
import json
import pickle
import weakref

import torch

import vtokens
from tests.families import build, image, inputs


def attached():
    model, processor = build("llava_next")
    batch = inputs(processor, ["Is there a cat?"], [[image(84, 112, seed=0)]])
    return model, batch, vtokens.attach(model, "cls", keep=0.25)


def test_a_deep_copy_prunes_by_itself():
    model, batch, handle = attached()
    before = model(**batch).logits
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for weight in twin.parameters():
            weight.mul_(1.01)
    assert not torch.equal(twin(**batch).logits, before)  # its own weights, its own tower
    assert vtokens.attachment(twin).report().samples[0].visual_tokens == (16,) * 4
    vtokens.detach(twin)
    assert vtokens.attachment(model) is handle
    assert torch.equal(model(**batch).logits, before)


def test_a_dropped_model_is_collected():
    model, batch, handle = attached()
    model(**batch)
    alive = weakref.ref(model)
    del model, handle
    gc.collect()
    assert alive() is None


def test_a_pickled_model_prunes_by_itself():
    model, batch, _ = attached()
    twin = pickle.loads(pickle.dumps(model))
    assert torch.equal(twin(**batch).logits, model(**batch).logits)
    assert vtokens.attachment(twin).report().samples[0].visual_tokens == (16,) * 4


def test_saving_an_attached_model_saves_the_plain_model(tmp_path):
    model, batch, handle = attached()
    model.save_pretrained(tmp_path)
    assert "vtokens" not in json.dumps(json.loads((tmp_path / "config.json").read_text()))
    handle.detach()
    twin = type(model).from_pretrained(tmp_path).eval()
    assert torch.equal(twin(**batch).logits, model(**batch).logits)
