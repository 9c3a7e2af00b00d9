"""`cls` against attention maps of eager copies of the towers, and the identities that its scores obey."""

from typing import Any

import pytest
import torch

import vtokens
from tests.families import FAMILIES, build, image, inputs
from tests.limits import close_pass
from tests.strategies import invariants
from tests.strategies.helpers import SIDE, crops_of, kept, llava_scores, pair, probe, qwen_scores, three_rows, top
from vtokens.strategies import Saliency

CLIPS = ("llava", "llava_next")
LLAVAS = (*CLIPS, "llava_onevision")
QWENS = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
FEATURE_BLOCK = {
    "llava": 2, "llava_next": 2, "llava_onevision": 3, "qwen2_vl": 3, "qwen2_5_vl": 3, "qwen3_vl": 3,
}  # fmt: skip


def close(got: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    """Scores of all pictures agree up to a common positive factor of each picture, which no strategy looks at."""
    assert len(got) == len(expected) > 0
    for left, right in zip(got, expected, strict=True):
        assert left.shape == right.shape
        assert right.std() > 1e-3 * right.mean()  # or agreement would say nothing
        close_pass(left / left.sum(), right / right.sum())


@pytest.mark.parametrize("family", LLAVAS)
@pytest.mark.parametrize("keep", [1, 5, 0.5])
def test_llava_towers_keep_the_top_of_the_eager_map(family: str, keep: float) -> None:
    """The [CLS] row of the block that made the features (mean over rows for SigLIP), one or several crops an image."""
    model, batch = pair(family)[0], three_rows(family)
    expected = llava_scores(family, batch, FEATURE_BLOCK[family])
    close(probe(model, batch, Saliency())[Saliency()], expected)
    counts = [keep if keep >= 1 else (len(scores) + 1) // 2 for scores in expected]
    assert kept(model, batch, f"cls(keep={keep})") == [top(s, c) for s, c in zip(expected, counts, strict=True)]


@pytest.mark.parametrize("family", QWENS)
def test_qwen_towers_keep_the_top_of_the_mean_attention_received(family: str) -> None:
    """Each patch has a vote, four patches make a token, every picture stands for itself, in raster order."""
    model, batch = pair(family)[0], three_rows(family)
    expected = qwen_scores(model, batch, 3)
    close(probe(model, batch, Saliency())[Saliency()], expected)
    assert kept(model, batch, "cls(keep=4)") == [top(scores, 4) for scores in expected]


def test_qwen25_window_order_is_undone() -> None:
    """With full attention everywhere windows only permute rows: scores are those of a tower that never permutes."""
    everywhere = {"fullatt_block_indexes": [0, 1, 2, 3]}
    moved, processor = build("qwen2_5_vl", vision_config=everywhere)
    still, _ = build("qwen2_5_vl", vision_config={**everywhere, "window_size": 280})
    batch = inputs(processor, ["x"], [[image(84, 112, seed=1), image(140, 70, seed=3)]])
    expected = probe(still, batch, Saliency())[Saliency()]
    close(probe(moved, batch, Saliency())[Saliency()], expected)
    close(expected, qwen_scores(still, batch, 3))
    assert kept(moved, batch, "cls(keep=5)") == [top(scores, 5) for scores in expected]


def test_qwen25_windows_of_different_sizes_weigh_alike() -> None:
    """In a window block a patch of a small window gets no head start: the mean is over the whole picture's patches."""
    model, processor = pair("qwen2_5_vl")
    # 3 x 4 tokens in windows of 2 x 2: the last row of windows is half as high.
    batch = inputs(processor, ["x"], [[image(112, 84, seed=1), image(84, 140, seed=4)]])
    for block in (0, 2):
        expected = qwen_scores(model, batch, block)
        close(probe(model, batch, Saliency((block,)))[Saliency((block,))], expected)
        assert kept(model, batch, f"cls(keep=4, layers=({block},))") == [top(scores, 4) for scores in expected]


def test_qwen25_ensemble_of_window_and_full_blocks() -> None:
    """The blocks of an ensemble weigh alike too, windowed or not."""
    model, batch = pair("qwen2_5_vl")[0], three_rows("qwen2_5_vl")
    parts = [qwen_scores(model, batch, block) for block in (0, 3)]
    close(probe(model, batch, Saliency((0, 3)))[Saliency((0, 3))], [a + b for a, b in zip(*parts, strict=True)])


@pytest.mark.parametrize("family", CLIPS)
@torch.no_grad()
def test_scores_sum_to_what_cls_does_not_keep_for_itself(family: str) -> None:
    """sum_j a_j = 1 - a_[CLS][CLS], for one block and summed over several."""
    model, batch = pair(family)[0], three_rows(family)
    eager, _ = pair(family, attn_implementation="eager")
    tower = eager.model.vision_tower
    # A square image at the canvas's own size: nothing is unpadded away.
    batch = inputs(
        pair(family)[1], ["x"], [[image(112, 112, seed=5) if family == "llava_next" else image(56, 56, seed=5)]]
    )
    maps = tower(crops_of(batch)[0], output_attentions=True).attentions
    for blocks in ((2,), (0, 1, 3)):
        scores = probe(model, batch, Saliency(blocks))[Saliency(blocks)][0]
        expected = sum((1 - maps[block][:, :, 0, 0].mean(1)).sum() for block in blocks)
        torch.testing.assert_close(scores.sum(), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_one_named_block_and_ensembles(family: str) -> None:
    """layers=(the feature block,) is the default, counted from either end; an ensemble is the sum of its blocks."""
    model, batch = pair(family)[0], three_rows(family)
    block = FEATURE_BLOCK[family]
    default = kept(model, batch, "cls(keep=3)")
    assert kept(model, batch, f"cls(keep=3, layers=({block},))") == default
    assert kept(model, batch, f"cls(keep=3, layers=({block - 4},))") == default
    wanted = [Saliency((0,)), Saliency((1,)), Saliency((-1,)), Saliency((0, 1, 3))]
    log = probe(model, batch, *wanted, twice := Saliency((0, 1, 3, -1)))
    assert all(torch.equal(all_, same) for all_, same in zip(log[wanted[3]], log[twice], strict=True))
    for one, two, three, all_ in zip(*(log[signal] for signal in wanted), strict=True):
        torch.testing.assert_close(one + two + three, all_, rtol=1e-5, atol=1e-7)
    assert kept(model, batch, "cls(keep=3, layers=(0, 1, 3))") == [top(s, 3) for s in log[wanted[3]]]


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_limits(family: str) -> None:
    """One token is the best one, all tokens are the identity bit by bit, and what is kept stays in order."""
    model, batch = pair(family)[0], three_rows(family)
    scores = probe(model, batch, Saliency())[Saliency()]
    assert kept(model, batch, "cls(keep=1)") == [[int(s.argmax())] for s in scores]
    assert all(ranks == sorted(ranks) and len(ranks) > 1 for ranks in kept(model, batch, "cls(keep=0.4)"))
    plain = model(**batch).logits
    with vtokens.attach(model, "cls(keep=0.999)") as handle:  # consulted, unlike keep=1.0, and drops nothing
        assert torch.equal(model(**batch).logits, plain)
        assert all(min(s.visual_tokens) == max(s.visual_tokens) for s in handle.report().samples)


@torch.no_grad()
def test_pruning_commutes_with_the_projector() -> None:
    """What enters the decoder is the projector's output for the kept patches alone."""
    model, processor = pair("llava")
    batch = inputs(processor, ["Is there a cat?"], [[image(84, 56, seed=2)]])
    entered = {}
    with vtokens.attach(model, "cls(keep=5)") as handle:
        hook = model.model.language_model.layers[0].register_forward_pre_hook(
            lambda module, args, kwargs: entered.update(hidden=args[0] if args else kwargs["hidden_states"]),
            with_kwargs=True,
        )
        model(**batch)
        hook.remove()
        sample = handle.report().samples[0]
    chosen = sample.pictures[0].kept[0]
    patches = model.model.vision_tower(batch["pixel_values"], output_hidden_states=True).hidden_states[-2][:, 1:]
    expected = model.model.multi_modal_projector(patches[:, chosen])
    visual = batch["input_ids"][0][torch.from_numpy(sample.positions[0])] == processor.image_token_id
    close_pass(entered["hidden"][:, visual], expected)


@pytest.mark.parametrize("family", ["llava_next", "llava_onevision"])
def test_a_change_in_one_crop_moves_the_scores_of_its_tokens_only(family: str) -> None:
    """Of the canvas's four tiles, those that look the same score the same; the tile that changed scores anew."""
    model, processor = pair(family)
    before = image(112, 112, seed=5)
    for row, column in ((0, 1), (1, 0), (1, 1)):
        after = before.copy()
        after.paste((250, 250, 20), (56 * column, 56 * row, 56 * column + 56, 56 * row + 56))
        (old,), (new,) = (
            probe(model, inputs(processor, ["x"], [[p]]), Saliency())[Saliency()] for p in (before, after)
        )
        y, x = torch.meshgrid(torch.arange(2 * SIDE), torch.arange(2 * SIDE), indexing="ij")
        changed = ((y // SIDE == row) & (x // SIDE == column)).flatten()
        difference = (old - new).abs()[SIDE**2 :]
        assert len(difference) == len(changed)
        assert difference[~changed].max() < 1e-6
        assert difference[changed].max() > 1e-3


@pytest.mark.parametrize("family", ["llava_next", "llava_onevision"])
@pytest.mark.parametrize("strategy", ["random", "uniform", "cls", "fastv", "todre(exit_threshold=2.0)"])
def test_newlines_are_never_dropped(family: str, strategy: str) -> None:
    """Even where one token is kept, or none, every newline position reaches the last layer."""
    model, batch = pair(family)[0], three_rows(family)
    token = model.config.image_token_id
    with vtokens.attach(model, strategy, keep=1) as handle, torch.no_grad():
        model(**batch)
        samples = handle.report().samples
    for row, sample in enumerate(samples):
        places = (batch["input_ids"][row] == token).nonzero().flatten().tolist()
        views = [view for part in sample.pictures for view in part.picture.view.tolist()]
        newlines = {place for place, view in zip(places, views, strict=True) if view == -1}
        assert newlines <= set(sample.positions[-1].tolist())
        assert sample.visual_tokens[-1] <= len(sample.pictures)
        assert bool(newlines) == bool(sample.pictures)


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("cls(layers=(4,))", ValueError, r"layers=4 is out of range for a model with 4 layers: -4 to 3 is allowed"),
        ("cls(layers=(0, -5))", ValueError, r"layers=-5 .*the nearest is -4"),
        ("cls(layers=(0.5,))", TypeError, r"layers=\(0.5,\) is not allowed: a tuple of whole numbers or None is"),
        ("cls(layers=())", ValueError, r"layers=\(\) names no tower block"),
        ("cls(layers=-2)", TypeError, r"layers=-2 is not allowed: .* Did you mean layers=\(-2,\)\?"),
    ],
)
def test_blocks_out_of_range_are_refused(spec: str, error: type[Exception], message: str) -> None:
    """At attach time, with the model left as it was."""
    model: Any = pair("llava")[0]
    with pytest.raises(error, match=message):
        vtokens.attach(model, spec)
    assert vtokens.attachment(model) is None


@pytest.mark.parametrize(("layer", "block"), [(1, 0), (3, 2), (4, 3), (-1, 3), (-4, 0)])
def test_feature_layers_count_from_the_embeddings(layer: int, block: int) -> None:
    """Entry 0 of a tower's hidden states is its input, so entry 3, or -2 of five, is the output of block 2."""
    model, processor = build("llava", vision_feature_layer=layer)
    batch = inputs(processor, ["x"], [[image(60, 60, seed=0)]])
    close(probe(model, batch, Saliency())[Saliency()], llava_scores("llava", batch, block))


def test_invariants() -> None:
    invariants.hold("cls(keep=5)")
    invariants.keeps_all("cls")
