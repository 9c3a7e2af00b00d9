"""The code of docs/add-a-strategy.md and docs/add-a-model.md does what the pages say."""

import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

import vtokens
from tests.strategies import videos
from tests.strategies.helpers import kept, pair, registry_restored, three_rows
from vtokens.adapters import Adapter
from vtokens.core.compat import returned_cache
from vtokens.strategies import Facts, Keys, Needs, Selection, States, Visuals, get, parse
from vtokens.strategies.views.heads import Heads

DOCS = Path(__file__).parents[2] / "docs"


def blocks(page: str) -> list[str]:
    """The Python blocks of a page."""
    return re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def example() -> Iterator[dict[str, Any]]:
    """The names that the page's strategies and its test define, run as a module of this name would be."""
    names: dict[str, Any] = {"__name__": "docs_add_a_strategy"}
    with registry_restored():
        for block in blocks("add-a-strategy.md"):
            exec(compile(block, "docs/add-a-strategy.md", "exec"), names)
        yield names


def test_the_page_begins_with_a_pruner_of_ten_lines() -> None:
    """A newcomer has read all that is needed for it: three names of ours, in no more lines than that."""
    first = blocks("add-a-strategy.md")[0]
    assert len([line for line in first.splitlines() if line.strip()]) <= 10
    assert re.findall(r"^from vtokens.* import (.*)$", first, re.MULTILINE) == ["ScorePruner, Visuals, register"]


def test_the_example_passes_its_own_test(example: dict[str, Any]) -> None:
    """The test that the page shows, as it stands there."""
    example["test_the_longest_features_stay"]()


def test_the_example_is_a_full_strategy(example: dict[str, Any]) -> None:
    """Listed, described, parsed and refused like the built-in ones, and it runs on other families."""
    cls = get("norm")
    assert cls is example["Norm"]
    assert "norm" in vtokens.strategies("n*")
    card = vtokens.describe("norm")
    assert (card.summary, card.stages) == ("Keeps the tokens whose projected features are longest.", ("prompt",))
    assert parse("norm(keep=0.1)") == (cls(keep=0.1),)
    with pytest.raises(ValueError, match=r"unknown field of strategy 'norm': 'kep'.*keep"):
        parse("norm(kep=0.1)")
    model, batch = pair("qwen2_vl")[0], three_rows("qwen2_vl")
    assert [len(picture) for picture in kept(model, batch, "norm(keep=3)")] == [3, 3, 3]


def test_the_example_with_settings_acts_before_its_layer(example: dict[str, Any]) -> None:
    """The most and the least attended tokens have none in common; no layer before its own drops any."""
    assert vtokens.describe("asked").stages == ("layer",)
    with pytest.raises(ValueError, match="unknown order 'best'"):
        parse("asked(order=best)")
    for family in ("llava", "qwen2_vl"):
        model, batch = pair(family)[0], three_rows(family)
        most, least = (kept(model, batch, f"asked(keep=3, order={order})") for order in ("most", "least"))
        assert all(len(a) == len(b) == 3 and not {*a} & {*b} for a, b in zip(most, least, strict=True))
        everything = kept(model, batch, "asked(keep=3)", layer=1)
        assert all(len(all_) > 3 for all_ in everything)


def test_the_strategy_before_the_tower_shows_half_of_each_side(example: dict[str, Any]) -> None:
    """Four tokens of 16, in every family whose tower can; the decoder holds as many."""
    assert vtokens.describe("half").stages == ("pixels", "prompt")
    for family, counts in (("llava", [4, 4, 4]), ("qwen2_vl", None)):
        model, batch = pair(family)[0], three_rows(family)
        found = [len(picture) for picture in kept(model, batch, "half")]
        grids = batch.get("image_grid_thw")
        assert found == (counts or [max(1, h // 4) * max(1, w // 4) for _, h, w in grids.tolist()])


@torch.no_grad()
def test_the_pruner_of_videos_looks_at_the_first_frame(example: dict[str, Any]) -> None:
    """The tokens of each video that are farthest from what stood at their place in its first frame."""
    model, given = pair("qwen2_vl")[0], videos.batch("qwen2_vl", videos.SHAPES)
    features = model.model.get_video_features(
        given["pixel_values_videos"], given["video_grid_thw"], return_dict=True
    ).pooler_output
    found = kept(model, given, "strayed(keep=3)")
    for shape, part, own in zip(videos.SHAPES, features, found, strict=True):
        frames = part.view(shape[0], -1, part.shape[-1])
        far = (frames - frames[:1]).norm(dim=-1).flatten()
        assert own == far.argsort(descending=True, stable=True)[:3].sort().values.tolist()


def test_the_merger_keeps_pairs_that_are_not_alike(example: dict[str, Any]) -> None:
    """No pair at a cosine above 1, all pairs at one below -1, and those that the features say in between."""
    model, batch = pair("llava")[0], three_rows("llava")
    assert kept(model, batch, "twins(alike=1.1)") == [list(range(16))] * 3
    assert kept(model, batch, "twins(alike=-1.1)") == [list(range(0, 16, 2))] * 3
    with torch.no_grad():
        features = model.model.get_image_features(batch["pixel_values"], return_dict=True).pooler_output
    cosines = [torch.cosine_similarity(part[::2], part[1::2], dim=-1) for part in features]
    middle = float(torch.cat(cosines).median()) + 1e-4
    expected = [sorted([*range(0, 16, 2), *((row < middle).nonzero().flatten() * 2 + 1).tolist()]) for row in cosines]
    assert kept(model, batch, f"twins(alike={middle})") == expected


@torch.no_grad()
def test_the_steerer_adds_to_the_mlps_of_its_layers(example: dict[str, Any]) -> None:
    """As a model answers whose MLPs there are that much louder."""
    model, batch = pair("llava")[0], three_rows("llava")
    handles = [
        layer.mlp.register_forward_hook(lambda module, args, output: 1.5 * output)
        for layer in (model.model.language_model.layers[index] for index in (1, 3))
    ]
    expected = model(**batch).logits
    for handle in handles:
        handle.remove()
    with vtokens.attach(model, "firm(weight=0.5, layers=(1, 3))"):
        torch.testing.assert_close(model(**batch).logits, expected)
    assert not torch.allclose(model(**batch).logits, expected, atol=1e-3)


@torch.no_grad()
def test_the_evictor_leaves_the_prompt_and_shortens_the_cache(example: dict[str, Any]) -> None:
    """A quarter of the visual keys of each prompt stays in each layer, in each head those that are shortest."""
    model, batch = pair("llava")[0], three_rows("llava")
    plain = model(**batch, use_cache=True)
    with vtokens.attach(model, "short(keep=0.25)"):
        got = model(**batch, use_cache=True)
    assert torch.equal(got.logits, plain.logits)
    visual = batch["input_ids"] == model.config.image_token_id
    for mine, theirs in zip(returned_cache(got).layers, returned_cache(plain).layers, strict=True):
        left = batch["attention_mask"].sum(1) - visual.sum(1) * 3 // 4
        assert mine.keys.shape[2] == int(left.max())
        norms = theirs.keys.norm(dim=-1)
        for row, head in product(range(3), range(norms.shape[1])):
            best = norms[row, head, visual[row]].sort().values[: int(visual[row].sum()) // 4]
            kept = mine.keys[row, head].norm(dim=-1)
            assert all((kept - value).abs().min() == 0 for value in best)


@torch.no_grad()
def test_the_contraster_moves_away_from_the_other_prompt(example: dict[str, Any]) -> None:
    """As `contrast` does with the same weight and branch."""
    model, batch = pair("llava")[0], three_rows("llava")
    answers = []
    for spec in ("doubt(weight=0.7)", "contrast(alpha=0.7, branch='uniform(keep=0.5)')"):
        with vtokens.attach(model, spec):
            answers.append(model(**batch).logits[:, -1])
    assert torch.equal(*answers)
    assert not torch.equal(answers[0], model(**batch).logits[:, -1])


def test_the_pages_name_what_exists() -> None:
    """Every attribute in the tables is one, and every file the pages mention is there."""
    rows = re.findall(r"^\| `(\w+)", (DOCS / "add-a-strategy.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert {"tokens", "budgets", "top", "at_prompt", "at_layer"} <= set(rows)
    heads = {*Heads.__dataclass_fields__, *dir(Heads)}
    known = {*heads, *Needs.__dataclass_fields__, *States.__dataclass_fields__, *Keys.__dataclass_fields__, *dir(Keys)}
    assert all(hasattr(Visuals, name) or hasattr(get("fastv"), name) or name in known for name in rows)
    rows = re.findall(r"^\| `(\w+)\(", (DOCS / "add-a-model.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(rows) == Adapter.__abstractmethods__ | {"stretches", "packed", "of"}
    assert all(hasattr(Adapter, name) for name in rows)
    root = DOCS.parent
    for page in ("add-a-strategy.md", "add-a-model.md"):
        text = (DOCS / page).read_text(encoding="utf-8")
        for path in re.findall(r"`((?:vtokens|tests|examples|docs)/[\w/.-]+)`", text):
            made = path in ("vtokens/strategies/prune/norm.py", "docs/strategies/NAME.md")  # by whoever reads it
            assert made or (root / path).exists(), f"{page} names {path}"
    towers = {"tower_depth", "has_cls", "tower", "read_sample", "merge_blocks"}
    decoder = {"family", "depth", "width", "decoder", "linear", "tied", "source"}
    assert {f.name for f in Facts.__dataclass_fields__.values()} == decoder | towers
    assert set(Selection.__dataclass_fields__) == {"keep", "counts", "member", "weights", "sizes", "into", "share"}


def test_the_subset_is_spread(example: dict[str, Any]) -> None:
    """From the longest token on, each further one is the farthest from those kept."""
    model, batch = pair("llava")[0], three_rows("llava")
    with torch.no_grad():
        features = model.model.get_image_features(batch["pixel_values"], return_dict=True).pooler_output
    for tokens, found in zip(features, kept(model, batch, "spread(keep=4)"), strict=True):
        unit, chosen = torch.nn.functional.normalize(tokens.double(), dim=-1), [int(tokens.norm(dim=-1).argmax())]
        while len(chosen) < 4:
            chosen.append(int((unit @ unit[chosen].T).amax(1).argmin()))
        assert found == sorted(chosen)
