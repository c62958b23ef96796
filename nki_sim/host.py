"""The host's side of a launch: NumPy arrays and torch CPU tensors in, the same kind out.

Kernel inputs share memory with the caller's tensors where they can, so that a kernel which writes
to its input (a KV cache) is seen by the caller; where they cannot, changed inputs are copied back.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .constants import SHARED_HBM
from .dtypes import TABLE, Array, name_of
from .errors import IllegalProgram, NoNumbers
from .memory import Storage
from .modes import SHAPES, selected
from .placeholders import Placeholder
from .views import NkiTensor, full_view
from .watch import watching

if TYPE_CHECKING:
    import torch

_TORCH_BITS = {1: "uint8", 2: "int16"}
"""Integer types through which torch hands over element types that NumPy lacks, by element size."""


@dataclass(slots=True)
class Argument:
    """A tensor argument.

    Attributes:
        name: the kernel's parameter.
        given: what the caller passed.
        storage: what the kernel works on.
        target: where to copy changes back to; None when the storage shares the caller's memory.
    """

    name: str
    given: Any
    storage: Storage
    target: Array | None


class Host:
    """Conversion of one launch's arguments and results."""

    def __init__(self, kernel: str, precise: bool) -> None:
        self.kernel = kernel
        self.precise = precise
        self.arguments: dict[int, Argument] = {}
        self.torch_seen = False
        self.hollow = selected() == SHAPES

    # -- in ----------------------------------------------------------------------------------------

    def receive(self, name: str, value: Any) -> Any:
        """The kernel's view of an argument: a tensor in HBM, or the constant itself."""
        if self.hollow and _is_tensor(value):
            return self._receive_shape(name, value)
        if isinstance(value, Placeholder):
            raise NoNumbers(
                self.kernel,
                f"argument {name} has values",
                repr(value),
                "run the kernel that made it in another mode too",
            )
        if isinstance(value, np.ndarray):
            return self._receive_array(name, value, value)
        if is_torch_tensor(value):
            self.torch_seen = True
            return self._receive_array(name, value, self._from_torch(name, value))
        if isinstance(value, tuple) and type(value) is tuple:
            return tuple(self.receive(f"{name}[{i}]", item) for i, item in enumerate(value))
        if isinstance(value, list | np.generic):
            remedy = (
                "pass a tuple"
                if isinstance(value, list)
                else "convert it with float(...) or int(...)"
            )
            raise self._refuse(
                f"argument {name} is a tensor or a constant", f"a {type(value).__name__}", remedy
            )
        return value

    def _receive_array(self, name: str, given: Any, array: Array) -> NkiTensor:
        if array.ndim == 0 or array.size == 0:
            raise self._refuse(
                f"tensor argument {name} has a dimension and elements", f"shape {array.shape}"
            )
        dtype = TABLE[name_of(array.dtype, self.kernel)]
        widened = not self.precise and dtype.kind == "float" and dtype.name != "float32"
        shared = array.flags.c_contiguous and not widened
        dense = array if shared else np.array(array, np.float32 if widened else None, order="C")
        storage = Storage(
            SHARED_HBM, array.shape, dtype, name, dense.reshape(-1).view(np.uint8), widened
        )
        storage.locked = shared and not array.flags.writeable
        self.arguments[storage.serial] = Argument(name, given, storage, None if shared else array)
        return full_view(storage)

    def _receive_shape(self, name: str, value: Any) -> NkiTensor:
        """The kernel's view of a tensor argument of which only shape and type matter."""
        if is_torch_tensor(value):
            self.torch_seen = True
            dtype = str(value.dtype).removeprefix("torch.")
        else:
            dtype = name_of(value.dtype, self.kernel)
        if dtype not in TABLE:
            raise self._refuse(
                f"tensor argument {name} has a type of the device", dtype, "convert it"
            )
        shape = tuple(value.shape)
        if not shape or 0 in shape:
            raise self._refuse(
                f"tensor argument {name} has a dimension and elements", f"shape {shape}"
            )
        storage = Storage(SHARED_HBM, shape, TABLE[dtype], name, None, hollow=True)
        storage.complete()
        return full_view(storage)

    def _from_torch(self, name: str, tensor: torch.Tensor) -> Array:
        if tensor.device.type != "cpu":
            raise self._refuse(
                f"tensor argument {name} is on the CPU",
                f"device {tensor.device}",
                "move it with .cpu()",
            )
        tensor = tensor.detach()
        dtype = str(tensor.dtype).removeprefix("torch.")
        if dtype not in TABLE and dtype not in ("float64", "int64"):
            raise self._refuse(
                f"tensor argument {name} has a type of the device", dtype, "convert it"
            )
        if dtype == "bfloat16" or dtype.startswith("float8"):
            import torch

            bits = tensor.view(getattr(torch, _TORCH_BITS[tensor.element_size()]))
            return np.asarray(bits.numpy()).view(TABLE[dtype].numpy)
        return np.asarray(tensor.numpy())

    # -- out ---------------------------------------------------------------------------------------

    def deliver(self, result: Any) -> Any:
        """The caller's view of what the kernel returned."""
        if isinstance(result, tuple | list):
            return type(result)(self.deliver(item) for item in result)
        if not isinstance(result, NkiTensor):
            if result is None:
                return None
            raise self._refuse("a kernel returns tensors", f"{type(result).__name__} {result!r}")
        watcher = watching()
        if watcher is not None:
            watcher.output(result)
        argument = self.arguments.get(result.storage.serial)
        if (
            argument is not None
            and result.covers_storage()
            and result.shape == argument.storage.shape
        ):
            return argument.given
        self._check_output(result)
        return self._to_host(result)

    def _check_output(self, result: NkiTensor) -> None:
        if result.buffer is not SHARED_HBM:
            raise self._refuse(
                "results are in shared_hbm",
                str(result),
                "allocate the output with buffer=nl.shared_hbm and copy to it",
            )
        result.require_written(self.kernel, "the result")

    def _to_host(self, result: NkiTensor) -> Any:
        if self.hollow:
            return self._placeholder(result)
        array = np.ascontiguousarray(result.array)
        array = array.astype(TABLE[result.dtype].numpy, copy=False)
        if result.dtype == "bool":
            array = array.view(np.bool_)
        if not self.torch_seen:
            return array
        import torch

        name = _torch_name(result.dtype)
        if name == "bfloat16" or name.startswith("float8"):
            bits = torch.from_numpy(array.view(_TORCH_BITS[array.itemsize]))
            return bits.view(getattr(torch, name))
        return torch.from_numpy(array.view(name) if name.startswith("uint") else array)

    def _placeholder(self, result: NkiTensor) -> Any:
        """Shape and type of a result without numbers."""
        if not self.torch_seen:
            kind = np.bool_ if result.dtype == "bool" else TABLE[result.dtype].numpy
            return Placeholder(result.shape, kind)
        import torch

        name = _torch_name(result.dtype)
        return torch.empty(result.shape, dtype=getattr(torch, name), device="meta")

    def copy_back(self) -> None:
        """Hand changed inputs to the caller where memory is not shared."""
        for argument in self.arguments.values():
            if argument.target is None or not argument.storage.dirty:
                continue
            if not argument.target.flags.writeable:
                raise self._refuse(
                    f"argument {argument.name} can be written", "a read-only array", "pass a copy"
                )
            argument.target[...] = full_view(argument.storage).array

    def _refuse(self, rule: str, received: str, remedy: str = "") -> IllegalProgram:
        return IllegalProgram(self.kernel, rule, received, remedy)


def _torch_name(dtype: str) -> str:
    """The torch type of a result; unsigned integers of the same bits where torch has none."""
    import torch

    if dtype == "tfloat32":
        return "float32"
    return dtype if hasattr(torch, dtype) else f"uint{8 * TABLE[dtype].itemsize}"


def is_torch_tensor(value: object) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _is_tensor(value: object) -> bool:
    return isinstance(value, np.ndarray | Placeholder) or is_torch_tensor(value)
