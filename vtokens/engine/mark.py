"""How what the tower saw travels with the features it made: as one more tensor among them."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from vtokens.engine.seen import Seen

_PLAIN = (bool, int, float, str, type(None))


class Mark(Tensor):
    """An empty tensor that carries a `Seen` along, wherever it is moved or copied to.

    On its way into a file or another process it becomes an ordinary tensor of bytes (`pack`), which reaches no model.
    """

    seen: Seen

    @staticmethod
    def of(seen: Seen) -> Mark:
        """The mark of a feature call."""
        mark = torch.empty(0, dtype=torch.uint8).as_subclass(Mark)
        mark.seen = seen
        return mark

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = super().__torch_function__(func, types, args, kwargs or {})
        source = next((arg for arg in args if isinstance(arg, Mark)), None)
        if isinstance(result, Mark) and source is not None and "seen" in source.__dict__:
            result.seen = source.seen
        return result

    def __deepcopy__(self, memo: Any) -> Mark:
        return Mark.of(self.seen)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return pack(self.seen).__reduce_ex__(protocol)


def pack(seen: Seen) -> Tensor:
    """uint8 (bytes,): what `unpack` reads; of pixels the shape alone."""
    merging = seen.merging
    content = {
        "family": seen.adapter.model_type,
        "modality": seen.modality,
        "inputs": _light(seen.inputs),
        "scores": {block: [part.cpu() for part in parts] for block, parts in seen.scores.items()},
        "merging": None if merging is None else merging.state(),
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)


def unpack(stored: Tensor) -> dict[str, Any]:
    """What `pack` was given, tensors on the CPU."""
    content: dict[str, Any] = torch.load(io.BytesIO(stored.cpu().numpy().tobytes()), weights_only=True)
    return content


def _light(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a feature call without their pixels, and without what is neither tensor nor plain."""
    light: dict[str, Any] = {}
    for name, value in inputs.items():
        if isinstance(value, Tensor):
            value = value.detach()
            light[name] = value.to("meta") if name.startswith("pixel_values") else value.cpu()
        elif isinstance(value, Mapping):
            light[name] = _light(value)
        elif isinstance(value, _PLAIN):
            light[name] = value
        elif isinstance(value, list | tuple):
            light[name] = torch.as_tensor(value)
    return light
