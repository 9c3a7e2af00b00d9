"""Virtual unmerging in the decoder equals a full-length model in which merged tokens are copies, drawn and by hand."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import vtokens
from tests.engine.cases import MODES, Case, cases, model
from tests.engine.compare import check_tokens, one
from tests.engine.dense import attending
from tests.engine.masked import dropped_keys
from tests.engine.test_attend_equals_dense import attends, oracle, sinks
from tests.engine.unmerged import before_and_with, copies, gone, unmerged
from tests.families import FAMILIES, build, image, inputs
from tests.limits import close_pass
from vtokens.core.compat import returned_cache
from vtokens.strategies.merge.dymu import Dymu

NEW = 3
THRESHOLDS = ("(0.6, 0.5, 0.5)", "(0.3, 0.3, 0.3)", "(0.75,)", "(-1.0, -1.0, -1.0)", "(1.0, 0.4)")
AFTER = (
    "+fastv(keep=0.5, layer=2)",
    "+fastv(keep=0.6, layer=1, query_scope='all_text')",
    "+uniform(keep=0.5)",
    "+todre(keep=0.7, exit_threshold=2.0, exit_depth=0.5)",
)


@st.composite
def merging(draw: st.DrawFn) -> str:
    """DyMU, at times between pruners."""
    before = draw(st.sampled_from(["", "", "cls(keep=0.6)+", "random(keep=0.5, seed=1)+"]))
    after = draw(st.sampled_from(["", "", *AFTER]))
    return f"{before}dymu(thresholds={draw(st.sampled_from(THRESHOLDS))}){after}"


def generate(target: Any, batch: dict[str, Any], case: Case) -> Any:
    """`NEW` tokens under the case's mode, with the scores they were chosen by."""
    torch.manual_seed(case.seed)
    return target.generate(
        **batch, **MODES[case.mode], max_new_tokens=NEW, min_new_tokens=NEW,
        return_dict_in_generate=True, output_logits=True, output_scores=True,
    )  # fmt: skip


@torch.no_grad()
def check(family: str, case: Case, spec: str) -> None:
    """Logits of a plain call, generated tokens, and what the cache holds."""
    target, reference = model(family, "pruned", case.attention[0]), model(family, "plain", case.attention[1])
    batch = case.batch(family)
    before, report, features = before_and_with(target, spec, batch)
    numbers = copies(target, batch, features, before)
    valid = batch["attention_mask"]
    dropped = gone(report, numbers, valid)
    with vtokens.attach(target, spec):
        output = target(**batch, use_cache=True)
    with unmerged(reference, numbers, dropped, [(batch, features)]):
        expected = reference(**batch).logits
    for row, sample in enumerate(report.samples):
        fed = valid[row].bool() & ~dropped[-1][row]
        close_pass(output.logits[row, fed], expected[row, fed])
        assert sample.visual_tokens[0] == len(set(numbers[row].tolist()) - {-1}) or "uniform" in spec or "todre" in spec
    places = torch.arange(valid.shape[1])
    behind = (places > (valid * places).amax(1, keepdim=True)).sum(1)  # right padding travels along
    for index, layer in enumerate(returned_cache(output).layers):
        seen = torch.tensor([len(sample.positions[index]) for sample in report.samples])
        assert layer.keys.shape[2] in (int((seen + behind).max()), valid.shape[1])
        assert layer.get_seq_length() == valid.shape[1]
    beams = MODES[case.mode].get("num_beams", 1)
    with vtokens.attach(target, spec):
        got = generate(target, batch, case)
    wide = [part.repeat_interleave(beams, dim=0) for part in dropped]
    with unmerged(reference, numbers.repeat_interleave(beams, dim=0), wide, [(batch, features)]):
        check_tokens(got, generate(reference, batch, case), NEW)


@pytest.mark.fuzz
@pytest.mark.parametrize("family", FAMILIES)
def test_unmerged_equals_copies(family: str) -> None:
    """Every family x padding x pictures x decoding, alone and between pruners."""

    @settings(max_examples=-(-settings.default.max_examples // (2 * len(FAMILIES))))
    @given(cases(), merging())
    def holds(case: Case, spec: str) -> None:
        check(family, case, spec)

    if settings.default.derandomize:  # or every family would draw the same cases
        holds = hypothesis.seed(FAMILIES.index(family))(holds)
    holds()


@pytest.mark.fuzz
@pytest.mark.parametrize("family", FAMILIES)
def test_attention_strategies_see_all_positions(family: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """VAR and VHR behind DyMU equal editing the full matrix of a model with copies."""
    table = sinks(family, Path(tmp_path_factory.getbasetemp()))

    @settings(max_examples=-(-settings.default.max_examples // (4 * len(FAMILIES))))
    @given(cases(), attends(), st.sampled_from(THRESHOLDS))
    @torch.no_grad()
    def holds(case: Case, inside: tuple[str, ...], thresholds: str) -> None:
        spec = "+".join([f"dymu(thresholds={thresholds})", *inside]).replace("@", table)
        target, reference = model(family, "pruned", case.attention[0]), model(family, "plain", case.attention[1])
        batch = case.batch(family)
        before, report, features = before_and_with(target, spec, batch)
        numbers = copies(target, batch, features, before)
        with vtokens.attach(target, spec):
            got = generate(target, batch, case)
        beams = MODES[case.mode].get("num_beams", 1)
        with vtokens.attach(target, spec) as handle:
            generate(target, batch, case)
            wide = handle.report()
        ids, valid = (batch[name].repeat_interleave(beams, dim=0) for name in ("input_ids", "attention_mask"))
        numbers, none = numbers.repeat_interleave(beams, dim=0), [torch.zeros_like(valid, dtype=torch.bool)] * 4
        dense = oracle(family, spec, wide, ids, valid)
        with attending(reference, dense), unmerged(reference, numbers, none, [(batch, features)]):
            expected = generate(reference, batch, case)
        hypothesis.assume(not dense.close)
        check_tokens(got, expected, NEW)
        assert report.samples[0].positions[0].size == report.samples[0].positions[-1].size

    if settings.default.derandomize:  # or every family would draw the same cases
        holds = hypothesis.seed(FAMILIES.index(family))(holds)
    holds()


@pytest.mark.fuzz
@pytest.mark.parametrize("family", FAMILIES)
def test_merged_and_left_so_equals_masked(family: str) -> None:
    """`unmerge=False` is pruning of merged features: what is dropped may as well be masked."""

    @settings(max_examples=-(-settings.default.max_examples // (4 * len(FAMILIES))))
    @given(cases(), st.sampled_from(THRESHOLDS))
    @torch.no_grad()
    def holds(case: Case, thresholds: str) -> None:
        spec = f"dymu(thresholds={thresholds}, unmerge=False)"
        target, reference = model(family, "pruned", case.attention[0]), model(family, "plain", case.attention[1])
        batch = case.batch(family)
        _, _, features = before_and_with(target, spec, batch)
        with vtokens.attach(target, spec) as handle:
            got = generate(target, batch, case)
            report = handle.report()
        beams = MODES[case.mode].get("num_beams", 1)
        valid = batch["attention_mask"].repeat_interleave(beams, dim=0)
        apart = torch.full_like(valid, -1)
        with unmerged(reference, apart, dropped_keys(report, valid), [(batch, features)]):
            check_tokens(got, generate(reference, batch, case), NEW)

    if settings.default.derandomize:
        holds = hypothesis.seed(FAMILIES.index(family))(holds)
    holds()


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_a_threshold_of_one_changes_no_bit(family: str) -> None:
    """Logits and tokens of the plain model."""
    target, plain, batch = model(family, "pruned"), model(family, "plain"), one(family)
    with vtokens.attach(target, "dymu(thresholds=(1.0, 1.0))"):
        assert torch.equal(target(**batch).logits, plain(**batch).logits)
        assert torch.equal(target.generate(**batch, max_new_tokens=4), plain.generate(**batch, max_new_tokens=4))


@torch.no_grad()
@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_all_tokens_merged_into_one(family: str) -> None:
    """Enough rounds behind the tower leave one token a picture, which attention sees everywhere."""
    target, reference = model(family, "pruned"), model(family, "plain")
    batch = dict(inputs(family, ["<image> or <image>?", "so"], [[image(84, 84, seed=0), image(60, 60, seed=1)], []]))
    spec = f"dymu(thresholds={(-1.0,) * 6})"
    before, report, features = before_and_with(target, spec, batch)
    numbers = copies(target, batch, features, before)
    assert report.samples[0].visual_tokens == (2, 2, 2, 2)
    with vtokens.attach(target, spec):
        got = target(**batch).logits
    none = [torch.zeros_like(numbers, dtype=torch.bool)] * 4
    with unmerged(reference, numbers, none, [(batch, features)]):
        expected = reference(**batch).logits
    valid = batch["attention_mask"].bool()
    close_pass(got[valid], expected[valid])


@torch.no_grad()
def test_one_visual_token() -> None:
    """A picture of a single token has nothing to merge: the plain model's bits."""
    target, processor = build("qwen2_vl")
    plain = build("qwen2_vl")[0]
    batch = dict(inputs(processor, ["<image>?"], [[image(28, 28, seed=0)]]))
    grid = torch.tensor([[1, 2, 2]])
    ids = batch["input_ids"]
    keep = torch.ones_like(ids, dtype=torch.bool)
    keep[0, (ids[0] == target.config.image_token_id).nonzero().flatten()[1:]] = False
    single = {
        "input_ids": ids[keep][None],
        "attention_mask": batch["attention_mask"][keep][None],
        "mm_token_type_ids": batch["mm_token_type_ids"][keep][None],
        "pixel_values": batch["pixel_values"][:4],
        "image_grid_thw": grid,
    }
    with vtokens.attach(target, "dymu(thresholds=(-1.0, -1.0))") as handle:
        assert torch.equal(target(**single).logits, plain(**single).logits)
        assert handle.report().samples[0].visual_tokens == (1, 1, 1, 1)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision(family: str, dtype: torch.dtype) -> None:
    """As near to float32 as the model with copies in the same precision is, three times over at most."""
    batch = one(family)
    spec = "dymu(thresholds=(0.5, 0.4))"
    whole = build(family)[0]
    target, reference = build(family)[0].to(dtype), build(family)[0].to(dtype)
    half = {k: v.to(dtype) if v.is_floating_point() else v for k, v in batch.items()}
    before, _, features = before_and_with(target, spec, half)
    numbers = copies(target, half, features, before)
    none = [torch.zeros_like(numbers, dtype=torch.bool)] * 4
    with vtokens.attach(target, spec):
        got = target(**half).logits[:, -1].float()
    with unmerged(reference, numbers, none, [(half, features)]):
        rounded = reference(**half).logits[:, -1].float()
    features.pooler_output = [part.float() for part in features.pooler_output]
    with unmerged(whole, numbers, none, [(batch, features)]):
        exact = whole(**batch).logits[:, -1]
    assert got.isfinite().all()
    assert (got - exact).abs().max() <= 3 * (rounded - exact).abs().max() + 1e-2


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_a_prompt_that_ends_with_a_picture(family: str) -> None:
    """The last position is gone, and the one before it a copy: the answer goes on from where that copy stands."""
    case = Case("", ("Describe it: <image>",), (((100, 60), (84, 84)),), "left", "greedy", 0, ("sdpa", "sdpa"))
    check(family, case, "cls(keep=0.6)+dymu(thresholds=(0.6, 0.5, 0.5))")


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_reported_flops_are_what_torch_counts(family: str) -> None:
    """Projections of unique tokens and attention over all positions: within 2% in the decoder layers."""
    target, batch = model(family, "pruned"), one(family)
    with vtokens.attach(target, "dymu(thresholds=(0.4, 0.4, 0.4))") as handle:
        # The CPU's fused kernel is unknown to the counter; the plain backend does the same products as matrix products.
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            target(**batch, logits_to_keep=1)
        report = handle.report()
    counts = counter.get_flop_counts()
    layers = [name for name in counts if name.split(".")[-2:-1] == ["layers"] and "language_model" in name]
    assert len(layers) == 4
    assert report.flops == pytest.approx(sum(sum(counts[name].values()) for name in layers), rel=0.02)
    assert report.flops < report.flops_full


def video(family: str) -> dict[str, Any]:
    """A prompt with one video, put together by hand: its processors need torchvision."""
    config = model(family, "plain").config
    text = torch.arange(65, 75)
    if family == "llava_onevision":
        frames = torch.randn(1, 4, 3, 56, 56)
        frames[:, 1], frames[:, 2] = 0.3, 0.6
        batch, count = {"pixel_values_videos": frames}, 4 * 4 + 1
    else:
        grid = torch.tensor([[3, 4, 6]])
        patches = torch.randn(3 * 4 * 6, 3 * 2 * 14 * 14)
        patches[24:] = patches[:1] + 0.1 * torch.randn(48, 1)
        batch, count = {"pixel_values_videos": patches, "video_grid_thw": grid}, 3 * 2 * 3
    # Qwen3-VL writes the time between frames.
    runs = torch.full((count,), config.video_token_id).chunk(3 if family == "qwen3_vl" else 1)
    middle = [part for number, run in enumerate(runs) for part in (text[number : number + 1], run)]
    ids = torch.cat([text[:4], *middle, text[4:]])[None]
    batch |= {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if family != "llava_onevision":
        batch["mm_token_type_ids"] = 2 * (ids == config.video_token_id).int()
    return batch


@torch.no_grad()
@pytest.mark.parametrize("family", ["llava_onevision", "qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_videos(family: str) -> None:
    """Pooled frames (OneVision) and merged features with time in their positions (Qwen) equal copies too."""
    target, reference, batch = model(family, "pruned"), model(family, "plain"), video(family)
    spec = "dymu(thresholds=(0.5, 0.5, 0.5))"
    patches: list[Tensor] = []
    with ExitStack() as stack:
        if family == "llava_onevision":
            projector = target.model.multi_modal_projector
            hook = projector.register_forward_hook(lambda module, args, output: patches.append(output.flatten(0, -2)))
            stack.callback(hook.remove)
        before, report, features = before_and_with(target, spec, batch)
    numbers = copies(target, batch, features, before, patches[0] if patches else None)
    assert report.samples[0].visual_tokens[0] < int((numbers >= 0).sum())
    with vtokens.attach(target, spec):
        got = target.generate(**batch, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False)
        logits = target(**batch).logits
    none = [torch.zeros_like(numbers, dtype=torch.bool)] * 4
    with unmerged(reference, numbers, none, [(batch, features)]):
        expected = reference.generate(**batch, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False)
        close_pass(logits, reference(**batch).logits)
    assert torch.equal(got, expected)


@torch.no_grad()
def test_what_attention_is_not_prepared_for_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A strategy that unmerges without saying so; decoders that rotate otherwise are in test_decoders."""
    target, batch = build("llava")[0], one("llava")
    with monkeypatch.context() as patched:
        patched.setattr(Dymu, "_completed", lambda self, needs, facts: needs)
        with (
            vtokens.attach(target, Dymu((0.3, 0.3))),
            pytest.raises(ValueError, match=r"return Needs\(unmerges=True\)"),
        ):
            target(**batch)
