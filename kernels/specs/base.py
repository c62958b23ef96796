"""What a kernel's specification is: shapes that it must handle, tolerances, refusals.

Importing this package does not import `nki`: `KernelSpec.load` does, when a kernel is wanted.
"""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import ml_dtypes
import numpy as np

from kernels import samples

Inputs = dict[str, Any]  # by parameter name: ndarray, or a constant
Scalars = Mapping[str, float | int | str | bool | None]
Kind = Literal["true", "ragged", "model"]

DTYPES: dict[str, np.dtype[Any]] = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
    "int32": np.dtype(np.int32),
    "uint32": np.dtype(np.uint32),
}
EPS = 1e-6  # rms_norm_eps of Qwen3-30B-A3B


@dataclass(frozen=True)
class Case:
    """One set of shapes that a kernel must handle.

    `kind`: "true" (Qwen3-30B-A3B), "ragged" (rows that fill no whole tile) or "model" (the tiny
    checkpoint). `float32`: arguments which stay float32 whatever the dtype under test. `values`:
    integer arguments that hold this value everywhere, instead of what the samples have. `scalars`:
    constants of this case, which go before the spec's. `cores`: physical cores to launch it on.
    """

    label: str
    kind: Kind
    shapes: samples.Shapes
    float32: tuple[str, ...] = ()
    values: Mapping[str, int] = field(default_factory=dict)
    scalars: Scalars = field(default_factory=dict)
    cores: tuple[int, ...] = (1,)


@dataclass(frozen=True)
class Tolerance:
    """Allowed error |actual - expected| <= atol + rtol * |expected|, and why that much."""

    rtol: float
    atol: float
    why: str


@dataclass(frozen=True)
class Refusal:
    """Inputs which a kernel must refuse, and a fragment of the message it must do so with."""

    label: str
    message: str
    shapes: samples.Shapes
    dtypes: Mapping[str, str] = field(default_factory=dict)  # float32 unless named
    scalars: Scalars = field(default_factory=dict)

    def inputs(self) -> Inputs:
        """The arguments, filled with ones: they are to be refused before they are read."""
        arrays: Inputs = {
            name: np.ones(shape, dtype=DTYPES[self.dtypes.get(name, "float32")])
            for name, shape in self.shapes.items()
        }
        return arrays | dict(self.scalars)


@dataclass(frozen=True)
class KernelSpec:
    """One kernel: where it is, its oracle, and the inputs it is tested with.

    `updates`: arguments that the kernel writes in place, each with the number of the result that it
    is returned as.
    """

    name: str
    title: str
    file: str
    function: str
    description: str
    tile_size: str
    reference: Callable[..., Any]
    fill: Callable[[np.random.Generator, samples.Shapes], samples.Arrays]
    cases: tuple[Case, ...]
    tolerances: Mapping[str, Tolerance]
    refusals: tuple[Refusal, ...]
    scalars: Scalars = field(default_factory=dict)
    updates: Mapping[str, int] = field(default_factory=dict)

    @property
    def dtypes(self) -> tuple[str, ...]:
        """Dtypes of the main argument that the kernel takes."""
        return tuple(self.tolerances)

    def load(self) -> Any:
        """The kernel itself; imports `nki` (ImportError where there is none)."""
        module = importlib.import_module(f"kernels.{self.file.removesuffix('.py')}")
        return getattr(module, self.function)

    def inputs(self, case: Case, dtype: str, seed: int = 0) -> Inputs:
        """Arguments for a case by name: reproducible from (kernel, case, seed).

        Floating-point arrays are cast to `dtype`, integers are left as they are; all are
        contiguous, as what a framework hands over.
        """
        key = zlib.crc32(f"{self.name}/{case.label}".encode())
        arrays: Inputs = dict(self.fill(np.random.default_rng([seed, key]), case.shapes))
        for name, array in arrays.items():
            if array.dtype.kind == "f":
                cast = DTYPES["float32" if name in case.float32 else dtype]
                arrays[name] = array.astype(cast, order="C")
        for name, value in case.values.items():
            arrays[name] = np.full_like(arrays[name], value)
        return arrays | dict(self.scalars) | dict(case.scalars)
