"""Maps of where words are (GEM) against float64 loops over a genuine CLIP, and `vtokens heads relevance`."""

from __future__ import annotations

import copy
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import vtokens
from tests.families import build, image
from tests.families.processors import tokenizer
from tests.limits import close_pass
from tests.strategies.helpers import pair
from tests.strategies.test_cdpruner import Clip
from tests.test_cli import failure
from vtokens.adapters import adapter_for
from vtokens.calibrate.relevance import RelevanceMap, relevance
from vtokens.calibrate.self_attention import SelfSelfPath
from vtokens.cli import main
from vtokens.core.prompts import encode_prompts, question_prompt
from vtokens.report.relevance import drawn

PICTURES = [image(56, 56, seed=0), image(100, 70, seed=1)]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    """With gains in the norms before attention: rows of one length would hide how lengths are averaged."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        made = Clip(tmp_path_factory.mktemp("clip"))
        torch.manual_seed(0)
        for block in made.model.vision_model.encoder.layers:
            block.layer_norm1.weight.add_(torch.randn(32))
        made.model.save_pretrained(made.clip)
        made.llava.model.vision_tower.load_state_dict(made.model.vision_model.state_dict(), strict=False)
    return made


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def softmax(row: np.ndarray) -> np.ndarray:
    powers = np.exp(row - row.max())
    return powers / powers.sum()


def linear(module: Any, rows: np.ndarray) -> np.ndarray:
    return rows @ module.weight.double().numpy().T + module.bias.double().numpy()


def attended(scores_of: np.ndarray, values: np.ndarray, sharpness: float) -> np.ndarray:
    """Each token by itself: how like it is to every other, and what these weigh."""
    rows = unit(scores_of)
    weights = [softmax(np.array([sharpness * float(one @ other) for other in rows])) for one in rows]
    return np.array([sum(w * value for w, value in zip(row, values, strict=True)) for row in weights])


@torch.no_grad()
def by_loops(tower: Any, pixels: torch.Tensor, blocks: range, iterations: int, temperature: float | None) -> np.ndarray:
    """float64 (B, N, C): the path behind the last of `blocks`, picture by picture, head by head, token by token."""
    exact = copy.deepcopy(tower).double()
    states = exact(pixels.double(), output_hidden_states=True).hidden_states
    found = []
    for number in range(len(pixels)):
        beside = states[blocks[0]][number].numpy()
        for at in blocks:
            block = exact.encoder.layers[at]
            entering = block.layer_norm1(states[at][number]).numpy()
            attention, width = block.self_attn, block.self_attn.head_dim
            sharpness = np.mean([np.sqrt((row**2).sum()) for row in entering]) / np.sqrt(width)
            sharpness = sharpness if temperature is None else 1 / temperature
            parts = [linear(getattr(attention, f"{name}_proj"), entering) for name in "qkv"]
            heads = []
            for head in range(attention.num_heads):
                query, key, value = (part[:, head * width : (head + 1) * width] for part in parts)
                three = []
                for like in (query, key, value):
                    for _ in range(iterations):
                        like = attended(like, unit(like), sharpness)
                    three.append(attended(like, value, sharpness))
                heads.append(np.mean(three, axis=0))
            beside = beside + linear(attention.out_proj, np.concatenate(heads, axis=1))
        found.append(beside)
    return np.array(found)


@torch.no_grad()
def in_clips_words(clip: Clip, rows: np.ndarray, text: str) -> np.ndarray:
    """float64 (...,): cosines of a text with rows (..., C), through the norm and the projection of a CLIP."""
    model = clip.model
    norm, ids = model.vision_model.post_layernorm, [int(one) for one in clip.reads(text)["input_ids"]]
    assert len(ids) <= 12
    pooled = model.text_model(input_ids=torch.tensor([ids])).last_hidden_state[0, int(np.argmax(ids))]
    said = model.text_projection.weight.double().numpy() @ pooled.double().numpy()
    rows = (rows - rows.mean(-1, keepdims=True)) / np.sqrt(rows.var(-1, keepdims=True) + norm.eps)
    rows = rows * norm.weight.double().numpy() + norm.bias.double().numpy()
    return unit(rows @ model.visual_projection.weight.double().numpy().T) @ unit(said)


def given(processor: Any, picture: Image.Image) -> Any:
    return encode_prompts(processor, [question_prompt(processor, "Where?")], [[picture]])


def close_maps(found: RelevanceMap, view: int, expected: np.ndarray) -> None:
    close_pass(torch.from_numpy(found.grid(view)), torch.from_numpy(expected).float(), size=1.0)


@pytest.mark.parametrize(("depth", "iterations", "temperature"), [(None, 1, None), (3, 0, None), (2, 2, 0.2)])
def test_maps_are_those_of_loops(clip: Clip, depth: int | None, iterations: int, temperature: float | None) -> None:
    maps = relevance(
        clip.llava, clip.processor, PICTURES, ["red", "blue cat"], text_model=str(clip.clip), depth=depth,
        iterations=iterations, temperature=temperature, template="one {}",
    )  # fmt: skip
    blocks = range(4 - (depth or 2), 4)
    for picture, both in zip(PICTURES, maps, strict=True):
        pixels = given(clip.processor, picture)["pixel_values"]
        rows = by_loops(clip.llava.model.vision_tower, pixels, blocks, iterations, temperature)[0, 1:]
        for one, text in zip(both, ["red", "blue cat"], strict=True):
            assert (one.text, one.stand_in) == (text, False)
            close_maps(one, 0, in_clips_words(clip, rows, f"one {text}").reshape(4, 4))


def test_defaults_are_those_that_are_documented(clip: Clip) -> None:
    def scores(**more: Any) -> np.ndarray:
        return relevance(clip.llava, clip.processor, PICTURES[0], "cat", text_model=str(clip.clip), **more)[0][0].scores

    told = {"template": "a photo of a {}.", "depth": 2, "iterations": 1, "temperature": None}
    assert np.array_equal(scores(), scores(**told))


def test_tiles_of_a_picture_are_put_together(clip: Clip) -> None:
    """The thumbnail, and 2 x 2 tiles in their places; a column that LLaVA-NeXT adds holds no patch."""
    model, processor = build("llava_next")
    model.model.vision_tower.load_state_dict(clip.model.vision_model.state_dict(), strict=False)
    picture = image(112, 112, seed=2)
    [[found]] = relevance(model, processor, [picture], ["cat"], text_model=str(clip.clip), template="{}")
    pixels = given(processor, picture)["pixel_values"][0]
    assert len(pixels) == 5
    rows = by_loops(model.model.vision_tower, pixels, range(2, 4), 1, None)[:, 1:]
    tiles = in_clips_words(clip, rows, "cat").reshape(5, 4, 4)
    close_maps(found, 0, tiles[0])
    close_maps(found, 1, np.block([[tiles[1], tiles[2]], [tiles[3], tiles[4]]]))
    assert found.picture.grids == ((1, 4, 4), (1, 8, 8))
    assert (found.scores[found.picture.view < 0] == 0).all()
    assert (found.picture.view < 0).sum() == 8


@torch.no_grad()
@pytest.mark.parametrize(("family", "last"), [("llava", 2), ("paligemma", 3)])
def test_the_stand_in_ends_where_features_are_taken(family: str, last: int) -> None:
    """Of CLIP's tower and of SigLIP's: rows of loops through the model's own projector, cosines with embeddings."""
    model, processor = pair(family)
    [[cat]] = relevance(model, processor, PICTURES[:1], "red cat", depth=2)
    assert cat.stand_in
    pixels, tower = given(processor, PICTURES[0])["pixel_values"], adapter_for(model).tower
    rows = torch.from_numpy(by_loops(tower.module, pixels, range(last - 1, last + 1), 1, None)).float()
    made = rows[:, 1:] if tower.has_cls else tower.module.post_layernorm(rows)
    features = model.model.multi_modal_projector(made)[0].double().numpy()
    words = tokenizer(family)
    ids = words("a red cat", add_special_tokens=False)["input_ids"]
    ids = ids[len(words("a", add_special_tokens=False)["input_ids"]) :]
    embedded = model.get_input_embeddings().weight[ids].double().numpy()
    expected = np.mean([unit(features) @ unit(one) for one in embedded], axis=0)
    close_maps(cat, 0, expected.reshape(cat.grid(0).shape))


@torch.no_grad()
def test_depth_0_is_the_model_itself_and_what_is_attached_does_not_act() -> None:
    model, processor = pair("llava")
    batch = given(processor, PICTURES[0])
    features = model.model.get_image_features(batch["pixel_values"], return_dict=True).pooler_output[0]
    [[found]] = relevance(model, processor, PICTURES[0], "cat", depth=0)
    ids = processor.tokenizer("a cat", add_special_tokens=False)["input_ids"][1:]
    embedded = torch.nn.functional.normalize(model.get_input_embeddings().weight[ids], dim=-1)
    expected = (torch.nn.functional.normalize(features, dim=-1) @ embedded.T).mean(1)
    close_maps(found, 0, expected.numpy().reshape(4, 4))
    [[alone]], before = relevance(model, processor, PICTURES[0], "cat"), model(**batch).logits
    with vtokens.attach(model, "downsample(keep=0.25)") as handle:  # which shows the tower less
        [[attached]] = relevance(model, processor, PICTURES[0], "cat")
        model(**batch)
        assert handle.report().samples[0].average_tokens < 16
    assert np.array_equal(alone.scores, attached.scores)
    assert torch.equal(before, model(**batch).logits)  # no hook stays


@torch.no_grad()
def test_other_threads_are_left_alone() -> None:
    model, processor = pair("llava")
    pixels, adapter = given(processor, PICTURES[0])["pixel_values"], adapter_for(model)

    def features(_: int = 0) -> torch.Tensor:
        with torch.no_grad():
            return model.model.get_image_features(pixels, return_dict=True).pooler_output[0]

    path, plain = SelfSelfPath(replaces=True), features()
    with path.beside(adapter.tower, 2, 2), ThreadPoolExecutor(1) as pool:
        assert torch.equal(*pool.map(features, range(1)), plain)
        assert path.found == []
        assert not torch.allclose(features(), plain, atol=1e-3)


def test_bfloat16_is_near_float32(clip: Clip) -> None:
    half = copy.deepcopy(clip.llava).to(torch.bfloat16)
    found = [
        relevance(one, clip.processor, PICTURES[0], "cat", text_model=str(clip.clip))[0][0].scores
        for one in (clip.llava, half)
    ]
    assert found[1].dtype == np.float32
    assert np.corrcoef(*found)[0, 1] > 0.99


def test_what_cannot_be_done_is_refused(clip: Clip) -> None:
    def refused(says: str, family: str = "llava", texts: Any = "cat", **more: Any) -> None:
        with pytest.raises(ValueError, match=says):
            relevance(*pair(family), PICTURES[0], texts, **more)

    refused("of this 'qwen2_5_vl' model is a 'qwen2_5_vl.*as 'llava'", "qwen2_5_vl")
    refused(r"vision_feature_layer=\[-2, -3, 1\] of this 'vipllava'.*give text_model", "vipllava")
    refused("no projection of patches is known", "gemma3", text_model=str(clip.clip))
    refused("depth=4 is out of range: 0 to 3 blocks", depth=4)
    refused("iterations=-1", iterations=-1)
    refused("temperature=0 is out of range", temperature=0)
    refused("temperature=1e-300 is out of range: a number from 1e-09 on", temperature=1e-300)
    refused("give that too, or neither", template="{}")
    refused("has no place for the text", template="a photo", text_model=str(clip.clip))
    refused("a word or a phrase is needed", texts=[])
    refused("a word or a phrase is needed", texts=["cat", " "])
    [[tiled]] = relevance(*pair("aya_vision"), image(112, 56, seed=0), "cat")
    with pytest.raises(ValueError, match="cut this image into 3 tiles"):
        drawn([tiled], PICTURES[0], pair("aya_vision")[1])


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example = vtokens.scenes.examples("test", n=1, kinds=["where"])[0]
    thing = next(one for one in example.scene.visible if one.name in example.question)
    photo, out = tmp_path / "scene.png", tmp_path / "map"
    example.image.save(photo)
    call = ["heads", "relevance", "scenes-llava", str(photo), thing.name, "purple diamond"]
    assert "is empty: it cannot be left out" in failure(capsys, *call, " ")
    main([*call, "--out", f"{out}.png"])
    told = capsys.readouterr().out
    assert "a stand-in" in told
    assert f"{thing.name}: cosine" in told
    picture = np.asarray(Image.open(f"{out}.png").convert("RGB"), dtype=float)
    assert picture.shape[1] == 2 * 480 + 8
    main([*call, "--out", f"{out}.json", "--depth", "0"])  # the tower's own patches, which know it here
    [first, second] = json.loads(Path(f"{out}.json").read_text(encoding="utf-8"))["maps"]
    assert (first["text"], second["text"]) == (thing.name, "purple diamond")
    grid = np.array(first["views"][-1])
    row, column = np.unravel_index(grid.argmax(), grid.shape)
    left, top, right, bottom = thing.box
    assert left <= 8 * column + 7
    assert 8 * column < right
    assert top <= 8 * row + 7
    assert 8 * row < bottom
    assert f"row {row + 1} of 12, column {column + 1} of 12" in capsys.readouterr().out
    assert "knows no 'triangel'. Did you mean 'triangle'?" in failure(capsys, *call[:4], "red triangel")
    assert "names no kind of picture" in failure(capsys, *call, "--out", str(tmp_path / "map.nothing"))
    assert "there is no model" in failure(capsys, *call, "--text-model", str(tmp_path / "nowhere"))
