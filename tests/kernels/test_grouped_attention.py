"""`grouped_attention` against a dense softmax in float64 over the keys of each group."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from tests import limits
from tests.kernels import oracle
from vtokens.kernels import Recycling, group_weights, grouped_attention, reweigh, reweighed_attention


def dense(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    group: Tensor,
    groups: int,
    scaling: float,
    position: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Outputs (G, B, H, R, D_v) and log-sum-exps (G, B, H, R) in float64, a head, a row and a group at a time."""
    (batch, heads, rows, _), kv_heads = query.shape, key.shape[1]
    outputs = torch.zeros(groups, batch, heads, rows, value.shape[-1], dtype=torch.float64)
    lse = torch.full((groups, batch, heads, rows), -torch.inf, dtype=torch.float64)
    for b, h, r, g in torch.cartesian_prod(*(torch.arange(n) for n in (batch, heads, rows, groups))).tolist():
        allowed = group[b] == g
        if position is not None:
            allowed[int(position[b, r]) + 1 :] = False
        if allowed.any():
            shared = h // (heads // kv_heads)
            scores = key[b, shared, allowed].double() @ query[b, h, r].double() * scaling
            outputs[g, b, h, r] = scores.softmax(0) @ value[b, shared, allowed].double()
            lse[g, b, h, r] = scores.logsumexp(0)
    return outputs, lse


def draw(
    batch: int, heads: int, kv_heads: int, rows: int, keys: int, dim: int = 8, wide: int = 6, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Random q (B, H, R, D), k (B, H_kv, N, D) and v (B, H_kv, N, D_v), wide enough that rows are far from uniform."""
    generator = torch.Generator().manual_seed(seed)
    query = 2 * torch.randn(batch, heads, rows, dim, generator=generator)
    key = 2 * torch.randn(batch, kv_heads, keys, dim, generator=generator)
    return query, key, torch.randn(batch, kv_heads, keys, wide, generator=generator)


@st.composite
def problems(draw_from: st.DrawFn) -> dict:
    """Shapes with and without grouped heads, causal positions, empty groups and padding."""
    kv_heads, shared = draw_from(st.integers(1, 3)), draw_from(st.integers(1, 3))
    batch, rows, keys = draw_from(st.integers(1, 3)), draw_from(st.integers(1, 6)), draw_from(st.integers(1, 9))
    query, key, value = draw(batch, kv_heads * shared, kv_heads, rows, keys, seed=draw_from(st.integers(0, 9999)))
    groups = draw_from(st.integers(1, 5))
    members = draw_from(st.lists(st.integers(-1, groups - 1), min_size=batch * keys, max_size=batch * keys))
    places = draw_from(st.none() | st.lists(st.integers(0, keys - 1), min_size=batch * rows, max_size=batch * rows))
    return {
        "query": query,
        "key": key,
        "value": value,
        "group": torch.tensor(members).view(batch, keys),
        "groups": groups,
        "scaling": draw_from(st.sampled_from([0.1, 8**-0.5, 1.0])),
        "position": None if places is None else torch.tensor(places).view(batch, rows),
    }


def close(got: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor], keys: int = 64, **more: torch.dtype) -> None:
    """float32 outputs and log-sum-exps up to rounding; infinities must be the same ones."""
    assert got[0].dtype == got[1].dtype == torch.float32
    limits.close_attention(got, expected, keys, **more)


@given(problems())
def test_groups_equal_a_dense_softmax_each(problem: dict) -> None:
    """Any heads, groups, causal positions and padding; a group a row cannot see gives 0 and -inf."""
    outputs, lse = grouped_attention(**problem)
    expected = dense(**problem)
    close((outputs, lse), expected)
    unseen = lse == -torch.inf
    assert torch.equal(unseen, expected[1] == -torch.inf)
    assert (outputs[unseen] == 0).all()


@given(problems())
def test_any_partition_merges_to_attention(problem: dict) -> None:
    """Reweighed by their own shares, the groups give what SDPA gives; rows that see nothing are zero."""
    outputs, lse = grouped_attention(**problem)
    weights = group_weights(lse)
    seen = (problem["group"] >= 0)[:, None, None]
    if problem["position"] is not None:
        seen = seen & (torch.arange(seen.shape[-1]) <= problem["position"][:, None, :, None])
    plain = scaled_dot_product_attention(
        *(problem[name].double() for name in ("query", "key", "value")),
        attn_mask=seen,
        scale=problem["scaling"],
        enable_gqa=True,
    )
    some = seen.any(-1).expand(weights.shape[1:])
    limits.close(weights.sum(0), some.float(), terms=64)
    merged = reweigh(outputs, weights)
    whole = lse.logsumexp(0)[some]
    limits.close_attention((merged[some], whole), (plain[some], whole.double()))
    assert (merged[~some] == 0).all()


@given(problems())
def test_one_group_is_attention(problem: dict) -> None:
    """With a single group its output is the attention output and its log-sum-exp the row's."""
    problem |= {"group": problem["group"].clamp(max=0), "groups": 1}
    outputs, lse = grouped_attention(**problem)
    close((outputs, lse), dense(**problem))
    assert torch.equal(reweigh(outputs, group_weights(lse)), outputs[0])


def test_two_keys_by_hand() -> None:
    """Scores ln 1 and ln 3 in groups of their own: shares 1/4 and 3/4; all mass to the first gives its value."""
    query, key = torch.ones(1, 1, 1, 1), torch.tensor([1.0, 3.0]).log().view(1, 1, 2, 1)
    value = torch.tensor([[[[8.0, 0.0], [0.0, 4.0]]]])
    outputs, lse = grouped_attention(query, key, value, torch.tensor([[0, 1]]), 2, 1.0)
    torch.testing.assert_close(lse.flatten().exp(), torch.tensor([1.0, 3.0]))
    weights = group_weights(lse)
    torch.testing.assert_close(weights.flatten(), torch.tensor([0.25, 0.75]))
    torch.testing.assert_close(reweigh(outputs, weights).flatten(), torch.tensor([2.0, 3.0]))
    everything_to_the_first = torch.stack([weights.sum(0), torch.zeros_like(weights[0])])
    torch.testing.assert_close(reweigh(outputs, everything_to_the_first).flatten(), torch.tensor([8.0, 0.0]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("below", [30.0, 87.0, 200.0, 5000.0])
def test_a_group_far_below_another_keeps_its_output(dtype: torch.dtype, below: float) -> None:
    """Each group has a maximum of its own: a group whose shares of the row vanish still has a softmax inside itself."""
    query = torch.ones(1, 1, 2, 1, dtype=dtype)
    key = torch.tensor([0.0, 0.5, -below, -below, -below]).view(1, 1, 5, 1).to(dtype)
    value = torch.tensor([1.0, 2.0, 3.0, 4.0, 8.0]).view(1, 1, 5, 1).to(dtype)
    group = torch.tensor([[0, 0, 1, 1, 1]])
    outputs, lse = grouped_attention(query, key, value, group, 3, 1.0, torch.tensor([[3, 4]]))
    torch.testing.assert_close(outputs[1].flatten(), torch.tensor([3.5, 5.0]), rtol=4e-3, atol=0)
    bottom = key[0, 0, 2, 0].float()
    torch.testing.assert_close(lse[1].flatten(), bottom + torch.tensor([2.0, 3.0]).log(), rtol=1e-6, atol=0)
    assert (lse[2] == -torch.inf).all()


def test_causal_rows_with_an_offset() -> None:
    """Rows of a later chunk see the keys cached before them in their groups, and nothing after themselves."""
    query, key, value = draw(2, 4, 2, rows=3, keys=8)
    group, position = torch.randint(0, 3, (2, 8)), torch.tensor([[5, 6, 7], [1, 2, 7]])
    outputs, lse = grouped_attention(query, key, value, group, 3, 0.3, position)
    for b in range(2):
        for row in range(3):
            short, one = int(position[b, row]) + 1, slice(b, b + 1)
            alone = grouped_attention(
                query[one, :, row : row + 1], key[one, :, :short], value[one, :, :short], group[one, :short], 3, 0.3
            )
            close((outputs[:, one, :, row : row + 1], lse[:, one, :, row : row + 1]), alone)


@pytest.mark.parametrize("reach", [1.0, 60.0])
def test_gradients_equal_those_of_a_dense_softmax(reach: float) -> None:
    """Backward through outputs and log-sum-exps, with one maximum a row and, where scores reach far, one a group."""
    parts = [part.requires_grad_() for part in draw(2, 4, 2, rows=3, keys=7)]
    group, position = torch.arange(7)[None] % 3 + torch.tensor([[0], [-1]]), torch.tensor([[3, 5, 6], [4, 0, 6]])
    gradients = []
    for split in (grouped_attention, dense):
        outputs, lse = split(*parts, group, 3, 0.4 * reach, position)
        outputs.square().sum().add(torch.where(lse > -torch.inf, lse, 0).square().sum() / reach).backward()
        gradients.append([part.grad for part in parts])
        for part in parts:
            part.grad = None
    for got, expected in zip(*gradients, strict=True):
        limits.close(got, expected, terms=64, chain=8)  # forward and backward, with the softmax twice in each


@given(problems(), st.data())
def test_permuting_keys_changes_nothing(problem: dict, data: st.DataObject) -> None:
    """Without a causal mask it does not matter where in the sequence the keys of a group stand."""
    order = data.draw(st.permutations(range(problem["key"].shape[2])))
    problem["position"] = None
    permuted = problem | {name: problem[name][:, :, order] for name in ("key", "value")}
    permuted["group"] = problem["group"][:, order]
    close(grouped_attention(**permuted), grouped_attention(**problem))


@given(problems())
def test_shared_heads_equal_repeated_keys(problem: dict) -> None:
    """Grouped-query attention is attention with keys and values repeated for each query head."""
    times = problem["query"].shape[1] // problem["key"].shape[1]
    repeated = {name: problem[name].repeat_interleave(times, 1) for name in ("key", "value")}
    close(grouped_attention(**problem), grouped_attention(**(problem | repeated)))


def test_samples_of_a_batch_do_not_meet() -> None:
    """Each sample gives what it gives alone, whatever its neighbours hold, one that sees nothing included."""
    query, key, value = draw(3, 4, 2, rows=5, keys=9)
    group, position = torch.randint(-1, 3, (3, 9)), torch.randint(0, 9, (3, 5))
    group[1] = -1
    key[2] *= 100  # shares of this sample vanish, and its groups need a maximum each
    outputs, lse = grouped_attention(query, key, value, group, 3, 0.4, position)
    for row in range(3):
        one = slice(row, row + 1)
        alone = grouped_attention(query[one], key[one], value[one], group[one], 3, 0.4, position[one])
        close((outputs[:, one], lse[:, one]), alone)


@given(problems())
def test_strides_do_not_matter(problem: dict) -> None:
    """Transposed, padded and reversed storage gives what contiguous tensors give."""
    got = grouped_attention(**problem)
    strided = dict(problem)
    for name in ("query", "key", "value"):
        strided[name] = problem[name].transpose(1, 2).contiguous().transpose(1, 2)
    close(grouped_attention(**strided), got)
    for name in ("query", "key", "value"):
        strided[name] = torch.cat([problem[name], torch.full_like(problem[name], torch.nan)], -1)
        strided[name] = strided[name][..., : problem[name].shape[-1]]
    strided["group"] = torch.stack([problem["group"]] * 2, -1)[..., 0]
    close(grouped_attention(**strided), got)


@pytest.mark.parametrize("causal", [False, True])
def test_many_rows_are_taken_in_chunks(causal: bool) -> None:
    """2^17 scores a row and group, 13 rows of four groups: more than are held at once, nothing is lost at the seams."""
    query, key, value = draw(1, 32, 8, rows=13, keys=4096, dim=4, wide=3)
    group = torch.arange(4096)[None] * 7 % 5 - 1
    position = (torch.arange(13) * 300 + 400)[None] if causal else None
    outputs, lse = grouped_attention(query, key, value, group, 4, 0.5, position)
    scores = query.double().unflatten(1, (8, 4)) @ key.double()[:, :, None].transpose(-1, -2) * 0.5
    for g in range(4):
        hidden = (group != g)[:, None, None, None]
        if position is not None:
            hidden = hidden | (torch.arange(4096) > position[0, :, None])
        masked = scores.masked_fill(hidden, -torch.inf).flatten(1, 2)
        expected = masked.softmax(-1).unflatten(1, (8, 4)) @ value.double()[:, :, None]
        close((outputs[g], lse[g]), (expected.flatten(1, 2), masked.logsumexp(-1)), keys=4096)


@given(problems(), st.integers(0, 9999))
def test_reweighed_attention_is_its_definition(problem: dict, seed: int) -> None:
    """Mass moved between groups at will, empty ones included: the groups' outputs under the new weights."""
    mix = torch.rand(problem["groups"], problem["groups"], generator=torch.Generator().manual_seed(seed))

    def change(weights: Tensor) -> Tensor:
        return torch.einsum("fg,g...->f...", mix, weights)

    outputs, lse = dense(**problem)
    weights = group_weights(lse)
    output, before = reweighed_attention(change=change, **problem)
    scores = 1 + limits.largest(lse)  # what a score is off by, its share is off by
    limits.close(before, weights, terms=64, size=scores)
    moved = reweigh(outputs, change(weights.float()).double())
    limits.close(output, moved, terms=64, size=scores * limits.largest(outputs) * problem["groups"])
    same, _ = reweighed_attention(change=lambda weights: weights, **problem)
    limits.close(same, reweigh(outputs, weights), terms=64, size=scores * limits.largest(outputs))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_all_mass_to_a_group_that_had_none(dtype: torch.dtype) -> None:
    """200 nats below the others its share is 0 in float32, and yet it has an output to put in their place."""
    key = torch.tensor([0.0, 0.5, -200.0, -200.0]).view(1, 1, 4, 1).to(dtype)
    value = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 1, 4, 1).to(dtype)
    group = torch.tensor([[0, 0, 1, 1]])
    output, before = reweighed_attention(key[:, :, :1] + 1, key, value, group, 2, 1.0, lambda weights: weights.flip(0))
    torch.testing.assert_close(before.flatten(), torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(output.flatten(), torch.tensor([3.5]))


def test_reweighed_rows_are_taken_in_chunks_and_have_gradients() -> None:
    """2^19 scores a row, three rows: two at a time; backward gives what it gives through the groups' outputs."""
    parts = [part.requires_grad_() for part in draw(1, 32, 8, rows=3, keys=16384, dim=4, wide=3)]
    group, position = torch.arange(16384)[None] % 5 - 1, torch.tensor([[9000, 3, 16383]])

    def change(weights: Tensor) -> Tensor:
        return weights.roll(1, 0)

    output, _ = reweighed_attention(*parts, group, 4, 0.5, change, position)
    outputs, lse = grouped_attention(*parts, group, 4, 0.5, position)
    expected = reweigh(outputs, change(group_weights(lse)))
    limits.close(output, expected, terms=16384)
    got = torch.autograd.grad(output.square().sum(), parts)
    for one, other in zip(got, torch.autograd.grad(expected.square().sum(), parts), strict=True):
        limits.close(one, other, terms=16384, chain=8)


@pytest.mark.parametrize("size", [300.0, 1000.0])
def test_large_activations_in_float16(size: float) -> None:
    """Products beyond float16's 65504 whose scores are ordinary numbers."""
    query, key = torch.full((1, 1, 1, 4), size), torch.full((1, 1, 2, 4), size)
    key[:, :, 1, 0] -= 1
    value = torch.tensor([[[[1.0], [5.0]]]])
    problem = (query.half(), key.half(), value.half(), torch.tensor([[0, 1]]), 2, 1 / size)
    lse = grouped_attention(*problem)[1]
    exact = (query.double() @ key.double().transpose(-1, -2) / size).flatten()
    torch.testing.assert_close(lse.flatten().double(), exact, rtol=1e-3, atol=0)
    output, _ = reweighed_attention(*problem, lambda weights: weights)
    assert 1 <= output.item() <= 5


@pytest.mark.parametrize(("dtype", "floor"), [(torch.bfloat16, 1e-2), (torch.float16, 1e-3)])
def test_half_precision_is_as_good_as_sdpa(dtype: torch.dtype, floor: float) -> None:
    """The error against float64 on the rounded inputs is at most twice that of SDPA in the same dtype, plus a floor."""
    query, key, value = (part.to(dtype) for part in draw(2, 8, 2, rows=3, keys=200, dim=64, wide=64))
    wide = [part.double() for part in (query, key, value)]
    expected = scaled_dot_product_attention(*wide, scale=0.05, enable_gqa=True)
    fused = scaled_dot_product_attention(query, key, value, scale=0.05, enable_gqa=True)
    outputs, lse = grouped_attention(query, key, value, torch.arange(200).expand(2, 200) % 4, 4, 0.05)
    error = (reweigh(outputs, group_weights(lse)) - expected).abs().max()
    assert error <= 2 * (fused.double() - expected).abs().max() + floor


def test_no_keys_no_rows_and_ids_of_no_group() -> None:
    """Empty tensors come back empty or as a row without keys does; keys with an id out of range count for nobody."""
    query, key, value = draw(2, 4, 2, rows=3, keys=5)
    none = torch.zeros(2, 0, dtype=torch.long)
    outputs, lse = grouped_attention(query, key[:, :, :0], value[:, :, :0], none, 3, 0.4)
    assert outputs.shape == (3, 2, 4, 3, 6)
    assert not outputs.any()
    assert (lse == -torch.inf).all()
    assert not reweigh(outputs, group_weights(lse)).any()
    group = torch.tensor([[0, 1, 7, -9, 0]] * 2)
    assert grouped_attention(query[:, :, :0], key, value, group, 3, 0.4)[0].shape == (3, 2, 4, 0, 6)
    close(grouped_attention(query, key, value, group, 3, 0.4), dense(query, key, value, group, 3, 0.4))


def test_shapes_that_do_not_fit_are_named() -> None:
    """Heads that do not divide, values or groups of other keys: the message gives every shape."""
    query, key, value = draw(1, 3, 2, rows=1, keys=5)
    group = torch.zeros(1, 5, dtype=torch.long)
    with pytest.raises(ValueError, match=r"query \(1, 3, 1, 8\), key \(1, 2, 5, 8\).*multiple of H_kv"):
        grouped_attention(query, key, value, group, 1, 0.4)
    with pytest.raises(ValueError, match=r"value \(1, 2, 4, 6\)"):
        grouped_attention(query[:, :2], key, value[:, :, :4], group, 1, 0.4)
    with pytest.raises(ValueError, match=r"group \(1, 4\)"):
        grouped_attention(query[:, :2], key, value, group[:, :4], 1, 0.4)


def test_what_is_not_a_number_stays_visible() -> None:
    """A NaN in the inputs comes out as one, not as a row that saw nothing."""
    query, key, value = draw(1, 2, 2, rows=1, keys=5)
    key[0, 0, 3, 0] = torch.nan
    outputs, lse = grouped_attention(query, key, value, torch.arange(5)[None] % 2, 2, 0.4)
    merged = reweigh(outputs, group_weights(lse))
    assert merged[0, 0].isnan().all()
    assert merged[0, 1].isfinite().all()


def test_recycling_by_hand() -> None:
    """0.6 of what giver and drain hold goes to the target, where drain and target hold 0.2, half of it the target."""
    rows = torch.tensor(
        [
            [0.30, 0.10, 0.30, 0.30],  # all holds
            [0.30, 0.31, 0.30, 0.09],  # the drain has more than half
            [0.40, 0.05, 0.10, 0.45],  # 0.15 together
            [0.30, 0.00, 0.40, 0.30],  # nothing is drained
            [0.00, 0.00, 0.00, 0.00],  # nothing is seen
        ]
    ).T
    rule = Recycling(fraction=0.6, min_share=0.2, min_ratio=0.5)
    assert rule.applies(rows).tolist() == [True, False, False, False, False]
    after = rule(rows)
    torch.testing.assert_close(after[:, 0], torch.tensor([0.12, 0.04, 0.54, 0.30]))
    assert torch.equal(after[:, 1:], rows[:, 1:])


def test_recycling_needs_four_groups() -> None:
    """Which of more or fewer groups would give is not said."""
    query, key, value = draw(1, 2, 2, rows=1, keys=5)
    with pytest.raises(ValueError, match="groups=3: Recycling"):
        reweighed_attention(query, key, value, torch.zeros(1, 5, dtype=torch.long), 3, 0.4, Recycling(0.5, 0.2, 0.5))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_rounds_what_a_fused_kernel_rounds(dtype: torch.dtype) -> None:
    """Scores are never rounded: merged outputs and log-sum-exps are within the bounds of the dtype."""
    query, key, value = (part.to(dtype) for part in draw(2, 4, 2, 20, 61, 64, 64))
    group, position = torch.randint(0, 3, (2, 61)), torch.randint(0, 61, (2, 20))
    seen = torch.arange(61) <= position[:, None, :, None]
    outputs, lse = grouped_attention(query, key, value, group, 3, 0.125, position)
    merged = reweigh(outputs, group_weights(lse))
    expected = oracle.attend(query, key, value, seen, 0.125)
    oracle.close((merged, lse.logsumexp(0)), expected, dtype)
    same, _ = reweighed_attention(query, key, value, group, 3, 0.125, lambda weights: weights, position)
    oracle.close((same, lse.logsumexp(0)), expected, dtype)


@pytest.mark.parametrize("causal", [False, True])
def test_many_rows_go_group_by_group(causal: bool) -> None:
    """As many rows as make that faster; a group without keys, keys of no group, groups of unequal sizes in a batch."""
    query, key, value = draw(2, 4, 2, 70, 33, 8, 8)
    problem = {"query": query, "key": key, "value": value, "groups": 3, "scaling": 0.3}
    problem["group"] = torch.stack([torch.randint(-1, 2, (33,)), torch.full((33,), 1)])
    problem["position"] = torch.randint(0, 33, (2, 70)) if causal else None
    close(grouped_attention(**problem), dense(**problem))
