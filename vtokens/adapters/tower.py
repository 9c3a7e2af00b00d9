"""The vision tower of a live model, found by what its family declares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import nn

from vtokens.adapters.anatomy import TowerSpec
from vtokens.core.picture import side


class MergePoint(NamedTuple):
    """A tower block that computes y = x + attention and y + mlp(norm(y)): tokens can be merged at y.

    `norm` is called with y alone, `mlp` with what that returns.
    """

    block: nn.Module
    norm: nn.Module
    mlp: nn.Module


class Tower:
    """A vision tower. Parts are looked up when they are asked for, so that what a user replaces counts.

    Args:
        spec: where they are.
        multimodal: the module that calls the tower.
    """

    def __init__(self, spec: TowerSpec, multimodal: Any) -> None:
        self._spec, self._multimodal = spec, multimodal

    def __deepcopy__(self, memo: dict[int, Any]) -> Tower:
        """The tower of a copied model; itself where a part of one is copied alone."""
        copied = memo.get(id(self._multimodal))
        return self if copied is None else Tower(self._spec, copied)

    @property
    def module(self) -> Any:
        """The tower itself; its config names its type.

        Raises:
            ValueError: it is not where the family has it.
        """
        found = next((part for path in self._spec.at if (part := follow(self._multimodal, path)) is not None), None)
        if found is None:
            raise ValueError(f"{type(self._multimodal).__name__} has no vision tower at {' or '.join(self._spec.at)}")
        return found

    @property
    def name(self) -> str:
        """What tells one tower from another by its config, as "clip_vision_model-24x1024-14-336"."""
        config = self.module.config
        if self.opaque:
            return f"{config.model_type}-{getattr(config, 'architecture', type(self.module).__name__)}"
        # A tower that resizes nothing has no image size of its own.
        size = getattr(config, "image_size", None)
        shape = f"{config.model_type}-{len(self.blocks)}x{config.hidden_size}-{side(config.patch_size)}"
        return shape + (f"-{side(size)}" if size else "")

    @property
    def opaque(self) -> bool:
        """Whether nothing inside it can be looked at: it has no `blocks` then, and no scores."""
        return self._spec.blocks is None

    @property
    def blocks(self) -> Sequence[Any]:
        """Its blocks, in order.

        Raises:
            ValueError: it is a tower of another kind.
        """
        module, paths = self.module, self._spec.blocks
        if paths is None:
            return ()
        paths = (paths,) if isinstance(paths, str) else paths
        lists: list[Any] = [follow(module, path) for path in paths]
        if None in lists:
            raise ValueError(
                f"no adapter of this family knows a {type(module).__name__} as vision tower: those with their blocks "
                f"at {' and '.join(f'`{path}`' for path in paths)} are supported"
            )
        found: Sequence[Any] = lists[0] if len(lists) == 1 else [block for part in lists for block in part]
        return found

    @property
    def attentions(self) -> Sequence[Any]:
        """The attention modules of its blocks, in order."""
        return [follow(block, self._spec.attention) for block in self.blocks]

    @property
    def has_cls(self) -> bool:
        """Whether it puts a class token before the patches, or behind them (`cls_last`)."""
        return self._spec.class_token is not None and follow(self.module, self._spec.class_token) is not None

    @property
    def cls_last(self) -> bool:
        """Whether its class token stands behind the patches."""
        return self.has_cls and self._spec.class_last

    @property
    def tiles(self) -> str | None:
        """The argument of its call that says which tiles are real (`TowerSpec.tiles`)."""
        return self._spec.tiles

    @property
    def feature_block(self) -> int:
        """The block (0-based) in which features are scored: the one whose output becomes the features (the deepest, if
        several do), or nearest to it of those that attend to whole pictures."""
        full = None if self._spec.full is None else follow(self.module, self._spec.full)
        if full:
            return int(max(full))
        layer = -1 if self._spec.layer is None else getattr(self._multimodal.config, self._spec.layer)
        # hidden_states has one entry more than there are blocks: entry -2 is the output of block depth - 2.
        layers = [layer] if isinstance(layer, int) else layer
        return max(int(number) % (len(self.blocks) + 1) for number in layers) - 1

    @property
    def merges(self) -> bool:
        """Whether tokens can be merged inside it, not only behind it."""
        return self._spec.merging is not None

    def merge_point(self, index: int) -> MergePoint:
        """Where tokens can be merged in block `index`; only if it `merges`."""
        norm, mlp = self._spec.merging or ("", "")
        block = self.blocks[index]
        return MergePoint(block, follow(block, norm), follow(block, mlp))

    @property
    def fewer(self) -> frozenset[str]:
        """What it can be shown of a picture in place of all of it (`TowerSpec.fewer`)."""
        return self._spec.fewer

    @property
    def embeddings(self) -> Any:
        """What turns pixels into its rows, where pictures are changed at its own call; None elsewhere."""
        return None if self._spec.embeddings is None else follow(self.module, self._spec.embeddings)

    @property
    def expands(self) -> bool:
        """Whether its projector is given fewer rows than there are patches, where some were merged or not shown."""
        return self.projector is not None and (self.merges or self._spec.embeddings is not None)

    @property
    def projector(self) -> Any:
        """What turns its rows into features (`TowerSpec.projector`); None if the family names none."""
        return None if self._spec.projector is None else follow(self._multimodal, self._spec.projector)


def follow(module: Any, path: str) -> Any:
    """What an attribute path leads to; None if it leads nowhere."""
    for name in path.split("."):
        # Asked at every turn of every call, and torch's own look-up goes through a method in Python.
        held: Any = getattr(module, "_modules", ())
        module = held[name] if name in held else getattr(module, name, None)
    return module
