"""Stages that a family has no place for, videos that it never sees, and visual tokens outside the sequence."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from vtokens.adapters import Adapter
from vtokens.strategies import Needs, Strategy
from vtokens.strategies.signals import Attention, LayerKeys, Neurons, OfTower, Relevance, Sensitivity
from vtokens.strategies.video_pruner import VideoPruner


def check_stages(adapter: Adapter, strategies: Iterable[Strategy]) -> None:
    """Raise `ValueError` if a strategy finds nothing to act on in a family, whatever its settings.

    It acts at a stage that the family has no place for, or on frames of videos, and the family sees no videos, or only
    clips of one frame. Asked before settings are looked at, so that nobody is sent to calibrate what cannot run.
    """
    for strategy in strategies:
        stages = set(strategy.stages())
        if isinstance(strategy, VideoPruner) and not adapter.anatomy.sees_frames:
            sees = "images: what it is fed of a film are images to it, one for each frame"
            if adapter.anatomy.apart:
                sees = "clips of a single frame each: it is not told which of them make a video"
            raise ValueError(
                f"{strategy.name!r} drops tokens of videos alone, and a {type(adapter.model).__name__} sees {sees}. "
                "Strategies for images, as 'todre', prune those; `vtokens models` lists the families that take videos"
            )
        # A pruner that acts before the decoder may leave out what it does later.
        _refuse(adapter, strategy, stages - ({"layer"} if "prompt" in stages else set()))


def check_outside(adapter: Adapter, active: Sequence[tuple[Strategy, Needs]]) -> None:
    """Raise `ValueError` if a strategy, with its settings, needs what a family has no place for.

    Args:
        active: strategies that act on it, and what they need.
    """
    for strategy, needs in active:
        _refuse(adapter, strategy, {stage for stage in strategy.stages() if needs.acts_at(stage)})
        if "pixels" in strategy.stages():
            _check_fewer(adapter, strategy, needs)
        if adapter.tower.opaque and any(isinstance(signal, OfTower) for signal in needs.signals):
            raise ValueError(
                f"{strategy.name!r} reads attention, keys or states of the vision tower, and nothing inside the "
                f"{type(adapter.tower.module).__name__} of a {type(adapter.model).__name__} can be looked at: "
                "strategies that read features or the decoder are supported on it, such as 'fastv' and 'uniform'"
            )
        _check_neurons(adapter, strategy, needs)
        if needs.norm:
            norm_of(adapter, repr(strategy.name))
        if any(isinstance(signal, Sensitivity) for signal in needs.signals):
            _check_projectors(adapter, strategy)
        if adapter.anatomy.cross is None:
            continue
        why = None
        if needs.unmerges:
            why = "lets attention see merged tokens at all of their positions"
        elif needs.blends:
            why = "makes tokens sums of several"
        elif needs.sizes:
            why = "lets tokens count for several in attention"
        elif any(isinstance(signal, Attention | LayerKeys | Neurons) for signal in needs.signals):
            why = "reads attention, keys or neurons of decoder layers"
        elif any(isinstance(signal, Relevance) for signal in needs.signals):
            why = "compares visual tokens with the text around them"
        if why is not None:
            raise ValueError(f"{strategy.name!r} {why}{_outside(adapter)}")


def _check_neurons(adapter: Adapter, strategy: Strategy, needs: Needs) -> None:
    """Raise `ValueError` if neurons are asked for of a decoder layer whose MLP has no last matrix that they enter."""
    if adapter.anatomy.cross is not None:
        return
    for layer in {one.layer for one in needs.signals if isinstance(one, Neurons)} & {*range(len(adapter.layers))}:
        mlp = getattr(adapter.layers[layer], "mlp", None)
        if not isinstance(getattr(mlp, "down_proj", None), nn.Module):
            raise ValueError(
                f"{strategy.name!r} reads neurons of decoder layer {layer}, and its MLP in a "
                f"{type(adapter.model).__name__} has no `down_proj` that they enter, as a mixture of experts has none: "
                "use a strategy that reads attention or features, such as 'fastv'"
            )


def norm_of(adapter: Adapter, what: str) -> nn.Module:
    """The norm behind the decoder's last layer; ValueError for `what` reads states behind it, where there is none."""
    found = getattr(adapter.language_model, adapter.anatomy.norm, None)
    if not isinstance(found, nn.Module):
        raise ValueError(
            f"{what} reads states as the norm behind the decoder's last layer leaves them, and a "
            f"{type(adapter.language_model).__name__} has no `{adapter.anatomy.norm}`: use a strategy that reads "
            "attention or features, such as 'fastv'"
        )
    return found


def check_inside(adapter: Adapter, what: str) -> None:
    """Raise `ValueError` if visual tokens stand outside the sequence, where `what` looks for them in it."""
    if adapter.anatomy.cross is not None:
        raise ValueError(f"{what} looks for visual tokens in the sequence{_outside(adapter)}")


def _refuse(adapter: Adapter, strategy: Strategy, acts: set[str]) -> None:
    """Raise `ValueError` if a strategy acts at stages that a family has no place for."""
    others = ", ".join(stage for stage in strategy.stages() if stage in acts - adapter.anatomy.stages)
    if not others:
        return
    if adapter.anatomy.cross is not None:
        settings = f", or settings that leave {others} out" if "prompt" in strategy.stages() else ""
        raise ValueError(f"{strategy.name!r} acts at {others}{_outside(adapter)}{settings}")
    why = ", as its layers cache what all heads share in place of keys" if adapter.anatomy.latent else ""
    raise ValueError(
        f"{strategy.name!r} acts at {others}, for which a {type(adapter.model).__name__} has no "
        f"place{why}: strategies that act at {', '.join(sorted(adapter.anatomy.stages))} are supported on it"
    )


def _check_fewer(adapter: Adapter, strategy: Strategy, needs: Needs) -> None:
    """Raise `ValueError` if a tower cannot be shown what a strategy makes of pictures."""
    if not needs.pixels:
        raise ValueError(
            f"{strategy.name!r} changes pictures before the vision tower without having said how: let its needs() "
            'return Needs(pixels="resize") or Needs(pixels="repeats")'
        )
    blind = [modality for modality, tower in adapter.towers.items() if needs.pixels not in tower.fewer]
    if not blind:
        return
    able = sorted(set.intersection(*(set(tower.fewer) for tower in adapter.towers.values())))
    model, tower = type(adapter.model).__name__, type(adapter.towers[blind[0]].module).__name__
    less = {"resize": "smaller pictures", "repeats": "pictures without some of their tokens"}[needs.pixels]
    raise ValueError(
        f"{strategy.name!r} shows the vision tower {less}, and a {tower} in a {model} is shown whole ones: it, or what "
        "follows it, takes pictures of one size alone, joins the patches of whole squares, or is not known to do "
        f"neither. {'Strategies that ' + able[0] + ' are supported on it' if able else 'Nothing is saved in it then'}: "
        "strategies that drop tokens behind the tower save the decoder's part, as 'uniform' and 'divprune'"
    )


def _outside(adapter: Adapter) -> str:
    return (
        f", and the visual tokens of a {type(adapter.model).__name__} are no positions of the decoder, but keys of its "
        f"cross-attention layers: strategies that act at {', '.join(sorted(adapter.anatomy.stages))}, by the tower's "
        "scores or by features, are supported on it, such as 'cls', 'uniform' and 'todre(exit_threshold=None)'"
    )


def _check_projectors(adapter: Adapter, strategy: Strategy) -> None:
    """Raise `ValueError` unless the projector of each tower is known, and has weights that can be read in float32."""
    for tower in dict.fromkeys(adapter.towers.values()):
        projector, name = tower.projector, type(adapter.model).__name__
        if projector is None:
            raise ValueError(
                f"{strategy.name!r} pushes what the projector is given, and no adapter says of a {name} what projects "
                "its tokens, one by one. Strategies that read features or saliency are supported, as 'idselection'"
            )
        for weight in projector.parameters():
            whole = weight.is_floating_point() and weight.dtype.itemsize > 1 and not weight.is_meta
            if not whole or type(weight).dequantize is not Tensor.dequantize:
                raise ValueError(
                    f"{strategy.name!r} pushes what the projector of a {name} is given by less than weights can tell "
                    "that are quantised, and reads none that are offloaded: load it in float16, bfloat16 or float32"
                )
