"""`v2drop` against the distances that an untouched copy's states move."""

import pytest

from tests.strategies.helpers import pair, report, three_rows
from tests.strategies.staging import FAMILIES, best, run
from vtokens.strategies import Facts, Visuals, get
from vtokens.strategies.signals import Entering


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_each_stage_keeps_what_the_layer_before_changed_most(family: str, side: str) -> None:
    """Half, a quarter, and then `keep`, by the length of the change from the states that entered that layer."""
    found = run(family, "v2drop(keep=0.15)", side)
    for seen in found.pictures:
        for layer, share in ((1, 0.5), (2, 0.25), (3, 0.15)):
            before = seen.left[layer - 1]
            states, was = (found.states[at][seen.row, before].double() for at in (layer, layer - 1))
            count = max(1, int(len(seen.places) * share + 0.5))
            assert seen.left[layer] == best((states - was).square().sum(-1).sqrt(), before, count)


def test_the_schedule_of_the_release() -> None:
    """Layers 3, 17 and 22 of 32 leave 288, 144 and one of 576 tokens, 202.75 a layer; never less than `keep` before."""
    strategy = get("v2drop")()
    assert strategy.prepare(Facts("llava", depth=32, tower_depth=4, has_cls=True)) == (3, 17, 22)
    counts = [576, *(strategy._left(576, stage) for stage in range(3))]
    assert counts == [576, 288, 144, 1]
    assert sum(a * b for a, b in zip(counts, (3, 14, 5, 10), strict=True)) / 32 == 202.8125
    assert get("v2drop")(keep=0.4).shares(0.4) == (0.5, 0.4)


def test_what_entered_a_layer_has_to_be_asked_for() -> None:
    model, batch = pair("llava")[0], three_rows("llava")
    from dataclasses import dataclass

    from vtokens.strategies import Needs, Selection, Strategy

    @dataclass(frozen=True)
    class Look(Strategy):
        ask: bool = True

        def needs(self, facts: Facts) -> Needs:
            return Needs(signals=(Entering(0),) if self.ask else (), layer=(2,))

        def at_layer(self, visuals: Visuals, index: int) -> Selection | None:
            assert visuals.entered(0).shape == (*visuals.valid.shape, visuals.hidden.shape[2])
            return None

    report(model, batch, Look())
    with pytest.raises(ValueError, match=r"states that entered layer 0 are not known here: let needs\(facts\)"):
        report(model, batch, Look(ask=False))
