"""Decoder layers that keep a state in place of keys: what is dropped never enters it; what needs keys is refused."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import StaticCache

import vtokens
from tests.engine.cases import model
from tests.engine.compare import DETAILS, GREEDY, PROMPTS, ragged
from tests.engine.contrasted import ruled_out
from tests.engine.shortened import Shortened
from tests.families import STATEFUL, build, image, inputs
from tests.limits import close_pass
from tests.strategies.helpers import registry_restored
from vtokens.adapters.registry import adapter_class
from vtokens.core.compat import as_cache, returned_cache
from vtokens.strategies import Evictor, Steerer, register

pytestmark = pytest.mark.usefixtures("no_grad")
SPECS = [
    "random(keep=0.4)",
    "cls(keep=3)",
    "fastv(keep=0.3, layer=2)",
    "cls(keep=0.6)+fastv(keep=0.5, layer=2)",
    "todre(keep=0.5, exit_threshold=2.0)",
    "uniform(keep=0.5)+dropping(keep=0.8, layer=1)+dropping(keep=0.5, layer=3)",
]
LARGE = {"num_hidden_layers": 8, "layer_types": (["linear_attention"] * 3 + ["full_attention"]) * 2}


@pytest.fixture(autouse=True)
def _strategies() -> Any:
    with registry_restored():

        @register("dropping", paper="of this test")
        @dataclass(frozen=True)
        class Dropping(vtokens.strategies.ScorePruner):
            """Keeps the first tokens, before any layer: those that keep a state too."""

            stage = "layer"
            layer: int = 1

            def score(self, visuals: Any) -> Tensor:
                return -torch.arange(visuals.valid.shape[1]).expand_as(visuals.valid).float()

        yield


@cache
def spaced() -> Any:
    """A model of eight layers, of which the fourth and the last have attention."""
    return build("qwen3_5", text_config=LARGE)[0]


def rows(family: str, side: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A ragged batch of three, and each of its samples alone."""
    groups = [[image(100, 60, seed=0)], [image(84, 112, seed=1), image(60, 60, seed=2)], []]
    whole = dict(inputs(family, PROMPTS, groups, side))  # type: ignore[arg-type]
    return whole, [dict(inputs(family, [text], [group])) for text, group in zip(PROMPTS, groups, strict=True)]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("family", STATEFUL)
def test_each_sample_is_the_decoder_on_its_shortened_sequence(family: str, spec: str, side: str) -> None:
    """Over prompt and steps, alone and at its original positions; padding of either kind never enters a state."""
    pruned, plain, (batch, alone) = model(family, "pruned"), model(family, "plain"), rows(family, side)
    with vtokens.attach(pruned, spec) as handle:
        logits = pruned(**batch).logits
        report = handle.report()
        got = pruned.generate(**batch, **GREEDY, **DETAILS) if side == "left" else None
    for row, (sample, own) in enumerate(zip(report.samples, alone, strict=True)):
        first = int(batch["attention_mask"][row].nonzero()[0, 0])
        kept = [(positions - first).tolist() for positions in sample.positions]
        oracle = Shortened(plain)
        expected = oracle.prompt(own, kept)
        close_pass(logits[row, torch.as_tensor(kept[-1]) + first], expected)
        if got is not None:
            said = got.sequences[row, batch["input_ids"].shape[1] :]
            close_pass(got.logits[0][row], expected[-1])
            close_pass(torch.stack([step[row] for step in got.logits[1:]]), oracle.say(said[:-1]))


@pytest.mark.parametrize("spec", SPECS[1:4])
def test_a_later_turn_goes_on_from_states_and_keys(spec: str) -> None:
    """Text, then another picture, behind a pruned prompt."""
    target, plain = model("qwen3_5", "pruned"), model("qwen3_5", "plain")
    first = dict(inputs("qwen3_5", ["Look: <image> what?"], [[image(100, 60, seed=3)]]))
    text = inputs("qwen3_5", ["And why is it so?"])["input_ids"]
    second = dict(inputs("qwen3_5", ["Or <image> then?"], [[image(84, 112, seed=4)]]))
    with vtokens.attach(target, spec) as handle:
        output = target(**first, use_cache=True)
        kept = [positions.tolist() for positions in handle.report().samples[0].positions]
        oracle = Shortened(plain)
        close_pass(output.logits[0, kept[-1]], oracle.prompt(first, kept))
        keys = as_cache(target, returned_cache(output))
        fed = first["input_ids"].shape[1]
        assert keys[next(iter(keys))].get_seq_length() == fed
        mask = torch.ones(1, fed + text.shape[1], dtype=torch.long)
        places = (oracle.following + torch.arange(text.shape[1])).expand(3, 1, -1)
        output = target(input_ids=text, attention_mask=mask, position_ids=places, use_cache=True, **keys)
        close_pass(output.logits[0], oracle.say(text[0]))
        fed += text.shape[1]
        ids = second["input_ids"]
        mask = torch.ones(1, fed + ids.shape[1], dtype=torch.long)
        places, _ = plain.model.get_rope_index(
            ids, second["mm_token_type_ids"], image_grid_thw=second["image_grid_thw"]
        )
        places = places + oracle.following
        output = target(**{**second, "attention_mask": mask}, position_ids=places, **keys)
        kept = [positions.tolist() for positions in handle.report().samples[0].positions]
    features = plain.model.get_image_features(second["pixel_values"], second["image_grid_thw"], return_dict=True)
    hidden = plain.get_input_embeddings()(ids)
    hidden[ids == plain.config.image_token_id] = torch.cat([*features.pooler_output])
    close_pass(output.logits[0, kept[-1]], oracle.feed(hidden, places, kept))


def test_samples_that_would_be_padded_behind_a_cache_are_refused() -> None:
    """A state that holds something decays under padding."""
    target, batch = model("qwen3_5", "pruned"), ragged("qwen3_5")
    with vtokens.attach(target, "cls(keep=0.5)"):
        keys = as_cache(target, returned_cache(target(**batch, use_cache=True)))
        mask = torch.cat([batch["attention_mask"], batch["attention_mask"]], 1)
        with pytest.raises(ValueError, match=r"decays under the padding.*with a batch of one"):
            target(**{**batch, "attention_mask": mask}, **keys)


def frames(config: Any) -> dict[str, Any]:
    """One sample with a video of three frames before a picture; the time stands in front of each frame."""
    generator = torch.Generator().manual_seed(0)
    start, end = torch.tensor([config.vision_start_token_id]), torch.tensor([config.vision_end_token_id])
    text, video = torch.arange(65, 75), torch.full((6,), config.video_token_id)
    parts = [text]
    for number in range(3):
        parts += [torch.arange(80, 82) + number, start, video, end]
    ids = torch.cat([*parts, text, start, torch.full((4,), config.image_token_id), end, text[:5]])[None]
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == config.image_token_id).int() + 2 * (ids == config.video_token_id).int(),
        "pixel_values_videos": torch.randn(3 * 4 * 6, 3 * 2 * 14 * 14, generator=generator),
        "video_grid_thw": torch.tensor([[3, 4, 6]]),
        "pixel_values": torch.randn(16, 3 * 2 * 14 * 14, generator=generator),
        "image_grid_thw": torch.tensor([[1, 4, 4]]),
    }


@pytest.mark.parametrize("family", [family for family in STATEFUL if adapter_class(family).anatomy.sees_frames])
@pytest.mark.parametrize("spec", SPECS[1:4])
def test_a_video_beside_a_picture(family: str, spec: str) -> None:
    target, plain = model(family, "pruned"), model(family, "plain")
    batch = frames(target.config)
    with vtokens.attach(target, spec) as handle:
        logits, report = target(**batch).logits, handle.report()
    assert {one.picture.modality for one in report.samples[0].pictures} == {"video", "image"}
    kept = [positions.tolist() for positions in report.samples[0].positions]
    assert len(kept[-1]) < batch["input_ids"].shape[1]
    close_pass(logits[0, kept[-1]], Shortened(plain).prompt(batch, kept))


def test_layers_without_attention_are_refused_where_attention_is_needed() -> None:
    """The nearest layer that has it is named, and what acts in every layer acts in those that have it."""
    target = spaced()

    @register("forgetting", paper="of this test")
    @dataclass(frozen=True)
    class Forgetting(Evictor):
        """Drops keys by how far back they are."""

        layers: tuple[int, ...] | None = None

        def score(self, keys: Any) -> Tensor:
            return torch.arange(keys.key.shape[2]).expand(len(keys.key), -1).float()

    for spec, said in (
        ("fastv", r"decoder layer 1, .* layers 3, 7 have attention, the nearest is 3: layer=4 leads there"),
        ("fastv(layer=7)", "the nearest is 7: layer=8 leads there"),
        ("vhr(layers=(3, 5))", "inside the attention of decoder layer 5, .* the nearest is 3"),
        # Half of each head turns, and what turned is undone on whole heads.
        ("dynamic_llava(layer=4)", r"Attention\(rotary=False\) undoes rotates dimension d of a head with d \+ D/2"),
        ("forgetting(layers=(6,))", "drops cached keys of decoder layer 6, .* the nearest is 7"),
        ("dymu(thresholds=(0.2, 0.2, 0.2))", r"all of their positions, and 6 of the 8 layers .*unmerge=False"),
    ):
        with pytest.raises(ValueError, match=said):
            vtokens.attach(target, spec)
    assert vtokens.attachment(target) is None
    batch = ragged("qwen3_5")
    for spec in ("fastv(layer=4)", "vhr", "todre", "forgetting", "dymu(thresholds=(0.2, 0.2, 0.2), unmerge=False)"):
        with vtokens.attach(target, spec):
            assert target.generate(**batch, **GREEDY).shape[1] == batch["input_ids"].shape[1] + 5


def test_what_is_noted_at_a_state_follows_beams() -> None:
    """A steerer that notes something of each sample in layer 0 finds it there at each step, for the right beam."""
    met: list[tuple[Tensor, Tensor]] = []

    @register("noting", paper="of this test")
    @dataclass(frozen=True)
    class Noting(Steerer):
        """Notes which samples there are, and how often they were seen."""

        layers: tuple[int, ...] | None = (0, 1)

        def steer(self, states: Any) -> None:
            count, before = states.recall("count"), states.recall("samples")
            samples = torch.arange(len(states.hidden)) if states.is_image_prefill else before
            states.remember("samples", samples)
            states.remember("count", torch.zeros(len(samples)) if count is None else count + 1)
            met.append((samples, states.recall("count")))

    target, batch = model("qwen3_5", "pruned"), ragged("qwen3_5")
    with vtokens.attach(target, "cls(keep=0.5)+noting"):
        target.generate(**batch, **GREEDY, num_beams=2)
    assert len(met) == 2 * 5
    for step, (samples, count) in enumerate(met):
        assert (samples // 2).tolist() == [0, 0, 1, 1, 2, 2]
        assert count.tolist() == [step // 2] * 6


@pytest.mark.parametrize("spec", ["cls(keep=0.5)", "fastv(keep=0.3, layer=2)", "cls(keep=0.5)+vcd"])
def test_a_static_cache_answers_as_a_dynamic_one(spec: str) -> None:
    target, batch = model("qwen3_5", "pruned"), ragged("qwen3_5")
    with vtokens.attach(target, spec):
        expected = target.generate(**batch, **GREEDY)
        got = target.generate(**batch, **GREEDY, cache_implementation="static")
        keys = StaticCache(
            config=target.config.get_text_config(decoder=True), max_cache_len=batch["input_ids"].shape[1] + 5
        )
        given = target.generate(**batch, **GREEDY, **as_cache(target, keys))
    assert torch.equal(got, expected)
    assert torch.equal(given, expected)


def test_speculation_is_refused_by_transformers_itself() -> None:
    target, batch = model("qwen3_5", "pruned"), dict(inputs("qwen3_5", ["<image> is?"], [[image(60, 60, seed=0)]]))
    with (
        vtokens.attach(target, "cls(keep=0.5)"),
        pytest.raises(ValueError, match="assisted generation is not supported"),
    ):
        target.generate(**batch, **GREEDY, assistant_model=model("qwen3_5", "plain"))


@pytest.mark.parametrize("spec", ["none", "cls(keep=0.5)", "fastv(keep=0.3, layer=2)"])
def test_the_report_counts_keys_alone(spec: str) -> None:
    """Bytes are those of the layers that have keys."""
    target, batch = model("qwen3_5", "pruned"), dict(inputs("qwen3_5", ["<image> is?"], [[image(100, 60, seed=0)]]))
    with vtokens.attach(target, spec) as handle:
        layers = returned_cache(target(**batch, use_cache=True)).layers
        held = sum(part.nbytes for layer in layers[1::2] for part in (layer.keys, layer.values))
        assert [hasattr(layer, "keys") for layer in layers] == [False, True] * 2
        assert handle.report().kv_bytes == held


@pytest.mark.parametrize("spec", ["vcd(seed=3)", "cls(keep=0.5)+pai"])
def test_both_states_of_a_contrast_take_several_tokens_at_once(spec: str) -> None:
    """A later turn of text by one call answers as by one call a token, also where rows differ in their padding."""
    target, batch = model("qwen3_5", "pruned"), ragged("qwen3_5")
    text = inputs("qwen3_5", ["And why is it so?"])["input_ids"].expand(3, -1)
    fed, found = batch["input_ids"].shape[1], []
    with vtokens.attach(target, spec):
        for width in (text.shape[1], 1):
            output = target(**batch, use_cache=True, logits_to_keep=1)
            keys, seen = as_cache(target, returned_cache(output)), []
            for start in range(0, text.shape[1], width):
                part = text[:, start : start + width]
                mask = torch.cat([batch["attention_mask"], torch.ones_like(text[:, : start + width])], 1)
                places = (40 + start + torch.arange(width)).expand(3, 3, -1)
                told = {"attention_mask": mask, "position_ids": places, "logits_to_keep": width}
                seen.append(target(input_ids=part, use_cache=True, **told, **keys).logits)
            assert next(iter(keys.values())).get_seq_length() == fed + text.shape[1]
            found.append(torch.cat(seen, 1))
    one, other = map(ruled_out, found)
    assert torch.equal(one.isinf(), other.isinf())
    close_pass(one.nan_to_num(neginf=0), other.nan_to_num(neginf=0))
