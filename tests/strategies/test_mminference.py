"""mminference on genuine models: against an oracle that masks what no tile holds, alone and with other strategies."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import AttentionInterface

import vtokens
from tests.engine.cases import MODES, SIZES, model
from tests.engine.masked import decoder_layers, dropped_keys, masking
from tests.engine.test_prompt_end import drawn, followed, written
from tests.families import FAMILIES, image, inputs
from tests.kernels.sparse import visible
from tests.limits import close_pass
from vtokens.adapters import adapter_for
from vtokens.core.compat import as_cache, returned_cache
from vtokens.kernels import Tiles
from vtokens.strategies import get, list_strategies
from vtokens.strategies.attend import mminference
from vtokens.tables.patterns import AShape, Grid, Head, Patterns, Run, VerticalSlash
from vtokens.tables.patterns import index as indexing
from vtokens.tables.patterns.index import INTER

INTRA = (None, AShape(4, 6), VerticalSlash(5, 1, 4), Grid(window=4, text=4), Grid(slashes=True, text=4))
RUNS = [Run(inter, intra) for inter in INTER for intra in INTRA]


def table(family: str, folder: Path, runs: list[Run], ratio: float = 0.01, block: tuple[int, int] = (16, 16)) -> str:
    """A patterns file for the tiny model of a family, its heads running `runs` in turn."""
    facts = adapter_for(model(family, "plain")).facts
    heads = [Head(run, 0.5, 0.1, 0.9) for run in runs]
    count = model(family, "plain").config.get_text_config().num_attention_heads
    layers = [tuple(heads[(layer * count + n) % len(heads)] for n in range(count)) for layer in range(facts.depth)]
    path = folder / f"{family}.json"
    Patterns(facts.decoder, block, ratio, "a test", tuple(layers)).save(path)
    return str(path)


@contextmanager
def recorded(least: int) -> Iterator[list[Tiles]]:
    """The tiles of each call, with at least `least` last rows that see everything."""
    found: list[Tiles] = []

    def index(*args: Any) -> Tiles:
        found.append(indexing.index(*args))
        return found[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mminference, "index", index)
        patch.setattr(indexing, "LAST", (least, 2 * least))
        yield found


@contextmanager
def masked(target: Any, masks: list[Tensor]) -> Iterator[None]:
    """Let each decoder layer attend densely in float32 to nothing but its mask, bool (B, H, N, N), at prefill."""
    AttentionInterface.register("visible_oracle", _attend)
    layers = decoder_layers(target)
    configs = [layer.self_attn.config for layer in layers]
    for layer, config, mask in zip(layers, configs, masks, strict=True):
        layer.self_attn.config = copy.copy(config)
        layer.self_attn.config._attn_implementation_internal = "visible_oracle"
        layer.self_attn.config._visible = mask
    try:
        yield
    finally:
        for layer, config in zip(layers, configs, strict=True):
            layer.self_attn.config = config


def _attend(module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **kwargs: Any) -> Any:
    shared = query.shape[1] // key.shape[1]
    scores = query @ key.repeat_interleave(shared, 1).mT * kwargs["scaling"]
    if attention_mask is None:
        attention_mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril(key.shape[2] - query.shape[2])
    allowed = attention_mask if attention_mask.dtype == torch.bool else attention_mask == 0
    if query.shape[2] == key.shape[2]:
        allowed = allowed & module.config._visible
    output = scores.masked_fill(~allowed, -torch.inf).softmax(-1).nan_to_num(0.0)
    return (output @ value.repeat_interleave(shared, 1)).transpose(1, 2).contiguous(), None


def spread(mask: Tensor, place: Tensor, length: int) -> Tensor:
    """A mask over what a layer saw of one sample, at the fed positions."""
    full = torch.ones(1, mask.shape[1], length, length, dtype=torch.bool)
    full[0][:, place[:, None], place] = mask[0]
    return full


@pytest.mark.fuzz
@pytest.mark.parametrize("family", [*FAMILIES, "kimi_k25"])  # whose values are narrower than its keys
def test_sparse_equals_attention_masked_by_tiles(family: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Logits of a batch are those of a model that masks what no tile holds that a sample visits alone: batches, padding
    on either side, pruners, beams."""
    folder = tmp_path_factory.mktemp("patterns")
    groups = st.lists(st.sampled_from(SIZES), min_size=0, max_size=3).map(tuple)

    @settings(max_examples=-(-settings.default.max_examples // (4 * len(FAMILIES))))
    @given(
        st.permutations(RUNS), st.lists(groups, min_size=1, max_size=3).filter(any), st.sampled_from(["left", "right"]),
        st.sampled_from(["", "uniform(keep=0.5)+", "cls(keep=0.3)+", "fastv(keep=0.5, layer=2)+"]),
        st.sampled_from(["greedy", "beam"]), st.sampled_from([2, 20]), st.integers(0, 99),
    )  # fmt: skip
    @torch.no_grad()
    def holds(
        runs: list[Run], sizes: list[tuple[Any, ...]], side: Any, pruner: str, mode: str, least: int, seed: int
    ) -> None:
        target, reference = model(family, "pruned"), model(family, "plain")
        texts = ["What is it?", "Say what you see, or not", "and?"][: len(sizes)]
        pictures = [[image(*size, seed=seed + n) for n, size in enumerate(group)] for group in sizes]
        batch = dict(inputs(family, texts, pictures, side))
        spec = f"{pruner}mminference(patterns={table(family, folder, runs)!r}, min_length=1)"
        # `generate` itself needs padding on the left.
        options = {**MODES[mode], "max_new_tokens": 2, "min_new_tokens": 2, "return_dict_in_generate": True}
        options |= {"output_logits": True}

        def steps(runner: Any, fed: dict[str, Any]) -> list[Tensor]:
            if side == "right":
                last = fed["attention_mask"].sum(1) - 1
                return [runner(**fed).logits[torch.arange(len(last)), last]]
            found = runner.generate(**fed, **options).logits
            return list(found[: 1 if mode == "beam" else 2])

        with vtokens.attach(target, spec), recorded(least):
            got = steps(target, batch)
        repeats = len(got[0]) // len(texts)
        for row, (text, group) in enumerate(zip(texts, pictures, strict=True)):
            one = dict(inputs(family, [text], [group]))
            length, heads = one["input_ids"].shape[1], target.config.get_text_config().num_attention_heads
            masks, dropped = [torch.ones(1, heads, length, length, dtype=torch.bool)] * len(decoder_layers(target)), []
            if group:  # text alone runs dense
                with vtokens.attach(target, spec) as handle, recorded(least) as tiles:
                    target(**one, use_cache=False)
                    report = handle.report()
                places = [torch.from_numpy(part) for part in report.samples[0].positions]
                masks = [spread(visible(part, heads), at, length) for part, at in zip(tiles, places, strict=True)]
                dropped = dropped_keys(report, one["attention_mask"])
            with masked(reference, masks), masking(reference, dropped) if dropped else nullcontext():
                expected = steps(reference, one)
            for mine, theirs in zip(got, expected, strict=True):
                close_pass(mine[row * repeats : (row + 1) * repeats], theirs)

    holds()


def long(family: str = "llava_next") -> dict[str, Any]:
    """Two left-padded samples of several pictures."""
    groups = [[image(100, 60, seed=n) for n in range(3)], [image(84, 112, seed=4), image(60, 60, seed=5)]]
    return dict(inputs(family, ["What is it?", "Compare <image> with <image>, then say which"], groups))


def logits(target: Any, batch: dict[str, Any], spec: str) -> tuple[Tensor, vtokens.Report]:
    """Of the last position, and the report."""
    with torch.no_grad(), vtokens.attach(target, spec) as handle:
        return target(**batch).logits[:, -1], handle.report()


def test_short_prompts_run_dense_and_the_report_says_so(tmp_path: Path) -> None:
    """Below `min_length` nothing changes, to the bit; the same where patterns are predicted not to pay."""
    target, batch = model("llava_next", "pruned"), long()
    with torch.no_grad():
        plain = target(**batch).logits[:, -1]
    length = batch["input_ids"].shape[1]
    (tmp_path / "dear").mkdir()
    cheap, dear = table("llava_next", tmp_path, RUNS), table("llava_next", tmp_path / "dear", RUNS, 5.0)
    for spec in (f"mminference(patterns={cheap!r})", f"mminference(patterns={cheap!r}, min_length={length + 1})",
                 f"mminference(patterns={dear!r}, min_length=1)"):  # fmt: skip
        got, report = logits(target, batch, spec)
        assert torch.equal(got, plain)
        assert report.contributions[0].figures == {"heads_dense": 1.0, "attention_computed": 1.0}
        assert "heads dense 1, attention computed 1" in str(report)
    shortest = int(batch["attention_mask"].sum(1).min())
    _, report = logits(target, batch, f"mminference(patterns={cheap!r}, min_length={length})")
    assert report.contributions[0].figures["heads_dense"] == pytest.approx((1 + 0.25) / 2)
    got, report = logits(target, batch, f"mminference(patterns={cheap!r}, min_length={shortest})")
    assert report.contributions[0].figures["heads_dense"] == pytest.approx(0.25)
    assert report.contributions[0].figures["attention_computed"] > 0
    assert report.select_seconds > 0
    forced = f"mminference(patterns={dear!r}, min_length=1, max_cost=inf)"
    assert torch.equal(logits(target, batch, forced)[0], got)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("pruner", ["", "uniform(keep=0.5)+", "dymu(thresholds=(0.5, 0.5, 0.5))+"])
def test_each_sample_decides_by_its_own_length(pruner: str, side: Any, tmp_path: Path) -> None:
    """Samples shorter and longer than `min_length`, and one without a picture, run as they do alone."""
    target, path = model("llava_next", "pruned"), table("llava_next", tmp_path, RUNS[1:])
    texts = ["What is it?", "Say what you see, <image> and what not in it, or not", "hello"]
    groups = [[image(100, 60, seed=n) for n in range(3)], [image(60, 60, seed=4)], []]
    batch = dict(inputs("llava_next", texts, groups, side))
    last = batch["attention_mask"].sum(1) - 1 if side == "right" else torch.full((3,), batch["input_ids"].shape[1] - 1)
    spec = f"{pruner}mminference(patterns={path!r}, min_length={80 if 'uniform' in pruner else 130})"
    with torch.no_grad(), vtokens.attach(target, spec) as handle, pytest.MonkeyPatch.context() as patch:
        patch.setattr(indexing, "LAST", (4, 8))
        together = target(**batch).logits[torch.arange(3), last]
        # Of three samples one runs sparse, in 15 heads of 16: `RUNS` hold one more that is dense.
        assert 0.6 < handle.report().contributions[-1].figures["heads_dense"] < 0.8
        for row, (text, group) in enumerate(zip(texts, groups, strict=True)):
            alone = target(**inputs("llava_next", [text], [group] if group else None)).logits[0, -1]
            close_pass(together[row], alone)


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_fed_are_answers_written(family: str, tmp_path: Path) -> None:
    """What stands behind a prompt is dense, as in decoding, and has no say in which lines the prompt has."""
    spec = f"mminference(patterns={table(family, tmp_path, RUNS)!r}, min_length=1)"
    texts, said = drawn(len(family))
    batch, most = followed(family, texts, said)
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(indexing, "LAST", (4, 8))
        with vtokens.attach(model(family, "pruned"), spec):
            got = model(family, "pruned")(**batch, logits_to_keep=most + 1).logits
        for row, (text, answer) in enumerate(zip(texts, said, strict=True)):
            expected = written(family, spec, text, answer)
            close_pass(got[row, : len(answer)], expected)


def test_dense_heads_beside_sparse_ones(tmp_path: Path) -> None:
    """Layers whose heads are all dense are not touched; with nothing else the model is itself."""
    target, batch = model("llava", "pruned"), long("llava")
    path = table("llava", tmp_path, [Run()])
    strategy = vtokens.strategies.parse(f"mminference(patterns={path!r}, min_length=1)")[0]
    assert strategy.needs(adapter_for(target).facts).attend == ()
    with torch.no_grad():
        plain = target(**batch).logits[:, -1]
    assert torch.equal(logits(target, batch, f"mminference(patterns={path!r}, min_length=1)")[0], plain)


@pytest.mark.parametrize("other", ["vhr(layers=(0, 1, 2, 3))", "var(sinks='@', first_layer=0, min_visual=0.0)"])
def test_the_order_beside_other_attend_strategies_does_not_matter(other: str, tmp_path: Path) -> None:
    """Attention is computed first, wherever mminference is written, and what the others change stays changed."""
    from vtokens.tables.sinks import Sinks

    target, batch = model("llava_next", "pruned"), long()
    sinks = tmp_path / "sinks.json"
    Sinks(adapter_for(target).facts.decoder, (1, 5, 40), 1.6, "chosen at random").save(sinks)
    other = other.replace("@", str(sinks))
    sparse = f"mminference(patterns={table('llava_next', tmp_path, RUNS)!r}, min_length=1)"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(indexing, "LAST", (4, 8))
        both, report = logits(target, batch, f"{sparse}+{other}")
        turned, _ = logits(target, batch, f"{other}+{sparse}")
        alone, _ = logits(target, batch, sparse)
        without, _ = logits(target, batch, other)
    assert torch.equal(both, turned)
    assert not torch.allclose(both, alone, atol=1e-3)
    assert not torch.allclose(both, without, atol=1e-3)
    assert len(report.contributions) == 2


def test_where_all_tiles_are_kept_strategies_compose_exactly(tmp_path: Path) -> None:
    """With patterns so wide that nothing is left out: the logits of the other strategies alone."""
    target, batch = model("qwen2_5_vl", "pruned"), long("qwen2_5_vl")
    wide = table("qwen2_5_vl", tmp_path, [Run("2d", AShape(9999, 9999)), Run("none", VerticalSlash(0, 0, 9999))])
    for others in ("vhr", "uniform(keep=0.5)+vhr", "dymu(thresholds='@')+vhr", "fastv(keep=0.5, layer=1)"):
        if "@" in others:
            continue
        expected, _ = logits(target, batch, others)
        got, _ = logits(target, batch, f"{others}+mminference(patterns={wide!r}, min_length=1)")
        close_pass(got, expected)


def test_decoding_and_a_second_turn(tmp_path: Path) -> None:
    """A later picture attends to what was cached; a turn without one, and decoding, run dense."""
    target = model("llava", "pruned")
    first, second = (dict(inputs("llava", ["What <image> is it?"], [[image(60, 60, seed=n)]])) for n in range(2))
    path = table("llava", tmp_path, [Run("2d", AShape(9999, 9999))])
    outputs = []
    with torch.no_grad():
        for spec in ("none", f"mminference(patterns={path!r}, min_length=1)"):
            with vtokens.attach(target, spec):
                cache = returned_cache(target(**first))
                mask = torch.cat([first["attention_mask"], second["attention_mask"]], 1)
                outputs.append(target(**(second | {"attention_mask": mask}), **as_cache(target, cache)).logits)
    close_pass(*outputs)


def test_gradients_flow(tmp_path: Path) -> None:
    """Training through sparse attention: every projection of every layer gets one."""
    target = model("llava", "pruned")
    path = table("llava", tmp_path, RUNS)
    with vtokens.attach(target, f"mminference(patterns={path!r}, min_length=1)"):
        loss = target(**long("llava")).logits.square().mean()
        weights = [layer.self_attn.q_proj.weight for layer in decoder_layers(target)]
        assert all(part.abs().sum() > 0 for part in torch.autograd.grad(loss, weights))


def test_an_alias_names_it() -> None:
    """In specs and look-ups; listings and texts keep to one name."""
    assert get("permuted_prefill") is get("mminference")
    assert vtokens.strategies.parse("permuted_prefill(min_length=5)") == vtokens.strategies.parse(
        "mminference(min_length=5)"
    )
    assert vtokens.strategies.format_spec(vtokens.strategies.parse("permuted_prefill")) == "mminference"
    assert "permuted_prefill" not in list_strategies()
    assert "also: permuted_prefill" in str(vtokens.describe("permuted_prefill"))
    with pytest.raises(ValueError, match="Did you mean 'permuted_prefill'"):
        get("permuted_prefil")
    with pytest.raises(ValueError, match="'permuted_prefill' is already registered by vtokens"):
        vtokens.register("permuted_prefill")(type("Other", (vtokens.Strategy,), {}))


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    """Unknown decoders, patterns of another one, wrong settings, and attention computed twice."""
    target = model("llava", "pruned")
    with pytest.raises(
        ValueError, match="the head patterns of the decoder 'llama-4x64x128' are not known: `vtokens se"
    ):
        vtokens.attach(target, "mminference")
    path = Path(table("llava", tmp_path, RUNS))
    other = path.with_name("other.json")
    other.write_text(path.read_text().replace("llama-4x64x128", "llama-4x64x129"))
    with pytest.raises(
        ValueError, match=r"holds the head patterns of the decoder 'llama-4x64x129' with 4 layers, this"
    ):
        vtokens.attach(target, f"mminference(patterns={str(other)!r})")
    with pytest.raises(ValueError, match="holds no patterns"):
        vtokens.attach(target, "mminference(patterns='nowhere.json')")
    with pytest.raises(ValueError, match="min_length=0 is out of range"):
        vtokens.strategies.parse("mminference(min_length=0)")
    with pytest.raises(TypeError, match=r"min_length=1\.5 is not allowed: a whole number is"):
        vtokens.strategies.parse("mminference(min_length=1.5)")
    with pytest.raises(ValueError, match=r"max_cost=0\.0 is out of range: a share above 0 is allowed, inf is no limit"):
        vtokens.strategies.parse("mminference(max_cost=0)")
    with pytest.raises(TypeError, match="max_cost='low' is not allowed: a number is"):
        vtokens.strategies.parse("mminference(max_cost=low)")
    with pytest.raises(ValueError, match="names 'mminference' twice"):
        vtokens.attach(target, f"mminference(patterns={str(path)!r})+permuted_prefill(patterns={str(path)!r})")
    few = Patterns("llama-4x64x128", (16, 16), 0.1, "a test", ((Head(RUNS[1], 1, 0, 1),),) * 4)
    few.save(other)
    with (
        pytest.raises(ValueError, match="the patterns are for 1 heads a layer, but the decoder has 4"),
        vtokens.attach(target, f"mminference(patterns={str(other)!r}, min_length=1)"),
    ):
        target(**long("llava"))
