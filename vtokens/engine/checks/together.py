"""Whether strategies can run beside each other, and on a model that has a place for what they do."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from vtokens.adapters import Adapter
from vtokens.adapters.decoder import mlp_of
from vtokens.adapters.output import makes_logits
from vtokens.engine.attention.rotary import still_layers
from vtokens.engine.checks.capped import check_capped
from vtokens.engine.checks.joined import check_joined
from vtokens.engine.checks.linear import check_linear
from vtokens.engine.checks.moves import check_moves
from vtokens.engine.checks.outside import check_outside
from vtokens.engine.checks.shared_keys import check_shared_keys
from vtokens.engine.checks.shortcut import check_shortcut
from vtokens.strategies import Needs, Strategy, format_spec
from vtokens.strategies.signals import Change, Neurons


def check_together(adapter: Adapter, active: Sequence[tuple[Strategy, Needs]]) -> None:
    """Raise `ValueError` if two strategies do what only one can, or one does what this model has no place for.

    Args:
        active: strategies that act on it, and what they need.
    """
    check_outside(adapter, active)
    check_capped(adapter, active)
    check_linear(adapter, active)
    check_shared_keys(adapter, active)
    check_joined(adapter, active)
    check_shortcut(adapter, active)
    check_moves(adapter, active)
    merging = [strategy for strategy, needs in active if needs.encode or needs.pixels]
    if len(merging) > 1:
        raise ValueError(
            f"{format_spec(merging)!r} would merge the tokens of one vision tower, or show it fewer, twice: keep one "
            "of them"
        )
    if any(needs.encode for _, needs in active):
        adapter.check_merging({})
    unmerging = [strategy for strategy, needs in active if needs.unmerges]
    if len(unmerging) > 1:
        raise ValueError(
            f"{format_spec(unmerging)!r} would show attention what is merged twice: keep one of them, or let the other "
            "drop what it merges"
        )
    passing = [strategy for strategy, needs in active if needs.rows]
    if passing and unmerging:
        raise ValueError(
            f"{passing[0].name!r} lets visual tokens pass through layers as they are, and {unmerging[0].name!r} shows "
            "attention merged ones at all of their positions: keep one of them, or let the other drop what it merges"
        )
    looked = {
        one.layer: (strategy, "neurons" if isinstance(one, Neurons) else f"what the {one.part} does")
        for strategy, needs in active
        for one in needs.signals
        if isinstance(one, Neurons | Change)
    }
    idle = [(strategy, index) for strategy, needs in active for index in needs.rows if index in looked]
    if idle:
        reads, what = looked[idle[0][1]]
        raise ValueError(
            f"{reads.name!r} reads {what} of decoder layer {idle[0][1]}, and {idle[0][0].name!r} lets "
            "visual tokens pass through it as they are, without any: name other layers"
        )
    compact = [strategy for strategy, needs in active if needs.compact]
    if compact and adapter.anatomy.axes == 3:
        raise ValueError(
            f"{format_spec(compact[:1])!r}: the tokens of a {type(adapter.model).__name__} stand at places in time, "
            "height and width, which have no order that numbers could follow: positions='original' is allowed"
        )
    if compact and unmerging:
        raise ValueError(
            f"{format_spec(compact[:1])!r} closes the gaps between positions, and {unmerging[0].name!r} lets attention "
            "see all of them: positions='original' is allowed beside it"
        )
    sizing = [strategy for strategy, needs in active if needs.sizes]
    # Who does both itself knows of sizes, and is alone in it.
    both = [strategy for strategy, needs in active if needs.sizes and needs.attend]
    inside = [
        strategy
        for strategy, needs in active
        if (needs.unmerges or (needs.attend and not needs.minds_sizes)) and [strategy] != both
    ]
    if inside and sizing:
        raise ValueError(
            f"{sizing[0].name!r} lets tokens count for several in attention, which {inside[0].name!r} does not know "
            "of, as it acts inside of it, reads it, or unmerges tokens there: keep one of them, or leave the filter"
        )
    if both:
        still_layers(adapter)  # before a pass, where nobody compiles or times
    evicting = [strategy for strategy, needs in active if needs.cache]
    if len(evicting) > 1:
        raise ValueError(f"{format_spec(evicting)!r} would drop keys of one cache twice: keep one of them")
    if evicting and (sizing or unmerging):
        raise ValueError(
            f"{evicting[0].name!r} drops cached keys, and {(sizing or unmerging)[0].name!r} lets keys stand for "
            "several tokens: keep one of them"
        )
    computing = [strategy for strategy, needs in active if needs.computes]
    if computing and adapter.anatomy.visibility is not None:
        raise ValueError(
            f"{computing[0].name!r} computes attention to what comes before, and in a {type(adapter.model).__name__} "
            "pictures see themselves both ways: use a strategy that leaves attention to the model"
        )
    if len(computing) > 1:
        raise ValueError(f"{format_spec(computing)!r} would compute attention twice: keep one of them")
    weighing = [strategy for strategy, needs in active if needs.attend and needs.weighs]
    if len(weighing) > 1:
        raise ValueError(
            f"{format_spec(weighing)!r} would weigh attention twice, each of them from what the model gave: keep one"
        )
    changing = [strategy for strategy, _ in active if "logits" in strategy.stages()]
    contrasting = [strategy for strategy in changing if strategy.negative(adapter.facts) is not None]
    if len(contrasting) > 1:
        raise ValueError(f"{format_spec(contrasting)!r} would contrast logits twice: keep one of them")
    if changing and not makes_logits(adapter):
        raise ValueError(
            f"{changing[0].name!r} changes logits, and a {type(adapter.model).__name__} makes none: attach "
            "it to the ...ForConditionalGeneration"
        )
    for strategy, index in ((strategy, index) for strategy, needs in active for index in needs.mlp):
        if not isinstance(mlp_of(adapter.layers[index]), nn.Module):
            raise ValueError(
                f"{strategy.name!r} adds to what the MLP of decoder layer {index} puts out, and a "
                f"{type(adapter.layers[index]).__name__} has no `mlp`: what leaves the layer can be added to instead, "
                'with place = "layer"'
            )
