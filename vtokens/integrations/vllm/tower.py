"""What vLLM's vision towers show: queries and keys on their way into attention, and what leaves blocks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from vtokens.adapters import Adapter
from vtokens.engine.stages.votes import Read, votes
from vtokens.engine.state.tower_run import TowerRun
from vtokens.strategies.signals import OfTower, Saliency, Scored, TowerKeys, TowerStates


class Watch:
    """Collects what signals ask for in one call of a tower.

    Args:
        adapter: of the model.
        inputs: the arguments of the feature call, as transformers names them.
        signals: what is asked for.
    """

    def __init__(self, adapter: Adapter, inputs: Mapping[str, Any], signals: Iterable[OfTower]) -> None:
        self._adapter, self._inputs = adapter, inputs
        depth, feature = len(adapter.tower.blocks), adapter.tower.feature_block
        self._scored: set[Scored] = set()
        self._keyed: set[int] = set()
        self._stated: set[int] = set()
        for signal in signals:
            if isinstance(signal, Saliency):
                self._scored.update(signal.scored(depth, feature))
            elif isinstance(signal, TowerKeys | TowerStates):
                wanted = self._keyed if isinstance(signal, TowerKeys) else self._stated
                wanted.add(feature if signal.block is None else signal.block % depth)
        self._scores: dict[Scored, list[Tensor]] = {}
        self._keys: dict[int, list[Tensor]] = {}
        self._states: dict[int, list[Tensor]] = {}
        self._first = int(adapter.tower.has_cls)

    @contextmanager
    def on(self, blocks: Sequence[nn.Module], attentions: Sequence[nn.Module]) -> Iterator[None]:
        """Watch the blocks of a tower, and the modules that compute their attention, in a `with` block."""
        handles: list[Any] = []
        try:
            for number in {number for number, _, _ in self._scored} | self._keyed:
                hook = self._on_attention(number)
                handles.append(attentions[number].register_forward_pre_hook(hook, with_kwargs=True))
            handles += [blocks[number].register_forward_hook(self._on_block(number)) for number in self._stated]
            yield
        finally:
            for handle in handles:
                handle.remove()

    def run(self) -> TowerRun:
        """What was seen."""
        adapter, inputs = self._adapter, self._inputs
        return TowerRun(adapter, "image", inputs, self._scores, None, keys=self._keys, states=self._states)

    def _on_attention(self, number: int) -> Any:
        def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            query, key = (
                _heads(kwargs[name] if name in kwargs else args[place], module)
                for place, name in enumerate(("query", "key"))
            )
            if number in self._keyed:
                rows = key[:, :, self._first :].transpose(1, 2).flatten(0, 1)
                self._keys.setdefault(number, []).append(rows.detach())
            for one in self._scored:
                if one[0] == number:
                    self._scores.setdefault(one, []).extend(self._votes(Read(query, key, module.scale), one))

        return hook

    def _votes(self, read: Read, one: Scored) -> Iterator[Tensor]:
        """float32 (patches,), for each stretch of patches that attend to each other."""
        number, rows, heads = one
        read, every = read.of(heads), rows == "all" or not self._first
        attended = getattr(self._adapter, "attended", None)
        # Packed towers have one row, in which pictures, frames or windows follow each other.
        parts = [read] if attended is None else read.split(list(attended(self._inputs["image_grid_thw"])[number]))
        for part in parts:
            yield votes(part, every)[:, self._first :].flatten()

    def _on_block(self, number: int) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            states = (output[0] if isinstance(output, tuple) else output).detach()
            if hasattr(self._adapter, "attended"):  # packed towers have one row of patches: (patches, 1, C)
                states = states.flatten(0, 1)[None]
            self._states.setdefault(number, []).append(states[:, self._first :].flatten(0, 1))

        return hook


def _heads(rows: Tensor, module: Any) -> Tensor:
    """(B, H, N, d) of all heads, from (B, N, H * d) or (B, N, H, d) of those of one rank."""
    from vllm.distributed import get_tensor_model_parallel_world_size, tensor_model_parallel_all_gather

    rows = rows.detach()
    rows = rows if rows.dim() == 4 else rows.unflatten(2, (module.num_heads, module.head_size))
    if get_tensor_model_parallel_world_size() > 1:
        rows = tensor_model_parallel_all_gather(rows.contiguous(), 2)
    return rows.transpose(1, 2)
