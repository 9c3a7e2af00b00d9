"""`cdpruner` against stored outputs of the release, determinants tried one by one, the worked example, and a CLIP."""

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import CLIPConfig, CLIPModel, LlavaForConditionalGeneration

import vtokens
from tests.families import build, image, inputs
from tests.families.configs import CLIP
from tests.families.processors import tokenizer
from tests.limits import close_pass
from tests.strategies import invariants
from tests.strategies.helpers import pair
from tests.strategies.invariants import Shown, drawn, numbers, phi, picks
from vtokens.strategies import Facts, parse
from vtokens.strategies.base import needs_of
from vtokens.strategies.text_tower import _loaded as text_towers

STORED = Path(__file__).parent / "parity" / "cdpruner.npz"
"""Three drawn pictures and the tokens that the repository Theia-4869/CDPruner (commit ed9c12d, `encode_images` of
llava/model/llava_arch.py, one picture a call, in float32 on a CPU) keeps of them. torch seed 20261129; features are one
of 8 Gaussian centres each, plus 0.8 of noise; patches and texts, in CLIP's space, Gaussian in 24 channels, with 1, 2, 3
cuts of text; all rounded to float16. (tokens, width, kept) = (144, 96, 24), (100, 32, 30), (64, 48, 12)."""


def matrix(picture: Shown) -> np.ndarray:
    """L in float64, from the formula: relevance is minus the picture's, rescaled."""
    unit, relevance = numbers(picture)[0], -picture.relevance.double().numpy()
    weight = (relevance - relevance.min() + 1e-6) / (relevance.max() - relevance.min())
    return weight[:, None] * (unit @ unit.T) * weight


@pytest.mark.parametrize("number", range(3))
def test_the_release_keeps_the_same_tokens_of_the_same_relevance(number: int) -> None:
    stored = np.load(STORED)
    tokens, patches, texts = (
        torch.from_numpy(stored[f"{name}_{number}"].astype(np.float32)) for name in ("features", "patches", "texts")
    )
    relevance = torch.cosine_similarity(patches[:, None], texts[None], dim=-1).mean(1)
    expected = stored[f"kept_{number}"].tolist()
    assert picks(f"cdpruner(keep={len(expected)})", Shown(tokens, relevance=relevance)) == [expected]


def test_the_worked_example() -> None:
    """Phi with relevance by its saliency: 0, then 3, which is the best of all pairs."""
    picture = phi()
    picture = Shown(picture.tokens, relevance=-picture.saliency)
    assert [picks(f"cdpruner(keep={count})", picture)[0] for count in (1, 2)] == [[0], [0, 3]]
    whole = matrix(picture)
    assert max(combinations(range(6), 2), key=lambda two: np.linalg.det(whole[np.ix_(two, two)])) == (0, 3)
    gains = [whole[i, i] - whole[0, i] ** 2 / whole[0, 0] for i in range(1, 6)]
    np.testing.assert_allclose(gains, [0.0193, 0, 0.36, 0.0187, 0], atol=6e-5)


def test_each_choice_raises_the_determinant_most() -> None:
    """Every candidate's determinant computed whole, at every step."""
    for seed in range(3):
        picture = drawn(seed, 17)
        whole, chosen = matrix(picture), list[int]()
        for _ in range(6):
            rest = [one for one in range(17) if one not in chosen]
            chosen.append(max(rest, key=lambda one: np.linalg.det(whole[np.ix_([*chosen, one], [*chosen, one])])))
        assert picks("cdpruner(keep=6)", picture) == [sorted(chosen)]


def test_once_nothing_new_is_left_the_most_relevant_follow() -> None:
    """Two channels span all: two tokens by determinant, and no token twice, whatever rounding leaves."""
    picture = drawn(5, 12, width=2)
    relevance = -picture.relevance
    (two,), (five,) = picks("cdpruner(keep=2)", picture), picks("cdpruner(keep=5)", picture)
    rest = sorted((one for one in range(12) if one not in two), key=lambda one: -float(relevance[one]))
    assert five == sorted([*two, *rest[:3]])


def test_equal_relevance_is_plain_diversity() -> None:
    """theta = 0 weighs all alike, and so does relevance that is the same everywhere."""
    picture = drawn(2, 25)
    flat = Shown(picture.tokens, relevance=torch.full((25,), 0.3))
    assert picks("cdpruner(keep=8)", flat) == picks("cdpruner(keep=8, theta=0.0)", picture)
    assert picks("cdpruner(keep=8)", picture) != picks("cdpruner(keep=8, theta=0.0)", picture)
    assert picks("cdpruner(keep=8, negated=false)", picture) != picks("cdpruner(keep=8)", picture)


@pytest.mark.parametrize("theta", ["1.0", "-0.2", "nan"])
def test_settings_that_make_no_sense_are_refused(theta: str) -> None:
    with pytest.raises(ValueError, match="theta"):
        vtokens.attach(pair("llava")[0], f"cdpruner(theta={theta})")


def test_invariants() -> None:
    invariants.hold("cdpruner(keep=5)")
    invariants.keeps_all("cdpruner")


class Clip:
    """A genuine CLIP beside a LLaVA that has its vision tower, both saved as users have them."""

    def __init__(self, folder: Path) -> None:
        self.clip, self.vlm = folder / "clip", folder / "llava"
        reads, words = tokenizer("gemma3"), tokenizer("llava")
        config = CLIPConfig(
            text_config={
                "hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
                "vocab_size": len(reads), "max_position_embeddings": 12, "projection_dim": 20,
                "initializer_factor": 9.0,
                # As in the checkpoints of old, whose texts are pooled at the largest id.
                "eos_token_id": 2, "bos_token_id": reads.bos_token_id,
            },
            vision_config={**CLIP, "projection_dim": 20},
            projection_dim=20,
        )  # fmt: skip
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            self.model = CLIPModel(config).eval()
            for part in (self.model.visual_projection, self.model.vision_model.post_layernorm):
                part.weight.data.add_(0.5 * torch.randn_like(part.weight))
        self.reads, self.words = reads, words
        self.model.save_pretrained(self.clip)
        reads.save_pretrained(self.clip)
        made, processor = build("llava")
        made.model.vision_tower.load_state_dict(self.model.vision_model.state_dict(), strict=False)
        made.save_pretrained(self.vlm)
        processor.save_pretrained(self.vlm)
        self.llava, self.processor = LlavaForConditionalGeneration.from_pretrained(self.vlm).eval(), processor

    def relevance(self, pixels: torch.Tensor, text: str) -> np.ndarray:
        """float64 (patches,), by the release's formula in numpy: of one picture and one prompt."""
        ids = [int(one) for one in self.reads(text)["input_ids"]]
        cuts, texts = [ids[start : start + 12] for start in range(0, len(ids), 12)], list[np.ndarray]()
        for cut in cuts:  # each by itself, without padding: what stands behind a token does not change it
            pooled = self.model.text_model(input_ids=torch.tensor([cut])).last_hidden_state[0, int(np.argmax(cut))]
            texts.append(self.model.text_projection.weight.double().numpy() @ pooled.double().numpy())
        hidden = self.llava.model.vision_tower(pixels, output_hidden_states=True).hidden_states[-2][0, 1:]
        rows, norm = hidden.double().numpy(), self.model.vision_model.post_layernorm
        rows = (rows - rows.mean(1, keepdims=True)) / np.sqrt(rows.var(1, keepdims=True) + norm.eps)
        rows = rows * norm.weight.double().numpy() + norm.bias.double().numpy()
        rows = rows @ self.model.visual_projection.weight.double().numpy().T
        found = [[row @ one / np.linalg.norm(row) / np.linalg.norm(one) for one in texts] for row in rows]
        return np.array(found).mean(1)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    with torch.no_grad():
        return Clip(tmp_path_factory.mktemp("clip"))


PROMPTS = ("<image> red square?", "first <image> then <image> describe the picture in detail: how many are there?")


@torch.no_grad()
def test_relevance_to_clips_words(clip: Clip) -> None:
    """The largest determinant by the release's formula, in a ragged batch: several pictures, texts of several cuts."""
    pictures = [[image(56, 56, seed=0)], [image(56, 56, seed=1), image(56, 56, seed=2)]]
    batch = inputs(clip.processor, list(PROMPTS), pictures)
    with vtokens.attach(clip.llava, "cdpruner(keep=4)", text_model=str(clip.clip)) as handle:
        clip.llava(**batch)
        kept = [picture.kept[0].tolist() for row in handle.report().samples for picture in row.pictures]
        half = next(iter(text_towers.values()))
        assert clip.llava.generate(**batch, num_beams=2, max_new_tokens=2, do_sample=False).shape[0] == 2
    features = clip.llava.model.get_image_features(batch["pixel_values"], return_dict=True).pooler_output
    texts, expected = ["red square?", *["then  describe the picture in detail: how many are there?"] * 2], []
    assert len(clip.reads(texts[1])["input_ids"]) > 24
    for pixels, tokens, text in zip(batch["pixel_values"], features, texts, strict=True):
        relevance = clip.relevance(pixels[None], text)
        states = clip.llava.model.vision_tower(pixels[None], output_hidden_states=True).hidden_states[-2][0, 1:]
        close_pass(
            half.seen(states) @ half.read([text, "", text], states.device)[2], torch.from_numpy(relevance).float()
        )
        whole, chosen = matrix(Shown(tokens, relevance=torch.from_numpy(relevance))), list[int]()
        while len(chosen) < 4:
            rest = [one for one in range(16) if one not in chosen]
            chosen.append(max(rest, key=lambda one: np.linalg.det(whole[np.ix_([*chosen, one], [*chosen, one])])))
        expected.append(sorted(chosen))
    assert kept == expected
    with vtokens.attach(clip.llava, f"cdpruner(keep=4, text_model={str(clip.clip)!r})+vista") as handle:
        clip.llava(**batch)  # whose rehearsal is a sequence of the same words
        assert kept == [picture.kept[0].tolist() for row in handle.report().samples for picture in row.pictures]
    with vtokens.attach(clip.llava, "cdpruner(keep=4)") as handle:
        clip.llava(**batch)
        assert kept != [picture.kept[0].tolist() for row in handle.report().samples for picture in row.pictures]


@torch.no_grad()
def test_a_clip_is_loaded_once_and_named_in_specs(clip: Clip) -> None:
    batch = inputs(clip.processor, ["<image> red square?"], [[image(56, 56, seed=0)]])
    spec = f"cdpruner(keep=4, text_model={str(clip.clip)!r}, tokenizer={str(clip.vlm)!r})"
    with vtokens.attach(clip.llava, spec) as handle:
        assert vtokens.strategies.parse(handle.strategy) == vtokens.strategies.parse(spec)
        clip.llava(**batch)
        one = handle.report().samples[0].pictures[0].kept[0].tolist()
        loaded = next(iter(text_towers.values()))
        with handle.using([spec]):  # another plan, the same CLIP
            clip.llava(**batch)
            assert len(text_towers) == 1
            assert next(iter(text_towers.values())) is loaded
        embeds = clip.llava.get_input_embeddings()(batch["input_ids"])
        rest = {name: part for name, part in batch.items() if name != "input_ids"}
        with pytest.raises(ValueError, match="given as inputs_embeds"):
            clip.llava(**rest, inputs_embeds=embeds)
    made = build("llava")[0]  # of a config: nobody knows its tokenizer
    made.load_state_dict(clip.llava.state_dict())
    with pytest.raises(ValueError, match=r"not known where this model was loaded from.*tokenizer="):
        vtokens.attach(made, "cdpruner", text_model=str(clip.clip))
    with vtokens.attach(made, spec) as handle:
        made(**batch)
        assert handle.report().samples[0].pictures[0].kept[0].tolist() == one


def test_words_are_waited_for_where_they_are_read() -> None:
    facts = Facts("llava", depth=4, tower_depth=4, has_cls=True)
    waits = [needs_of(parse(f"cdpruner{given}")[0], facts).waits for given in ("", "(text_model='some/clip')")]
    assert waits == ["", "the words of the prompt"]


def test_what_is_no_clip_of_this_model_is_refused(clip: Clip, tmp_path: Path) -> None:
    def refused(target: Any, says: str, folder: Path, **more: Any) -> None:
        with pytest.raises(ValueError, match=says):
            vtokens.attach(target, "cdpruner", text_model=str(folder), **more)

    refused(clip.llava, "there is no model", tmp_path / "nowhere")
    refused(clip.llava, "is a 'llava', no whole CLIP", clip.vlm)
    clip.model.text_model.save_pretrained(tmp_path / "half")
    refused(clip.llava, "is a 'clip_text_model', no whole CLIP", tmp_path / "half")
    refused(pair("qwen2_5_vl")[0], "tower of this 'qwen2_5_vl' model is a 'qwen2_5_vl.*leave text_model out", clip.clip)
    refused(clip.llava, "'.*nowhere' has no tokenizer", clip.clip, tokenizer=str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="tokenizer='x' tells what text_model"):
        vtokens.attach(clip.llava, "cdpruner(tokenizer=x)")


def test_a_clip_of_another_shape_or_weights(clip: Clip, tmp_path: Path) -> None:
    """Another shape is refused, with both named; a tower that was trained further is told of."""
    config: Any = CLIPConfig.from_pretrained(clip.clip)
    config.vision_config.hidden_size, config.vision_config.intermediate_size = 48, 96
    CLIPModel(config).save_pretrained(tmp_path / "wide")
    clip.reads.save_pretrained(tmp_path / "wide")
    with pytest.raises(ValueError, match=r"'clip_vision_model-4x48-14-56'.*'clip_vision_model-4x32-14-56'"):
        vtokens.attach(clip.llava, "cdpruner", text_model=str(tmp_path / "wide"))
    other = LlavaForConditionalGeneration.from_pretrained(clip.vlm)
    other.model.vision_tower.embeddings.patch_embedding.weight.data.mul_(1.5)
    with pytest.warns(UserWarning, match="trained further"):
        vtokens.attach(other, "cdpruner", text_model=str(clip.clip))
