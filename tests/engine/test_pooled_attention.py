"""Attention pooled over all rows, or by its maximum, at once or when it is read: against the model's own matrices."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import vtokens
from tests.engine.cases import model
from tests.engine.test_layer_signals import Look, asked_rows, visual_of
from tests.families import image, inputs
from tests.limits import close_pass
from vtokens.strategies import Attention, Facts, Needs, Strategy, Visuals, parse

pytestmark = pytest.mark.usefixtures("no_grad")


def batch_of(family: str, side: Any) -> dict[str, Any]:
    prompts = ["Is there a cat?", "Compare <image> with <image> please, and say which"]
    groups = [[image(100, 60, seed=0)], [image(84, 112, seed=1), image(84, 84, seed=2)]]
    return dict(inputs(family, prompts, groups, padding_side=side))


class Read(Look):
    """As `Look`, of any attention."""

    def at_layer(self, visuals: Visuals, index: int) -> None:
        for one in self.wanted:
            self.log[one] = visuals.received(one.layer, one.rows, one.rotary, one.pool, one.lazy, one.level)


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_as_in_the_whole_matrix(family: str, side: Any, lazy: bool) -> None:
    batch = batch_of(family, side)
    matrix = model(family, "plain", "eager")(**batch, output_attentions=True).attentions[2]
    target, real = model(family, "pruned"), batch["attention_mask"].bool()
    visual, placeholder = visual_of(target, batch)
    wanted = tuple(Attention(2, rows, pool=pool, lazy=lazy) for rows in ("text", "all") for pool in ("mean", "max"))
    look = Read(wanted=wanted)
    with vtokens.attach(target, look):
        target(**batch)
    for signal in wanted:
        for row in range(2):
            rows = real[row] if signal.rows == "all" else asked_rows(batch, visual, placeholder, "text", row)
            part = matrix[row][:, rows]
            expected = part.mean((0, 1)) if signal.pool == "mean" else part.amax((0, 1))
            close_pass(look.log[signal][row][real[row]], expected[real[row]])


class Late(Strategy):
    """Reads the attention of layer 1 before layer 3."""

    name = "late"

    def needs(self, facts: Facts) -> Needs:
        return Needs(signals=(Attention(1, lazy=True),), layer=(2, 3))

    def at_layer(self, visuals: Visuals, index: int) -> None:
        if index == 3:
            visuals.attention(1, lazy=True)


def test_what_nobody_read_before_the_next_layer_is_not_known() -> None:
    with vtokens.attach(model("llava", "pruned"), Late()), pytest.raises(ValueError, match="not known here"):
        model("llava", "pruned")(**batch_of("llava", "left"))


@pytest.mark.parametrize("lazy", [False, True])
def test_the_most_of_merged_positions(lazy: bool) -> None:
    """Where attention sees merged tokens at all of their positions, a token received the most of any of these."""
    target, batch = model("llava", "pruned"), dict(inputs("llava", ["what is <image> this"], [[image(84, 60, seed=3)]]))
    wanted = tuple(Attention(2, "all", pool=pool, lazy=lazy) for pool in ("mean", "max"))
    look = Read(wanted=wanted)
    with vtokens.attach(target, [*parse("dymu(thresholds=(0.3, 0.3))"), look]):
        target(**batch)
    mean, most = (look.log[signal][0] for signal in wanted)
    close_pass(mean.sum(), torch.tensor(1.0))
    assert (most <= 1 + 1e-5).all()
    assert (most >= mean / len(mean)).all()
    # The first position is a token of its own, and the only key of its row.
    close_pass(most[0], torch.tensor(1.0))


@pytest.mark.parametrize(
    ("family", "before", "level"),
    [("llava", "", False), ("molmo2", "", False), ("molmo2", "", True), ("llava", "dymu(thresholds=(0.3, 0.3))", True)],
)
def test_each_head_by_itself(family: str, before: str, level: bool) -> None:
    """The mean over heads is what all give together; with distances divided out, no less, and more than once apart."""
    target, batch = model(family, "pruned"), dict(inputs(family, ["what is <image> this"], [[image(84, 60, seed=3)]]))
    each, mean = Attention(2, "all", pool="each", level=level), Attention(2, "all")
    look = Read(wanted=(each, mean))
    with vtokens.attach(target, [*(parse(before) if before else ()), look]):
        target(**batch)
    assert look.log[each].shape == (*look.log[mean].shape, target.config.get_text_config().num_attention_heads)
    together, apart = look.log[mean][0], look.log[each][0].mean(-1)
    if not level:
        close_pass(apart, together)
        assert not torch.allclose(look.log[each][0, :, 0], look.log[each][0, :, 1])
    else:
        assert bool((apart >= together * (1 - 1e-5)).all())
        assert float(apart.sum()) > 1.05 * float(together.sum())
        # The last position is seen by itself alone, from no distance.
        close_pass(apart[-1], together[-1])


def test_levels_are_of_heads_told_apart() -> None:
    with pytest.raises(ValueError, match=r"in each head: pool='each' is allowed"):
        vtokens.attach(model("llava", "pruned"), Look(wanted=(Attention(1, level=True),)))


def test_an_unknown_pool_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown pool 'sum'"):
        vtokens.attach(model("llava", "pruned"), Look(wanted=(Attention(1, pool="sum"),)))  # type: ignore[arg-type]
