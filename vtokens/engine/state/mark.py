"""How what the tower saw travels with the features it made: as one more tensor among them."""

from __future__ import annotations

import io
from typing import Any, Protocol

import torch
from torch import Tensor


class Packable(Protocol):
    """Something that can go into a file or another process."""

    def content(self) -> dict[str, Any]:
        """What goes there, as plain values and tensors."""


class Mark(Tensor):
    """An empty tensor that carries a tower run along, wherever it is moved or copied to.

    On its way into a file or another process it becomes an ordinary tensor of bytes (`pack`), which reaches no model.
    """

    run: Packable

    @staticmethod
    def of(run: Packable) -> Mark:
        """The mark of a feature call."""
        return torch.empty(0, dtype=torch.uint8).as_subclass(Mark)._marked(run)

    def _marked(self, run: Packable) -> Mark:
        vars(self)["run"] = run
        return self

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = super().__torch_function__(func, types, args, kwargs or {})
        source = next((arg for arg in args if isinstance(arg, Mark)), None)
        if isinstance(result, Mark) and source is not None and "run" in source.__dict__:
            result._marked(source.run)
        return result

    def __deepcopy__(self, memo: Any) -> Mark:
        return Mark.of(self.run)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return pack(self.run.content()).__reduce_ex__(protocol)


def pack(content: dict[str, Any]) -> Tensor:
    """uint8 (bytes,): what `unpack` reads."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)


def unpack(stored: Tensor) -> dict[str, Any]:
    """What `pack` was given, tensors on the CPU."""
    content: dict[str, Any] = torch.load(io.BytesIO(stored.cpu().numpy().tobytes()), weights_only=True)
    return content
