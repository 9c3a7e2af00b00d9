"""The FLOPs formula against torch's own counter and the papers' figures; KV bytes against real caches."""

import inspect
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForImageTextToText, LlamaConfig, LlamaModel, Qwen2Config, Qwen2Model

import vtokens
from tests.families import ALL, FAMILIES, STATEFUL, build, image, inputs
from vtokens.adapters import adapter_for
from vtokens.adapters.output import features_of
from vtokens.core.budget import budget
from vtokens.core.compat import as_cache, returned_cache
from vtokens.core.costs import (
    call_flops,
    decode_flops,
    kv_bytes,
    prefill_flops,
    projector_flops,
    tower_flops,
)
from vtokens.core.layer_costs import layer_flops
from vtokens.eval.presets import preset, presets
from vtokens.eval.synthetic import default_size, noise

SIZES: dict[str, Any] = {
    "vocab_size": 50, "hidden_size": 64, "intermediate_size": 172, "num_hidden_layers": 3, "num_attention_heads": 8,
    "max_position_embeddings": 512,
}  # fmt: skip
DECODERS = {
    "llama": (LlamaModel, LlamaConfig(**SIZES, num_key_value_heads=8)),
    "qwen2": (Qwen2Model, Qwen2Config(**SIZES, num_key_value_heads=2)),
    "llama, wide heads": (LlamaModel, LlamaConfig(**SIZES, num_key_value_heads=4, head_dim=32)),
}


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(("batch", "length"), [(1, 40), (2, 300)])
@torch.no_grad()
def test_prefill_flops_are_what_torch_counts(name: str, attention: str, batch: int, length: int) -> None:
    """Within 1% on genuine decoders, short (projections weigh most) and long (attention does)."""
    cls, config = DECODERS[name]
    config._attn_implementation = attention
    model = cls(config).eval()
    # The CPU's fused kernel is unknown to the counter; the plain backend does the same products as matrix products.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(input_ids=torch.randint(0, 50, (batch, length)), use_cache=False)
    assert batch * prefill_flops(config, [length] * 3) == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_layers_of_different_lengths_add_up() -> None:
    """A prefill is the sum of its layers, each at its own length; keys default to the queries."""
    config = DECODERS["qwen2"][1]
    lengths = [50, 50, 20]
    assert prefill_flops(config, lengths) == 2 * layer_flops(config, 50) + layer_flops(config, 20)
    assert layer_flops(config, 30) == layer_flops(config, 30, 30)
    attention = layer_flops(config, 30, 60) - layer_flops(config, 30, 30)
    assert attention == 2 * 2 * 30 * 30 * 64  # two products of 30 queries with 30 keys more, a multiply-add being two


def counted(call: Any) -> FlopCounterMode:
    """What torch counts during `call()`, by module."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        call()
    return counter


def in_layers(call: Any) -> int:
    """What torch counts in the layers of a decoder during a call of it."""
    found = counted(call).get_flop_counts()
    layers = [name for name in found if ".layers." in name and name.count(".") == 2]
    assert layers
    return sum(sum(found[name].values()) for name in layers)


def pictures(family: str) -> tuple[Any, Any]:
    """A tiny model of `family` and a batch of two prompts of equal length, each with a wide and a tall picture."""
    model, processor = build(family)
    wide, tall = image(140, 84, seed=1), image(60, 200, seed=2)
    return model, inputs(processor, ["Is there a <image> cat?"] * 2, [[tall, wide], [tall, wide]])


SPECS = [
    None,
    "uniform(keep=0.3)",
    "fastv(keep=0.25, layer=2)",
    "cls(keep=3)",
    "cls(keep=0.5)+fastv(keep=0.5, layer=1)",
]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("strategy", SPECS)
@torch.no_grad()
def test_a_whole_call_is_what_torch_counts(family: str, strategy: str | None) -> None:
    """Tower, projector, prefill, decoding and head of `generate`, dense and pruned, to 1%.

    What scoring costs is no part of the formula. Where a tower has no class token, `cls` computes the products of
    queries and keys of the watched block once more, which is a share of so small a tower, and is added by name.
    """
    model, batch = pictures(family)
    config, adapter = model.config.get_text_config(), adapter_for(model)
    with vtokens.attach(model, strategy) as handle:
        options = {"min_new_tokens": 6, "max_new_tokens": 6, "do_sample": False}
        total = counted(lambda: model.generate(**batch, **options)).get_total_flops()
        report = handle.report()
    encoding = adapter.encoding("image", batch)
    lengths = [len(positions) for positions in report.samples[0].positions]
    ours = call_flops(config, encoding, lengths, 6, batch=2)
    scoring = 0
    if strategy and strategy.startswith("cls") and not adapter.tower.has_cls:
        scoring = 2 * encoding.width * sum(n * n for n in encoding.blocks[adapter.tower.feature_block])
    assert ours.total + scoring == pytest.approx(total, rel=0.01)
    assert ours.prefill == report.flops
    assert (strategy is None) == (report.flops == report.flops_full)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_each_part_of_the_encoder_is_what_torch_counts(family: str) -> None:
    """To the operation, projector and tower apart; windows, crops and frames included."""
    model, batch = pictures(family)
    counts = counted(lambda: model(**batch)).get_flop_counts()
    encoding = adapter_for(model).encoding("image", batch)
    name = type(model).__name__
    if family.startswith("qwen"):
        part = f"{name}.model.visual"
        # Qwen3-VL has a merger more for each block whose features go to the decoder too.
        mergers = [
            at for at in counts if at == f"{part}.merger" or at.rpartition(".")[0] == f"{part}.deepstack_merger_list"
        ]
        projector = sum(sum(counts[at].values()) for at in mergers)
        tower = sum(counts[part].values()) - projector
    else:
        tower = sum(counts[f"{name}.model.vision_tower"].values())
        projector = sum(counts[f"{name}.model.multi_modal_projector"].values())
    assert tower_flops(encoding) == tower
    assert projector_flops(encoding) == projector


@pytest.mark.parametrize("family", [family for family in (*ALL, *STATEFUL) if family not in FAMILIES])
@torch.no_grad()
def test_feature_calls_of_other_families_are_what_torch_counts(family: str) -> None:
    """Tower and projector together, to the operation."""
    model, batch = pictures(family)
    adapter = adapter_for(model)
    names = inspect.signature(adapter.multimodal.get_image_features).parameters
    given = {name: value for name, value in batch.items() if name in names}
    encoding = adapter.encoding("image", given)
    calls = counted(lambda: features_of(adapter, adapter.multimodal.get_image_features(**given)))
    assert tower_flops(encoding) + projector_flops(encoding) == calls.get_total_flops()


@pytest.mark.parametrize("family", STATEFUL)
@torch.no_grad()
def test_a_step_through_layers_that_keep_a_state_is_what_torch_counts(family: str) -> None:
    """One token behind a prompt, to the operation but for products with states, which are no matrix products there."""
    model, batch = pictures(family)
    model.set_experts_implementation("eager")  # whose matrix products are counted
    decoder, config = model.model.language_model, model.config.get_text_config()
    cache, length = returned_cache(model(**batch, use_cache=True)), batch["input_ids"].shape[1]
    token = torch.zeros(2, 1, config.hidden_size)
    total = in_layers(lambda: decoder(inputs_embeds=token, **as_cache(decoder, cache)))
    depth, products = config.num_hidden_layers, 0
    if hasattr(config, "linear_num_value_heads"):
        products = 2 * 3 * config.linear_num_value_heads * config.linear_value_head_dim * config.linear_key_head_dim
    ours = 2 * (decode_flops(config, [length] * depth, 1) - 2 * products)
    assert total == pytest.approx(ours, rel=0.01)


@torch.no_grad()
def test_video_frames_are_encoded_one_by_one() -> None:
    """LLaVA-OneVision projects every frame before pooling, Video-LLaVA class tokens too; Qwen attends in a frame."""
    for family in ("llava_onevision", "video_llava"):
        model, _ = build(family)
        given = {"pixel_values_videos": torch.randn(1, 3, 3, 56, 56)}
        total = counted(lambda: model.model.get_video_features(**given)).get_total_flops()  # noqa: B023
        encoding = adapter_for(model).encoding("video", given)
        assert tower_flops(encoding) + projector_flops(encoding) == total
    model, _ = build("qwen2_5_vl")
    given = {
        "pixel_values_videos": torch.randn(3 * 8 * 6, 3 * 2 * 14 * 14),
        "video_grid_thw": torch.tensor([[3, 8, 6]]),
    }
    total = counted(lambda: model.model.get_video_features(**given)).get_total_flops()
    encoding = adapter_for(model).encoding("video", given)
    assert tower_flops(encoding) + projector_flops(encoding) == total


def test_decoding_adds_up_step_by_step() -> None:
    """Each step has one query and one key more than the one before; no step costs nothing."""
    config, lengths = DECODERS["qwen2"][1], [50, 20, 20]
    steps = [sum(layer_flops(config, 1, length + t) for length in lengths) for t in range(1, 8)]
    assert decode_flops(config, lengths, 7) == sum(steps)
    assert decode_flops(config, lengths, 0) == 0


def paper_flops(n: float, d: int = 4096, m: int = 11008) -> float:
    """The FastV paper's 4 n d^2 + 2 n^2 d + 2 n d m."""
    return 4 * n * d * d + 2 * n * n * d + 2 * n * d * m


@pytest.mark.parametrize(
    ("layer", "drop", "ratio"),
    [(2, 0.5, 0.5516), (2, 0.75, 0.3322), (2, 0.9, 0.2021), (3, 0.5, 0.5666), (5, 0.5, 0.5964)],
)
def test_fastv_ratios(layer: int, drop: float, ratio: float) -> None:
    """The published ratios of LLaVA-1.5-7B at 36 + 576 positions, by the paper's own formula.

    Ours counts the third MLP matrix that the model has and the paper leaves out, so its ratio differs slightly; taking
    that matrix (2 n d m) out again gives exactly twice the paper's count, a multiply-add being two operations. The
    figures hold for the unrounded number of tokens (57.6 at a drop of 0.9); a model keeps a whole number.
    """
    config = SimpleNamespace(hidden_size=4096, intermediate_size=11008, num_attention_heads=32, num_key_value_heads=32)
    full, share = 612, 36 + 576 * (1 - drop)
    pruned = 36 + budget(576, 1 - drop)
    assert paper_flops(612) / 1e9 == pytest.approx(99.33, abs=0.005)
    paper = (layer * paper_flops(full) + (32 - layer) * paper_flops(share)) / (32 * paper_flops(full))
    assert paper == pytest.approx(ratio, abs=5e-5)
    for n in (full, pruned):
        assert layer_flops(config, n) - 2 * n * 4096 * 11008 == 2 * paper_flops(n)
    ours = prefill_flops(config, [full] * layer + [pruned] * (32 - layer)) / prefill_flops(config, [full] * 32)
    assert ours == pytest.approx(ratio, abs=0.005)


@pytest.mark.parametrize("name", presets())
def test_the_table_of_the_costs_page_is_fresh(name: str) -> None:
    """docs/costs.md, from the formula: one default picture, 40 text tokens, 128 new ones, bfloat16."""
    config = preset(name)
    with torch.device("meta"):
        adapter = adapter_for(AutoModelForImageTextToText.from_config(config))
    given = noise(config, 1, default_size(config), torch.Generator())
    picture, decoder = adapter.pictures("image", given)[0], config.get_text_config()
    positions, depth = len(picture) + 40, decoder.num_hidden_layers
    kept = positions - picture.tokens + budget(picture.tokens, 0.1)
    flops = call_flops(decoder, adapter.encoding("image", given), [positions] * depth, 128)
    tera = [flops.tower + flops.projector, flops.prefill, prefill_flops(decoder, [kept] * depth), flops.decode]
    figures = " | ".join(f"{value / 1e12:.2f}" for value in tera)
    kilo = kv_bytes(decoder, [1] * depth, 2) / 1e3
    page = (Path(__file__).parent.parent / "docs" / "costs.md").read_text(encoding="utf-8")
    shown = f"{name}, a tile" if config.model_type == "internvl" else name
    assert f"| {shown} | {picture.tokens:,} | {figures} | {kilo:.1f} kB |" in page


def test_the_comparisons_of_the_costs_page_are_right() -> None:
    """Layer averages and their FLOPs, short and long prompts; the share of attention; the factor to FastV's formula."""
    page = " ".join((Path(__file__).parent.parent / "docs" / "costs.md").read_text(encoding="utf-8").split())
    config = preset("llava-1.5-7b").get_text_config()

    def share(text: int, tokens: int, first: int, then: int) -> str:
        """Of the unpruned prefill, two layers seeing `first` of the visual tokens and 30 `then`."""
        full, pruned = [text + tokens] * 32, [text + first] * 2 + [text + then] * 30
        return f"{prefill_flops(config, pruned) / prefill_flops(config, full):.1%}"

    assert f"that is {share(36, 576, 576, 144)} of the unpruned prefill" in page
    assert f"against {share(36, 576, 171, 171)} for 171 tokens" in page
    assert f"it is {share(84, 2880, 2880, 288)} against {share(84, 2880, 450, 450)}." in page
    assert (2 * 2880 + 30 * 288) / 32 == 450
    assert f"{(2 * 576 + 30 * 58) / 32:.1f} tokens" in page
    assert f"{layer_flops(config, 612) / 1e9:.1f} G here" in page
    attention = [round(4 * n * 4096 / layer_flops(config, n) * n, 2) for n in (616, 2968)]
    assert attention == [0.02, 0.11]


def cached_bytes(cache: Any) -> int:
    """The bytes of the keys and values that a cache holds."""
    return sum(t.numel() * t.element_size() for layer in cache.layers for t in (layer.keys, layer.values))


@pytest.mark.parametrize("family", ["llava", "qwen2_vl"])
@pytest.mark.parametrize("strategy", [None, "fastv(keep=0.25, layer=2)", "uniform(keep=0.5)"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_kv_bytes_are_what_the_cache_holds(family: str, strategy: str | None, dtype: torch.dtype) -> None:
    """The report's bytes equal the storage of the keys and values after a real prefill, grouped heads or not."""
    model, processor = build(family)
    model = model.to(dtype)
    batch = inputs(processor, ["Is there a cat?"] * 2, [[image(84, 112, seed=1)], [image(100, 60, seed=2)]])
    full = returned_cache(model(**batch.to(dtype), use_cache=True))
    with vtokens.attach(model, strategy or "uniform(keep=0.9999)") as handle:
        cache = returned_cache(model(**batch.to(dtype), use_cache=True))
        report = handle.report()
    held, unpruned = cached_bytes(cache), cached_bytes(full)
    assert report.kv_bytes == held
    assert report.kv_bytes_full == unpruned
    assert report.kv_bytes_saved == unpruned - held
    assert (held < unpruned) == (strategy is not None)


@pytest.mark.parametrize("family", ALL)
@pytest.mark.parametrize("strategy", ["fastv(keep=0.25, layer=2)", "uniform(keep=0.5)"])
@torch.no_grad()
def test_kv_bytes_of_every_family_are_what_its_cache_holds(family: str, strategy: str) -> None:
    """Latents, keys that layers share and keys that are values included."""
    model, processor = build(family)
    batch = inputs(processor, ["Is there a cat?"] * 2, [[image(84, 112, seed=1)], [image(84, 112, seed=2)]])
    with vtokens.attach(model, strategy) as handle:
        held = cached_bytes(returned_cache(model(**batch, use_cache=True)))
        report = handle.report()
    assert report.kv_bytes == held
    assert report.kv_bytes_full == cached_bytes(returned_cache(model(**batch, use_cache=True)))


WINDOWS = {"cohere2_vision": "sliding_window", "mistral3": "sliding_window", "llama4": "attention_chunk_size"}


@pytest.mark.parametrize("family", [name for name in WINDOWS if name in ALL])
@pytest.mark.parametrize("cuts", [8, 24])
@torch.no_grad()
def test_what_windows_and_chunks_let_go_of_is_not_counted(family: str, cuts: int) -> None:
    """Bytes are those of the cache; steps cost less by what torch counts less, before and after a window is full."""
    (model, processor), (wide, _) = build(family, text_config={WINDOWS[family]: cuts}), build(family)
    batch = inputs(processor, ["what is it in this <image> picture?"], [[image(84, 84, seed=1)]])
    full = returned_cache(model(**batch, use_cache=True))
    with vtokens.attach(model, "fastv(keep=0.5, layer=2)") as handle:
        pruned = returned_cache(model(**batch, use_cache=True))
        report = handle.report()
    assert (report.kv_bytes, report.kv_bytes_full) == (cached_bytes(pruned), cached_bytes(full))
    lengths = [batch["input_ids"].shape[1]] * model.config.get_text_config().num_hidden_layers
    options = {"min_new_tokens": 7, "max_new_tokens": 7, "do_sample": False}
    narrow, plain = (counted(lambda m=m: m.generate(**batch, **options)).get_total_flops() for m in (model, wide))
    ours, theirs = (decode_flops(m.config.get_text_config(), lengths, 6) for m in (model, wide))
    assert ours - theirs == narrow - plain < 0


@torch.no_grad()
def test_equivalent_tokens() -> None:
    """Layers before K see everything: 576 tokens, K=2 of 32 layers, 144 kept are worth 171 tokens a layer."""
    assert (2 * 576 + 30 * 144) / 32 == 171
    model, processor = build("llava")
    with vtokens.attach(model, "fastv(keep=4, layer=1)") as handle:
        model(**inputs(processor, ["x"], [[image(60, 60, seed=0)]]))
        sample = handle.report().samples[0]
    assert sample.visual_tokens == (16, 4, 4, 4)
    assert sample.average_tokens == (1 * 16 + 3 * 4) / 4


def test_kv_bytes_by_hand() -> None:
    """Keys and values, 2 heads of 8, 4 bytes, 7 positions in all."""
    assert kv_bytes(DECODERS["qwen2"][1], [4, 2, 1], 4) == 2 * 2 * 8 * 4 * 7


@pytest.mark.parametrize(
    ("family", "more"),
    [("qwen3_vl_moe", {}), ("glm4v_moe", {}), ("kimi_k25", {}), ("kimi_k25", {"q_lora_rank": None})],
)
@torch.no_grad()
def test_experts_and_latents_count_as_far_as_tokens_go_through_them(family: str, more: dict[str, Any]) -> None:
    """Two of four experts, shared ones, the router, layers without experts before them, and projections of latents.

    As torch counts them one by one, for a prompt and for a token behind it.
    """
    model, processor = build(family, text_config=more)
    model.set_experts_implementation("eager")
    batch = dict(inputs(processor, ["Look: <image> what?"], [[image(84, 84, seed=1)]]))
    decoder, config, length = model.model.language_model, model.config.get_text_config(), batch["input_ids"].shape[1]
    depth = config.num_hidden_layers
    prompt, token = torch.zeros(1, length, config.hidden_size), torch.zeros(1, 1, config.hidden_size)
    assert in_layers(lambda: decoder(inputs_embeds=prompt)) == prefill_flops(config, [length] * depth)
    cache = returned_cache(model(**batch, use_cache=True))
    found = in_layers(lambda: decoder(inputs_embeds=token, **as_cache(decoder, cache)))
    assert found == decode_flops(config, [length] * depth, 1)


def test_a_decoder_with_experts_in_some_layers_is_refused() -> None:
    config = build("qwen3_vl_moe")[0].config.text_config
    config.mlp_only_layers = [0]
    with pytest.raises(ValueError, match="only some layers have experts"):
        layer_flops(config, 1)
