"""`dart` against its loop over pivots, and its budget."""

from typing import Any

import pytest
import torch
from torch.nn.functional import cosine_similarity

import vtokens
from tests.families import build, image, inputs
from tests.strategies.staging import FAMILIES, run
from vtokens.strategies import parse


def keys_of(found: Any, layer: int, row: int) -> Any:
    """float64 (N,): the L1 norm of each position's key, all heads together, rotary embedding applied."""
    caught: list[Any] = []
    attention = found.model.model.language_model.layers[layer].self_attn
    hook = attention.register_forward_pre_hook(lambda m, a, kwargs: caught.append(kwargs), with_kwargs=True)
    with torch.no_grad():
        found.model(**found.batch)
    hook.remove()
    states = caught[0]["hidden_states"]
    cos, sin = caught[0]["position_embeddings"]
    key = attention.k_proj(states).view(*states.shape[:2], -1, attention.head_dim).double()
    half = attention.head_dim // 2
    turned = torch.cat([-key[..., half:], key[..., :half]], -1)
    cos, sin = (part.double().expand(len(states), -1, -1)[:, :, None] for part in (cos, sin))
    return (key * cos + turned * sin).abs().sum((2, 3))[row]


@pytest.mark.parametrize("family", ["llava", "llava_next"])
@torch.no_grad()
def test_each_pivot_in_turn_takes_what_is_least_like_it(family: str) -> None:
    """Two visual pivots and three of the text, in rising places, share out what is left of ten tokens."""
    found = run(family, "dart(keep=10, visual_pivots=2, text_pivots=3, layer=2)")
    token = found.model.config.image_token_id
    for seen in found.pictures:
        lengths = keys_of(found, 1, seen.row)
        valid = found.batch["attention_mask"][seen.row].bool()
        words = [p for p in valid.nonzero().flatten().tolist() if found.batch["input_ids"][seen.row, p] != token]
        own = sorted(seen.places, key=lambda p: -float(lengths[p]))[:2]
        pivots = sorted(own + sorted(words, key=lambda p: -float(lengths[p]))[:3])
        states = found.model.model.language_model.norm(found.states[2])[seen.row].double()
        chosen, parts = {*own}, [2, 2, 2, 1, 1]
        for pivot, part in zip(pivots, parts, strict=True):
            free = [p for p in seen.places if p not in chosen]
            alike = {p: float(cosine_similarity(states[p], states[pivot], dim=0)) for p in free}
            chosen |= {*sorted(free, key=alike.__getitem__)[:part]}
        assert seen.left[2] == sorted(chosen)
        assert seen.left[1] == seen.places


@pytest.mark.parametrize("family", FAMILIES)
def test_the_budget_is_met(family: str) -> None:
    """Whatever is less than the pivots, more than the words, or all."""
    for settings, count in (
        ("keep=2", 2),
        ("keep=4, text_pivots=40", 4),
        ("keep=4, visual_pivots=0, text_pivots=9", 4),
        ("keep=0.999", None),
    ):
        for seen in run(family, f"dart({settings})").pictures:
            assert len(seen.left[2]) == (len(seen.places) if count is None else count)


@torch.no_grad()
def test_the_norm_behind_the_last_layer_is_found_or_missed_when_attaching() -> None:
    """LFM2-VL calls it otherwise: which tokens stay is what the loop above takes with that norm."""
    model, processor = build("lfm2_vl")
    batch = inputs(processor, ["what is <image> this?"], [[image(112, 112, seed=0)]])
    layer = 2  # the one before has attention
    with vtokens.attach(model, f"dart(keep=5, visual_pivots=1, text_pivots=0, layer={layer})") as handle:
        model(**batch)
        kept = handle.report().samples[0].pictures[0].kept[layer].tolist()
        states: list[torch.Tensor] = []
        hook = model.model.language_model.layers[layer].register_forward_pre_hook(lambda m, a: states.append(a[0]))
    with vtokens.attach(model, "none"):
        model(**batch)
    hook.remove()
    places = (batch["input_ids"][0] == model.config.image_token_id).nonzero()[:, 0]
    unit = model.model.language_model.embedding_norm(states[-1])[0, places]
    alike = torch.stack([cosine_similarity(unit, one[None], dim=-1) for one in unit])
    least = [sorted([pivot, *alike[pivot].argsort()[:4].tolist()]) for pivot in range(len(places))]
    assert kept in least
    decoder = model.model.language_model
    norm, decoder.embedding_norm = decoder.embedding_norm, None
    with pytest.raises(ValueError, match=f"'dart' reads states as the norm.*{type(decoder).__name__}.*embedding_norm"):
        vtokens.attach(model, f"dart(layer={layer})")
    decoder.embedding_norm = norm


def test_a_dart_without_pivots_is_refused() -> None:
    with pytest.raises(ValueError, match="one in all is needed"):
        parse("dart(visual_pivots=0, text_pivots=0)")
