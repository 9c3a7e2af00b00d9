"""Cropping a cache in front of what strategies noted or dropped leaves what was fed, or is refused as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import DynamicCache

import vtokens
from tests.engine.cases import model
from tests.engine.compare import one, ragged
from tests.engine.test_attend_equals_dense import sinks
from tests.engine.test_window import made
from tests.families import FAMILIES, image, inputs
from tests.limits import close_pass
from vtokens.core.compat import as_cache, returned_cache

PLAIN = ("llava", "qwen2_5_vl")


def fed(target: Any, batch: dict[str, Any], **more: Any) -> tuple[Any, int]:
    """The cache after a prompt, and where its first picture begins."""
    cache = returned_cache(target(**batch, use_cache=True, **more))
    ids = batch["input_ids"][0]
    tokens = [getattr(target.config, name, None) for name in ("image_token_id", "video_token_id")]
    return cache, int(torch.stack([ids == token for token in tokens if token is not None]).any(0).nonzero()[0])


def text(target: Any, cache: Any) -> torch.Tensor:
    """Logits of five text tokens behind a cache."""
    past = cache.get_seq_length()
    ids, positions = torch.arange(65, 70)[None], torch.arange(past, past + 5)[None]
    decoder = target.model.language_model
    return decoder(
        inputs_embeds=target.get_input_embeddings()(ids), position_ids=positions, **as_cache(decoder, cache),
        attention_mask=torch.ones(1, past + 5, dtype=torch.long), use_cache=True,
    ).last_hidden_state  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("family", PLAIN)
def test_notes_about_a_picture_go_with_it(family: str, tmp_path: Path) -> None:
    """VAR notes sinks key by key; in front of the picture nothing of it is left, and text is text."""
    target, reference, batch = model(family, "pruned"), model(family, "plain"), one(family)
    with vtokens.attach(target, f"var(sinks={sinks(family, tmp_path)!r})"):
        cache, start = fed(target, batch)
        cache.crop(start - batch["input_ids"].shape[1])
        found = text(target, cache)
        assert all(not getattr(layer, "keymap", None) or not layer.keymap.memory for layer in cache.layers)
    plain, _ = fed(reference, batch)
    plain.crop(start - batch["input_ids"].shape[1])
    close_pass(found, text(reference, plain))


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("spec", ["vhr", "fastv(keep=0.4, layer=2)", "pai+vhr"])
def test_a_refused_crop_changes_no_layer(family: str, spec: str) -> None:
    """Layers are cropped one by one, so the first one knows what any of them has to refuse."""
    target, batch = model(family, "pruned"), one(family)
    with vtokens.attach(target, spec):
        cache, start = fed(target, batch)
        before = [layer.get_seq_length() for layer in cache.layers]
        with pytest.raises(ValueError, match="cannot crop"):
            cache.crop(start - batch["input_ids"].shape[1])
        assert [layer.get_seq_length() for layer in cache.layers] == before
        target(input_ids=torch.tensor([[70]]), **as_cache(target, cache))
        cache.crop(-1)
        assert [layer.get_seq_length() for layer in cache.layers] == before


@torch.no_grad()
def test_a_mask_that_is_no_padding_is_refused_in_later_passes_too() -> None:
    """A tree of candidates (4-D) cannot be cut to what is kept; without strategies it is the model's business."""
    target, batch = model("llava", "pruned"), one("llava")
    length = batch["input_ids"].shape[1]
    tree = torch.ones(1, 1, 3, length + 3).tril(length).bool()
    tree[..., 2, -2] = False
    more = {"input_ids": torch.tensor([[70, 71, 72]]), "attention_mask": tree}
    for spec in ("cls(keep=0.25)", "fastv(keep=0.25, layer=2)", "pai"):
        with vtokens.attach(target, spec):
            cache, _ = fed(target, batch)
            with pytest.raises(ValueError, match="only a 2-D attention_mask"):
                target(**more, **as_cache(target, cache))
    with vtokens.attach(target, "vhr"):  # drops nothing, and the mask is the model's own
        cache, _ = fed(target, batch)
        assert target(**more, **as_cache(target, cache)).logits.isfinite().all()


@torch.no_grad()
def test_a_window_around_a_layer_that_only_notes() -> None:
    """A contrasted cache goes on without its strategy: the sliding layer says itself how many keys it has."""
    target, processor = made("mistral", 30)
    batch = inputs(processor, ["a <image> b"], [[image(28, 28, seed=3)]])
    assert batch["input_ids"].shape[1] < 30
    with vtokens.attach(target, "pai"):
        cache = returned_cache(target(**batch, use_cache=True))
    assert isinstance(cache, DynamicCache)
    with vtokens.attach(target, "none"):
        for _ in range(4):
            assert target(input_ids=torch.arange(65, 69)[None], **as_cache(target, cache)).logits.isfinite().all()
        assert cache.get_seq_length() > 30


@torch.no_grad()
def test_an_answer_that_is_fed_as_embeddings_follows_another_prompt() -> None:
    """A contrast against another prompt answers inputs_embeds as it answers their tokens, whatever logits are asked."""
    target, batch = model("llava", "pruned"), ragged("llava")
    other = {name: batch[name] for name in ("input_ids", "attention_mask")}
    embeds = {name: value for name, value in batch.items() if name != "input_ids"}
    embeds["inputs_embeds"] = target.get_input_embeddings()(batch["input_ids"])
    with vtokens.attach(target, "lqcd") as handle, handle.negative_prompt(**other):
        for asked in (1, 3):
            expected = target(**batch, logits_to_keep=asked).logits
            close_pass(target(**embeds, logits_to_keep=asked).logits, expected)
