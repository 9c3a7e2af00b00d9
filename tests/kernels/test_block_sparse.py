"""`block_sparse_attention` in plain PyTorch against a dense softmax in float64 over the pairs its tiles hold."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from tests import limits
from tests.kernels.sparse import Problem, close, dense, problem, problems, shuffled, visible
from vtokens.kernels import Tiles, block_sparse_attention, in_order, tiled
from vtokens.kernels import block_sparse as module


def run(case: Problem) -> tuple[Tensor, Tensor]:
    """The function under test."""
    return block_sparse_attention(*case.args)


@given(problems())
def test_any_tiles_equal_a_dense_softmax(case: Problem) -> None:
    """Any order of queries and keys, any lists, padding, causal or not: the pairs in the tiles and no other."""
    output, lse = run(case)
    assert output.dtype == lse.dtype == torch.float32
    expected = case.expected()
    close((output, lse), expected)
    assert torch.equal(lse == -torch.inf, expected[1] == -torch.inf)
    assert (output[lse == -torch.inf] == 0).all()


@given(problems())
def test_float64_is_exact(case: Problem) -> None:
    """The reference of references."""
    close(run(case.of(torch.float64)), case.expected())


@pytest.mark.parametrize("past", [0, 5])
@pytest.mark.parametrize("length", [1, 15, 16, 17, 61])
def test_all_tiles_equal_sdpa(length: int, past: int) -> None:
    """With every tile kept, in whatever order, the output is plain causal attention."""
    case = problem(2, 4, 2, length, length + past, share=1.0)
    mask = torch.ones(length, length + past, dtype=torch.bool).tril(past)
    plain = scaled_dot_product_attention(
        case.query, case.key, case.value, attn_mask=mask, scale=case.scaling, enable_gqa=True
    )
    limits.close(run(case)[0], plain, terms=64)


@given(st.integers(0, 9999))
def test_removing_a_tile_equals_masking_it(seed: int) -> None:
    """SDPA with the entries of one tile masked."""
    torch.manual_seed(seed)
    case = problem(1, 1, 1, 24, 24, block=(8, 8), share=1.0)
    where = tuple(torch.randint(0, 3, (2,)).tolist())
    visit = torch.ones(1, 1, 3, 3, dtype=torch.bool)
    visit[0, 0, where[0], where[1]] = False
    tiles = Tiles.mask(case.tiles.q_slot, case.tiles.k_slot, visit, rows=24, keys=24, offset=0)
    mask = torch.ones(24, 24, dtype=torch.bool).tril()
    mask[tiles.q_slot[0, 0, where[0]].long()[:, None], tiles.k_slot[0, 0, where[1]].long()] = False
    mask = mask.expand(1, 1, -1, -1)
    close(run(replace(case, tiles=tiles)), dense(case.query, case.key, case.value, mask, case.scaling))


@given(problems(), st.integers(0, 9999))
def test_disjoint_tiles_merge_to_their_union(case: Problem, seed: int) -> None:
    """Two calls that share no tile, weighed by their log-sum-exps."""
    tiles, generator = case.tiles, torch.Generator().manual_seed(seed)
    first = torch.rand(*tiles.q_slot.shape[:3], tiles.k_slot.shape[2], generator=generator) < 0.5
    visit = torch.rand(first.shape, generator=generator) < 0.7

    def part(chosen: Tensor) -> tuple[Tensor, Tensor]:
        size = {"rows": tiles.rows, "keys": tiles.keys, "offset": tiles.offset}
        return run(replace(case, tiles=Tiles.mask(tiles.q_slot, tiles.k_slot, chosen, **size)))

    (a, above), (b, below), union = part(visit & first), part(visit & ~first), part(visit)
    both = torch.stack([above, below])
    weight = both.clamp(min=-1e30).softmax(0) * (both != -torch.inf)
    close((a * weight[0, ..., None] + b * weight[1, ..., None], torch.logaddexp(above, below)), union)


@given(st.integers(0, 9999))
def test_the_order_of_queries_and_keys_does_not_matter(seed: int) -> None:
    """The same pairs in other slots."""
    torch.manual_seed(seed)
    case = problem(2, 2, 1, 30, 37, block=(8, 4), share=1.0)
    slots = shuffled(case.tiles.q_slot), shuffled(case.tiles.k_slot)
    visit = torch.ones(*slots[0].shape[:3], slots[1].shape[2], dtype=torch.bool)
    tiles = Tiles.mask(*slots, visit, rows=30, keys=37, offset=7)
    close(run(replace(case, tiles=tiles)), run(case))


def test_samples_do_not_meet() -> None:
    """Each sample gives what it gives alone."""
    case = problem(3, 4, 2, 40, 40, block=(8, 8), padded=True)
    together = run(case)
    for row in range(3):
        one = slice(row, row + 1)
        parts = {name: getattr(case.tiles, name)[one] for name in ("q_slot", "k_slot", "start", "count", "full")}
        alone = run(
            Problem(case.query[one], case.key[one], case.value[one], replace(case.tiles, **parts), case.scaling)
        )
        close((together[0][one], together[1][one]), alone)


def test_plans_share_a_head() -> None:
    """Two plans of one head, each with rows of its own; a head without a plan stays empty."""
    case = problem(2, 3, 1, 32, 32, block=(8, 8), share=1.0)
    mine = torch.rand(2, 32) < 0.5
    q_slot = torch.cat([in_order(32, 8, 2, 1, mine), in_order(32, 8, 2, 1, ~mine)], 1)
    k_slot = shuffled(in_order(32, 8, 2, 2))
    visit = torch.rand(2, 2, 4, 4) < 0.6
    tiles = Tiles.mask(q_slot, k_slot, visit, rows=32, keys=32, offset=0, heads=(2, 2))
    case = replace(case, tiles=tiles)
    output, lse = run(case)
    close((output, lse), case.expected())
    assert (lse[:, :2] == -torch.inf).all()
    assert (output[:, :2] == 0).all()


@pytest.mark.parametrize("budget", [1, 300, 5000])
def test_long_lists_and_many_heads_are_taken_in_parts(budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is lost at the seams between segments of a list, chunks of lists, and chunks of heads."""
    case = problem(2, 4, 2, 60, 75, block=(8, 8), share=0.8, padded=True)
    expected = case.expected()
    monkeypatch.setattr(tiled, "_BUDGET", {"cpu": budget})
    close(run(case), expected)
    monkeypatch.setattr(module, "_COPIES", 1)
    close(run(case), expected)


@pytest.mark.parametrize("offset", [0, None])
def test_query_tiles_without_a_list_see_everything(offset: int | None) -> None:
    """Lists that are 0, 1, 2, ... are not written down; with padding, in any order, beside ordinary lists."""
    case = problem(2, 2, 1, 40, 40, block=(8, 4), padded=True)
    slots = case.tiles.q_slot, case.tiles.k_slot
    everything = torch.rand(slots[0].shape[:3]) < 0.5
    lists = torch.randint(0, slots[1].shape[2] + 1, (*slots[0].shape[:3], 5), dtype=torch.int32)
    tiles = Tiles.padded(*slots, lists, everything, (0, 1), 40, 40, offset)
    assert ((tiles.start < 0) == everything).all()
    case = replace(case, tiles=tiles)
    close(run(case), case.expected())
    seen = visible(tiles, 2)
    for b in range(2):
        for head in range(2):
            rows = slots[0][b, head][everything[b, head]].long()
            keys = slots[1][b, head].long()
            allowed = torch.zeros(40, dtype=torch.bool)
            allowed[keys[keys >= 0]] = True
            for row in rows[rows >= 0].tolist():
                causal = allowed if offset is None else allowed & (torch.arange(40) <= row)
                assert torch.equal(seen[b, head, row], causal)


def test_gradients_are_those_of_dense_attention() -> None:
    """Through outputs and log-sum-exps, over segments of lists."""
    case = problem(1, 4, 2, 24, 24, dim=4, wide=4, block=(8, 4)).of(torch.float64)
    leaves = [part.requires_grad_() for part in (case.query, case.key, case.value)]
    both = []
    for output, lse in (run(case), case.expected()):
        assert output.requires_grad
        loss = (output * torch.linspace(-1, 1, output.numel()).view(output.shape)).sum() + lse[lse > -1e9].sum()
        both.append(torch.autograd.grad(loss, leaves))
    for mine, theirs in zip(*both, strict=True):
        limits.close(mine, theirs, terms=64)


@pytest.mark.parametrize(("dtype", "floor"), [(torch.float16, 1e-3), (torch.bfloat16, 1e-2)])
def test_half_precision(dtype: torch.dtype, floor: float) -> None:
    """At most twice the error of SDPA in the same dtype, and the floor."""
    case = problem(2, 4, 2, 50, 50, dim=64, wide=64).of(dtype)
    output, lse = run(case)
    assert output.dtype == dtype
    assert lse.dtype == torch.float32
    mask = visible(case.tiles, 4)
    expected, sums = case.expected()
    plain = scaled_dot_product_attention(
        case.query, case.key, case.value, attn_mask=mask, scale=case.scaling, enable_gqa=True
    )
    allowed = 2 * (plain.double() - expected)[mask.any(-1)].abs().max() + floor
    torch.testing.assert_close(output.double(), expected, rtol=0, atol=float(allowed))
    torch.testing.assert_close(lse.double(), sums, rtol=0, atol=floor)


def test_strides() -> None:
    """Transposed storage and a last dimension with steps."""
    case = problem(2, 4, 2, 20, 30, block=(8, 8))
    expected = case.expected()
    turned = [part.transpose(1, 2).contiguous().transpose(1, 2) for part in case.args[:3]]
    close(block_sparse_attention(*turned, case.tiles, case.scaling), expected)
    stepped = [part.repeat_interleave(2, -1)[..., ::2] for part in case.args[:3]]
    close(block_sparse_attention(*stepped, case.tiles, case.scaling), expected)


def test_keys_in_order_are_read_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """No copy of keys or values is made where slots hold them in the order of the sequence."""
    slots = in_order(32, 8, 1, 2), in_order(32, 8, 1, 2)
    visit = torch.rand(1, 2, 4, 4) < 0.5
    tiles = Tiles.mask(*slots, visit, rows=32, keys=32, offset=0)
    case = replace(problem(1, 2, 1, 32, 32), tiles=tiles)
    monkeypatch.setattr(tiled, "_rows", lambda *_: pytest.fail("copied"))
    close(run(case), case.expected())


@pytest.mark.parametrize(("rows", "keys"), [(0, 5), (3, 0)])
def test_nothing_to_attend(rows: int, keys: int) -> None:
    """No rows, or no keys: empty, or zeros and -inf."""
    slots = in_order(rows, 4, 2, 2), in_order(keys, 4, 2, 2)
    tiles = Tiles.mask(*slots, torch.ones(2, 2, 1, max(1, -(-keys // 4)), dtype=torch.bool), rows=rows, keys=keys)
    parts = torch.ones(2, 2, rows, 8), torch.ones(2, 1, keys, 8), torch.ones(2, 1, keys, 6)
    output, lse = block_sparse_attention(*parts, tiles)
    assert output.shape == (2, 2, rows, 6)
    assert (output == 0).all()
    assert (lse == -torch.inf).all()


def test_counts() -> None:
    """Visited tiles of each sample and their operations, counted by hand: tiles after the diagonal are not visited."""
    slots = in_order(32, 8, 2, 1), in_order(32, 8, 2, 1)
    visit = torch.ones(2, 1, 4, 4, dtype=torch.bool)
    visit[1, 0, 3, 1] = False
    tiles = Tiles.mask(*slots, visit, rows=32, keys=32, offset=0)
    assert tiles.visited().tolist() == [10, 9]
    assert tiles.full.sum((1, 2)).tolist() == [6, 5]
    assert tiles.flops(16, 4) == 19 * 2 * 8 * 8 * (16 + 4)


def csr(**changed: Any) -> Tiles:
    """A small valid call of `Tiles.csr`, with some arguments changed."""
    arguments: dict[str, Any] = {
        "q_slot": torch.tensor([[[[0, 1], [2, -1]]]]), "k_slot": torch.tensor([[[[0, 1], [2, 3]]]]),
        "indptr": torch.tensor([0, 1, 3]), "tile": torch.tensor([0, 0, 1]), "rows": 3, "keys": 4,
    }  # fmt: skip
    return Tiles.csr(**(arguments | changed))


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"tile": torch.tensor([0, 1, 0])}, ValueError, "a list of tiles is unsorted or names one twice"),
        ({"tile": torch.tensor([0, 1, 1])}, ValueError, "a list of tiles is unsorted or names one twice"),
        ({"tile": torch.tensor([0, 0, 2])}, ValueError, "tile holds 0 to 2: 0 to 1 is allowed"),
        ({"tile": torch.tensor([-1, 0, 1])}, ValueError, "tile holds -1 to 1: 0 to 1 is allowed"),
        ({"tile": torch.tensor([0.0, 0.0, 1.0])}, TypeError, "tile is torch.float32: integers are allowed"),
        ({"indptr": torch.tensor([0, 3])}, ValueError, "indptr must rise from 0 to 3, .* in 3 entries"),
        ({"indptr": torch.tensor([0, 2, 1])}, ValueError, "indptr must rise"),
        ({"rows": 2}, ValueError, "q_slot holds -1 to 2: 0 to 1, or -1 for an empty slot, is allowed"),
        ({"keys": 3}, ValueError, "k_slot holds 0 to 3: 0 to 2"),
        ({"k_slot": torch.tensor([[[[0, 1], [2, 1]]]])}, ValueError, "k_slot holds 1 in two slots of one head"),
        ({"q_slot": torch.tensor([[[[0, 1], [1, -1]]]])}, ValueError, "q_slot holds 1 in two slots"),
        ({"q_slot": torch.zeros(1, 1, 1)}, TypeError, "q_slot is torch.float32"),
        ({"k_slot": torch.zeros(2, 1, 1, 1, dtype=torch.int)}, ValueError, "do not fit"),
        ({"heads": (0, 1)}, ValueError, "2 heads are named for 1 plans"),
    ],
)
def test_wrong_lists_are_refused(changed: dict[str, Any], error: type[Exception], message: str) -> None:
    """Each with what is allowed; the same call without the change is fine."""
    csr()
    with pytest.raises(error, match=message):
        csr(**changed)


def test_rows_of_one_head_may_stand_in_one_plan_only() -> None:
    """Plans of different heads may share rows, those of one head may not."""
    slots = {"q_slot": torch.tensor([[[[0, 1]], [[0, 1]]]]), "k_slot": torch.tensor([[[[0, 1]], [[0, 1]]]])}
    rest = {"indptr": torch.tensor([0, 1, 2]), "tile": torch.tensor([0, 0]), "rows": 2, "keys": 2}
    csr(**slots, **rest, heads=(0, 1))
    with pytest.raises(ValueError, match="q_slot holds 0 in two slots of one head"):
        csr(**slots, **rest, heads=(1, 1))
    with pytest.raises(ValueError, match=r"visit is torch\.int64"):
        Tiles.mask(**slots, visit=torch.ones(2, dtype=torch.long), rows=2, keys=2)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((1, 2, 3, 8), (1, 1, 5, 8), (1, 1, 5, 8)), "the tiles are for a batch of 1, 3 rows and 4 keys"),
        (((1, 2, 3, 8), (1, 1, 4, 6), (1, 1, 4, 8)), "they must be"),
        (((1, 2, 3, 8), (1, 1, 4, 8), (1, 1, 5, 8)), "they must be"),
        (((1, 3, 3, 8), (1, 2, 4, 8), (1, 2, 4, 8)), "H a multiple of H_kv"),
        (((2, 1, 3, 8), (2, 1, 4, 8), (2, 1, 4, 8)), "the tiles are for a batch of 1"),
    ],
)
def test_shapes_that_do_not_fit(shapes: tuple[tuple[int, ...], ...], message: str) -> None:
    """The message says what they are and what is needed."""
    with pytest.raises(ValueError, match=message):
        block_sparse_attention(*(torch.ones(shape) for shape in shapes), csr())


def test_dtypes_and_heads_that_do_not_fit() -> None:
    """One floating-point dtype; heads that exist."""
    parts = [torch.ones(1, 1, size, 8) for size in (3, 4, 4)]
    block_sparse_attention(*parts, csr())
    with pytest.raises(TypeError, match=r"torch\.float32, torch\.float16, torch\.float32: one floating-point dtype"):
        block_sparse_attention(parts[0], parts[1].half(), parts[2], csr())
    with pytest.raises(TypeError, match=r"torch\.int64"):
        block_sparse_attention(*(part.long() for part in parts), csr())
    with pytest.raises(ValueError, match=r"the tiles name the heads \(1,\): 0 to 0 is allowed"):
        block_sparse_attention(*parts, csr(heads=(1,)))
