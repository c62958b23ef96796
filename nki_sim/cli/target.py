"""What a command works on: a kernel in a file, and arguments for it."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ..dtypes import TABLE
from ..errors import SimulationError
from ..install import install
from ..lint.check import plain_function

DTYPES = {
    "f32": "float32", "fp32": "float32", "tf32": "tfloat32", "bf16": "bfloat16", "f16": "float16",
    "fp16": "float16", "i8": "int8", "i16": "int16", "i32": "int32", "u8": "uint8",
    "u16": "uint16", "u32": "uint32", "bool_": "bool", "e4m3": "float8_e4m3",
    "e4m3fn": "float8_e4m3fn", "e5m2": "float8_e5m2", "e8m0": "float8_e8m0fnu",
}  # fmt: skip
"""Short names of data types."""

_TENSOR = re.compile(r"(\d+(?:x\d+)*):?([\w.]*?)(?::([-+\d.e]+?)\.\.([-+\d.e]+))?")
_FILE = re.compile(r"(.+\.npy)(?::(\w+))?")


class UsageError(Exception):
    """The command is wrong: the file, the kernel's name, or an argument."""


@dataclass(frozen=True, slots=True)
class Target:
    """A kernel and its arguments.

    Attributes:
        name, file: of the kernel.
        kernel: to call with the arguments.
        arguments: by parameter.
    """

    name: str
    file: Path
    kernel: Callable[..., Any]
    arguments: dict[str, Any]

    def tensors(self) -> dict[str, np.ndarray[Any, Any]]:
        """The arguments that are tensors."""
        return {n: v for n, v in self.arguments.items() if isinstance(v, np.ndarray)}

    def described(self) -> str:
        """The call, in words."""
        parts = [f"{name} = {_words(value)}" for name, value in self.arguments.items()]
        return f"{self.name}({', '.join(parts)})"


def _words(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{'x'.join(map(str, value.shape))} {value.dtype.name}"
    return repr(value)


def split(target: str) -> tuple[Path, str]:
    """File and kernel name of ``FILE:kernel``; no name is an empty string."""
    file, _, name = target.rpartition(":") if ".py:" in target else (target, "", "")
    path = Path(file)
    if not path.is_file():
        hint = "" if file.endswith(".py") else "; a target is FILE.py:kernel"
        raise UsageError(f"there is no file {file}{hint}")
    return path.resolve(), name


def load(target: str, lnc: int | None = None) -> tuple[Path, str, Callable[..., Any]]:
    """The file, name and kernel of ``FILE:kernel``.

    Raises:
        UsageError: no such file or kernel, or the file cannot be imported.
    """
    path, name = split(target)
    own = kernels_in(target)
    if not name:
        if len(own) != 1:
            listed = ", ".join(own) or "none; a plain function must be named"
            raise UsageError(f"name a kernel: {target}:NAME; its kernels are {listed}")
        name = own[0]
    kernel: Any = getattr(_import(path), name, None)
    if not callable(kernel):
        listed = ", ".join(own) or "none"
        raise UsageError(f"{path.name} has no kernel {name!r}; its kernels are {listed}")
    from ..kernel import Kernel, simulate

    kernel = kernel if isinstance(kernel, Kernel) else simulate(kernel)
    return path, name, kernel if lnc is None else kernel[lnc]


def kernels_in(target: str) -> list[str]:
    """The kernels that a target's file defines itself."""
    from ..kernel import Kernel

    module = _import(split(target)[0])
    return [
        name
        for name, value in vars(module).items()
        if isinstance(value, Kernel) and value.function.__module__ == module.__name__
    ]


@cache
def _import(path: Path) -> ModuleType:
    """Import a file, as a module of its package when it is in one; once per process."""
    install()
    parts, folder = [path.stem], path.parent
    while (folder / "__init__.py").is_file():
        parts, folder = [folder.name, *parts], folder.parent
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    try:
        if len(parts) > 1:
            return importlib.import_module(".".join(parts))
        spec = importlib.util.spec_from_file_location(f"_kernels_{path.stem}", path)
        if spec is None or spec.loader is None:
            raise UsageError(f"{path.name} is no Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        return module
    except (SimulationError, UsageError):
        raise
    except Exception as error:
        raise UsageError(f"{path} cannot be imported: {type(error).__name__}: {error}") from error


def prepare(target: str, shapes: Sequence[str], seed: int, lnc: int | None = None) -> Target:
    """A kernel with arguments made from ``NAME=VALUE`` pairs.

    Raises:
        UsageError: a value cannot be understood, is missing, or belongs to no parameter.
    """
    path, name, kernel = load(target, lnc)
    parameters = inspect.signature(plain_function(kernel)).parameters
    generator = np.random.default_rng(seed)
    arguments: dict[str, Any] = {}
    for pair in shapes:
        key, equals, value = pair.partition("=")
        if not equals or not value:
            raise UsageError(f"{pair!r} is not NAME=VALUE, e.g. x=128x2048:bf16 or eps=1e-6")
        if key not in parameters:
            raise UsageError(f"{name} has no parameter {key!r}; it has {', '.join(parameters)}")
        if key in arguments:
            raise UsageError(f"{key} is given twice")
        arguments[key] = parse_value(key, value, generator)
    missing = [n for n, p in parameters.items() if p.default is p.empty and n not in arguments]
    if missing:
        wanted = " ".join(f"{n}=..." for n in missing)
        raise UsageError(f"{name} needs --shapes {wanted} (a tensor is x=128x2048:bf16)")
    return Target(name, path, kernel, arguments)


def parse_value(name: str, text: str, generator: np.random.Generator) -> Any:
    """A tensor of random numbers, a tensor from a file, or a constant."""
    tensor = _TENSOR.fullmatch(text)
    if tensor and ("x" in tensor[1] or ":" in text):
        return _random(name, tensor, generator)
    file = _FILE.fullmatch(text)
    if file:
        return _from_file(name, file[1], file[2])
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        if text.isidentifier():
            return text
    raise UsageError(
        f"{name}={text} cannot be understood; write a tensor as 128x2048:bf16, or a Python constant"
    )


def _dtype(name: str, short: str) -> str:
    dtype = DTYPES.get(short, short) or "float32"
    if dtype not in TABLE:
        known = ", ".join([*DTYPES, *(n for n in TABLE if n not in DTYPES.values())])
        raise UsageError(f"{name}: there is no data type {short!r}; choose from {known}")
    return dtype


def _random(name: str, tensor: re.Match[str], generator: np.random.Generator) -> Any:
    """Standard normal floats, integers from 0 to 7, or numbers of the range that is given."""
    shape = tuple(int(size) for size in tensor[1].split("x"))
    dtype = TABLE[_dtype(name, tensor[2])]
    if 0 in shape:
        raise UsageError(f"{name}: every dimension is at least 1, received {tensor[1]}")
    low, high = tensor[3], tensor[4]
    if dtype.kind == "float":
        values = generator.standard_normal(shape)
        if low is not None:
            values = generator.uniform(float(low), float(high), shape)
        return values.astype(dtype.numpy)
    if dtype.kind == "bool":
        return generator.integers(0, 2, shape).astype(np.bool_)
    if dtype.kind == "int":
        first, last = (0, 7) if low is None else (int(float(low)), int(float(high)))
        return generator.integers(first, last, shape, endpoint=True).astype(dtype.numpy)
    packed = generator.integers(0, 255, (*shape, dtype.itemsize), np.uint8)
    return packed.view(dtype.numpy).reshape(shape)


def _from_file(name: str, file: str, short: str | None) -> Any:
    try:
        array = np.load(file)
    except (OSError, ValueError) as error:
        raise UsageError(f"{name}: cannot read {file}: {error}") from error
    if short is None:
        if array.dtype.kind == "V":
            raise UsageError(f"{name}: {file} holds raw bytes; say their type: {file}:bf16")
        return array
    dtype = TABLE[_dtype(name, short)].numpy
    return array.view(dtype) if array.dtype.kind == "V" else array.astype(dtype)
