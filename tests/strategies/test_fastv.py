"""`fastv` against the attention maps of eager copies of the models."""

import pytest
import torch
from torch import Tensor

import vtokens
from tests.families import FAMILIES, image, inputs
from tests.limits import close_pass
from tests.strategies.helpers import kept, pair, probe, report, three_rows, top
from vtokens.core.compat import returned_cache
from vtokens.core.layout import Layout
from vtokens.core.picture import Picture
from vtokens.strategies import Attention, Visuals

PROMPTS = ["Is there a cat?", "Compare <image> with <image> please, and say which one is red", "hello there"]


def batch_of(family: str, side: str) -> dict:
    """One, two and no images, padded on either side."""
    pictures = [[image(100, 60, seed=0)], [image(84, 112, seed=1), image(84, 84, seed=2)], []]
    return inputs(pair(family)[1], PROMPTS, pictures, padding_side=side)


@torch.no_grad()
def maps(family: str, batch: dict) -> tuple[Tensor, ...]:
    """Per layer (B, N, N): attention of an eager copy, averaged over heads."""
    eager, _ = pair(family, attn_implementation="eager")
    return tuple(layer.mean(1) for layer in eager(**batch, output_attentions=True).attentions)


def visual_positions(family: str, batch: dict) -> list[list[list[int]]]:
    """For each row and picture, the positions of its visual tokens; read from a report of an unpruned layer 0."""
    token = pair(family)[0].config.image_token_id
    out = []
    for row, sample in enumerate(report(pair(family)[0], batch, "fastv(keep=1)").samples):
        places = (batch["input_ids"][row] == token).nonzero().flatten().tolist()
        rows, first = [], 0
        for part in sample.pictures:
            own = places[first : first + len(part.picture)]
            rows.append([place for place, view in zip(own, part.picture.view.tolist(), strict=True) if view >= 0])
            first += len(part.picture)
        assert first == len(places)
        out.append(rows)
    return out


def text_after(family: str, batch: dict, row: int, first: int) -> list[int]:
    """Real positions after `first` that are no placeholders: newline tokens belong to their picture."""
    text = batch["attention_mask"][row].bool() & (batch["input_ids"][row] != pair(family)[0].config.image_token_id)
    return [place for place in text.nonzero().flatten().tolist() if place > first]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("layer", [1, 3])
def test_last_row_of_the_layer_before(family: str, side: str, layer: int) -> None:
    """Scores are the eager attention of the last real position in layer K-1; each picture keeps its own best."""
    model, batch = pair(family)[0], batch_of(family, side)
    attention, valid = maps(family, batch)[layer - 1], batch["attention_mask"].bool()
    last = [int(row.nonzero().max()) for row in valid]
    rows = torch.stack([attention[b, last[b]] for b in range(3)])
    signal = Attention(layer - 1, "last")
    seen = probe(model, batch, signal)[signal]
    close_pass(seen[valid], rows[valid])
    places = visual_positions(family, batch)
    expected = [top(rows[b][own], 3) for b, pictures in enumerate(places) for own in pictures]
    assert kept(model, batch, f"fastv(keep=3, layer={layer})") == expected
    full = [list(range(len(own))) for pictures in places for own in pictures]
    assert kept(model, batch, f"fastv(keep=3, layer={layer})", layer - 1) == full


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_the_first_row_behind_the_pictures(family: str, side: str) -> None:
    """One row of the eager matrix, or the last where nothing stands behind; of a prompt without pictures too."""
    model, batch = pair(family)[0], batch_of(family, side)
    attention, valid = maps(family, batch)[1], batch["attention_mask"].bool()
    signal = Attention(1, "after")
    seen = probe(model, batch, signal)[signal]
    for b in range(len(valid)):
        image = (batch["input_ids"][b] == model.config.image_token_id).nonzero().flatten().tolist()
        last = int(valid[b].nonzero().max())
        row = min(image[-1] + 1, last) if image else last
        close_pass(seen[b][valid[b]], attention[b, row][valid[b]])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_all_text_is_the_mean_over_text_rows(family: str, side: str) -> None:
    """Rows are the text positions from the first visual token on, between pictures and after them."""
    model, batch = pair(family)[0], batch_of(family, side)
    attention, valid = maps(family, batch)[1], batch["attention_mask"].bool()
    signal = Attention(1, "text")
    seen = probe(model, batch, signal)[signal]
    places, expected = visual_positions(family, batch), []
    for b, pictures in enumerate(places):
        visual = [place for own in pictures for place in own]
        if not visual:
            continue
        text = text_after(family, batch, b, visual[0])
        mean = attention[b, text].mean(0)
        close_pass(seen[b][valid[b]], mean[valid[b]])
        expected += [top(mean[own], 3) for own in pictures]
    assert kept(model, batch, "fastv(keep=3, query_scope=all_text)") == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_pool_sample_ranks_all_pictures_of_a_prompt_together(family: str) -> None:
    """The same budget, spent where the scores are: over the union, against picture by picture."""
    model, batch = pair(family)[0], batch_of(family, "left")
    row = maps(family, batch)[1][1, -1]
    pictures = visual_positions(family, batch)[1]
    union = [place for own in pictures for place in own]
    best = {union[rank] for rank in top(row[union], 10)}
    expected = [[rank for rank, place in enumerate(own) if place in best] for own in pictures]
    assert kept(model, batch, "fastv(keep=5, pool=sample)")[1:] == expected
    assert [len(ranks) for ranks in kept(model, batch, "fastv(keep=5, pool=image)")[1:]] == [5, 5]
    samples = [report(model, batch, f"fastv(keep=0.4, pool={pool})").samples[1] for pool in ("sample", "image")]
    assert samples[0].visual_tokens == samples[1].visual_tokens


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_keeping_everything_is_the_identity(family: str) -> None:
    """R = 0: logits are the untouched model's, bit for bit, also where the strategy is consulted and drops none."""
    model, batch = pair(family)[0], three_rows(family)
    plain = model(**batch).logits
    for spec in ("fastv(keep=1.0)", "fastv(keep=0.999)"):
        with vtokens.attach(model, spec):
            assert torch.equal(model(**batch).logits, plain)


@torch.no_grad()
def test_caches_are_short_from_layer_k_on() -> None:
    """[S] * K + [S'] * (L - K) keys are really held, while every layer counts the positions that were fed."""
    model, processor = pair("llava")
    batch = inputs(processor, ["Is there a cat?"], [[image(60, 60, seed=0)]])
    length = batch["input_ids"].shape[1]
    for layer in (1, 2, 3):
        with vtokens.attach(model, f"fastv(keep=4, layer={layer})"):
            cache = returned_cache(model(**batch, use_cache=True))
        held = [part.keys.shape[2] for part in cache.layers]
        assert held == [length] * layer + [length - 12] * (4 - layer)
        assert {part.get_seq_length() for part in cache.layers} == {length}


def test_four_scores_by_hand() -> None:
    """s = [.1, .4, .2, .3] with two to keep gives tokens 1 and 3; of equal scores the earlier stays."""
    visual = torch.tensor([[False, True, True, True, True, False]])
    layout = Layout.build({"image": visual}, {"image": [Picture.of([(1, 2, 2)], [False])]}, torch.ones_like(visual))
    visuals = Visuals(torch.zeros(1, 6, 8), layout, "image", observed=None)  # type: ignore[arg-type]
    for scores, expected in (
        ([0.1, 0.4, 0.2, 0.3], [1, 3]),
        ([0.2, 0.2, 0.2, 0.2], [0, 1]),
        ([0.0, 0.3, 0.0, 0.0], [0, 1]),
    ):
        selection = visuals.top(torch.tensor([scores]), 2)
        assert selection.keep[0].nonzero().flatten().tolist() == expected
        assert selection.counts == (2,)


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("fastv(layer=0)", ValueError, r"layer=0 is out of range for a model with 4 layers: 1 to 3 .* nearest is 1"),
        ("fastv(layer=4)", ValueError, r"layer=4 is out of range .* the nearest is 3"),
        ("fastv(layer=-1)", ValueError, r"layer=-1 is out of range"),
        ("fastv(layer=1.5)", TypeError, r"layer=1.5 is not allowed: a whole number is"),
        ("fastv(layer=true)", TypeError, r"layer=True is not allowed: a whole number is"),
    ],
)
def test_layers_out_of_range_are_refused(spec: str, error: type[Exception], message: str) -> None:
    """At attach time."""
    model = pair("llava")[0]
    with pytest.raises(error, match=message.replace("from 0", "from [01]")):
        vtokens.attach(model, spec)
    assert vtokens.attachment(model) is None


@torch.no_grad()
def test_a_count_beyond_the_tokens_there_are_is_refused() -> None:
    """keep=17 of 16: only the call can know, and it says so; the next call is not disturbed."""
    model, processor = pair("llava")
    batch = inputs(processor, ["x"], [[image(60, 60, seed=0)]])
    with vtokens.attach(model, "fastv(keep=17)"), pytest.raises(ValueError, match=r"keep=17 .* 16 visual tokens"):
        model(**batch)
    plain = model(**batch).logits
    assert torch.equal(model(**batch).logits, plain)
