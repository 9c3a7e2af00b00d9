"""A device that is not there: tensors that say they are elsewhere, so that a CPU shows who would wait for a GPU.

Values are computed on the CPU. What a GPU refuses is refused (tensors of both devices in one operation), and inside
`watched` what makes one wait raises `Waits`: reading values, shapes that depend on values, copies that block, and the
factorisations whose errors are looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend


class _Module(_DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]


_setup_privateuseone_for_python_backend("away", _Module())
DEVICE = torch.device("away", 0)
_READING = ("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "bincount", "histc",
            "multinomial", "unique", "_unique2", "unique_dim", "unique_consecutive", "allclose")  # fmt: skip
_CHECKED = ("_linalg_svd", "_linalg_eigh", "_linalg_eigvals", "linalg_eig", "linalg_eigvalsh", "linalg_lstsq",
            "_linalg_check_errors", "linalg_matrix_rank")  # fmt: skip
"""Operations that look at the values of a GPU, and factorisations that read there whether they went well."""


_INDEXING = ("index", "index_put", "_index_put_impl", "_unsafe_index")
"""Operations on a GPU's tensors that take indices of the host, which are copied, and waited for."""


class Waits(RuntimeError):
    """A stage would have waited for the device."""


class Away(Tensor):
    """A tensor on `DEVICE`; its values lie in `here`."""

    here: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, here: Tensor) -> Away:
        return Tensor._make_wrapper_subclass(
            cls, here.shape, strides=here.stride(), storage_offset=here.storage_offset(), dtype=here.dtype,
            layout=here.layout, device=DEVICE, requires_grad=False,
        )  # fmt: skip

    def __init__(self, here: Tensor) -> None:
        self.here = here

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Away({self.here!r})"

    def tolist(self) -> Any:
        """As a GPU's tensors do it: they are copied first, and that waits."""
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _run(function, args, kwargs or {})


class _Written(TorchFunctionMode):
    """`torch.tensor([...], device=...)` is a tensor on the host and a copy of it, which C++ makes unseen."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if function in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            device = torch.device(kwargs.pop("device"))
            values = _each(lambda one: one.item() if isinstance(one, Away) else one, args)
            return function(*values, **kwargs).to(device)
        return function(*args, **kwargs)


class Elsewhere(TorchDispatchMode):
    """Under it, what is made on `DEVICE` is there; inside `watched`, waiting is an error."""

    strict = False

    def __enter__(self) -> Elsewhere:
        self._written = _Written()
        self._written.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._written.__exit__(*error)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(function, args, kwargs or {}, self.strict)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Nothing waits in here."""
        before, self.strict = self.strict, True
        try:
            yield
        finally:
            self.strict = before


def _run(function: Any, args: Any, kwargs: Any, strict: bool = False) -> Any:
    name = function._schema.name.removeprefix("aten::").rstrip("_") if hasattr(function, "_schema") else str(function)
    tensors = [*_tensors(args), *_tensors(kwargs.values())]
    far = [one for one in tensors if isinstance(one, Away)]
    target = kwargs.get("device")
    made = target is not None and torch.device(target).type == DEVICE.type
    if not far and not made:
        return function(*args, **kwargs)
    copies = name in ("_to_copy", "copy")
    near = [one for one in tensors if not isinstance(one, Away) and one.dim()]
    indexed = name in _INDEXING and isinstance(args[0], Away)
    if indexed and near and strict:
        raise Waits(f"{name} with indices of the host")
    if far and near and not copies and not indexed:
        raise RuntimeError(f"{name}: tensors on {DEVICE} and on the CPU in one operation")
    if strict:
        _check(name, args, kwargs, far, near, target)
    if made or (copies and far and target is not None):
        kwargs = {**kwargs, "device": torch.device("cpu")}
        kwargs.pop("pin_memory", None)
    found = function(*_each(_here, args), **{key: _each(_here, value) for key, value in kwargs.items()})
    if name == "_local_scalar_dense" or (name == "_to_copy" and target is not None and not made):
        return found
    if function._schema.is_mutable and found is not None and not isinstance(found, (tuple, list)):
        written = next((a for a in args if isinstance(a, Tensor)), None)
        if isinstance(written, Away) and found is written.here:
            return written
    return _each(lambda one: Away(one) if isinstance(one, Tensor) and not isinstance(one, Away) else one, found)


def _check(name: str, args: Any, kwargs: Any, far: list[Away], near: list[Tensor], target: Any) -> None:
    if name in _READING or name in _CHECKED:
        raise Waits(name)
    if name == "repeat_interleave" and kwargs.get("output_size") is None:
        raise Waits(name)
    if name in _INDEXING:
        chosen = [one for one in args[1] if isinstance(one, Tensor)]
        filled = name != "index" and len(args) > 2 and args[2].numel() == 1 and len(chosen) == 1
        if any(one.dtype in (torch.bool, torch.uint8) for one in chosen) and not filled:
            raise Waits(f"{name} with a mask")
    if name == "_to_copy":
        crosses = (target is not None) and (torch.device(target).type == DEVICE.type) != bool(far)
        if crosses and args[0].numel() and not kwargs.get("non_blocking"):
            raise Waits("a copy between host and device that blocks")
    if name == "copy" and far and near and not (len(args) > 2 and args[2]) and not kwargs.get("non_blocking"):
        raise Waits("a copy between host and device that blocks")


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """Those among the arguments of an operation and in lists of them, which is all that operations take."""
    for one in values:
        if isinstance(one, Tensor):
            yield one
        elif isinstance(one, (list, tuple)):
            yield from _tensors(one)


def _each(change: Callable[[Any], Any], one: Any) -> Any:
    """`change` of what is no list or tuple, and of all inside; torch's pytree takes longer than most operations."""
    if isinstance(one, (list, tuple)):
        parts = [_each(change, part) for part in one]
        return parts if isinstance(one, list) else tuple(parts)
    return change(one)


def _here(one: Any) -> Any:
    return one.here if isinstance(one, Away) else one


def move(module: torch.nn.Module) -> None:
    """Every parameter and buffer of a module goes to `DEVICE`."""
    for part in module.modules():
        for name, value in list(part._parameters.items()):
            if value is not None:
                part._parameters[name] = torch.nn.Parameter(Away(value.detach()), requires_grad=False)
        for name, buffer in list(part._buffers.items()):
            if buffer is not None:
                part._buffers[name] = Away(buffer)
