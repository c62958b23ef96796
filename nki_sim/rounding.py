"""What low precision costs a kernel, and where: ``rounding.report(kernel, *inputs)``.

The kernel runs several times on copies of its inputs: with every low-precision tensor kept as fp32
(as NKI_PRECISE_FP=0 does), precisely, and once more for each line that rounds, with that line
alone rounding. Differences are counted in ulps: the distance of neighbouring values of the data
type that is stored, at the exact value's size.
"""

from __future__ import annotations

import linecache
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np

from .dtypes import TABLE, Array
from .engines.base import READ, Instruction
from .host import is_torch_tensor
from .kernel import simulate
from .machine import Program
from .views import NkiTensor, full_view
from .watch import watch

_HERE = os.path.dirname(os.path.abspath(__file__)) + os.sep

Place = tuple[str, int, str, str]
"""File, line, opcode and stored data type."""


@dataclass(slots=True)
class Line:
    """The writes of one instruction at one source line that round.

    Attributes:
        file, line, source: where it stands.
        opcode, dtype: the instruction, and the type that it stores.
        writes: how often it executed.
        elements, rounded: written, and of these changed by rounding.
        largest, mean: error that its rounding adds, over all written elements (ulps of `dtype`).
        overflowed: finite values that became infinity or NaN.
        alone: per output, the end-to-end difference when nothing else rounds (root mean square
            over that of the exact result); None when it was not determined.
    """

    file: str
    line: int
    source: str
    opcode: str
    dtype: str
    writes: int = 0
    elements: int = 0
    rounded: int = 0
    largest: float = 0.0
    mean: float = 0.0
    overflowed: int = 0
    alone: list[float] | None = None

    def add(self, exact: Array, rounded: Array) -> None:
        """Count one write of `exact` values, stored as `rounded`."""
        errors, broken = ulps(exact, rounded, self.dtype)
        self.writes += 1
        total = self.mean * self.elements + float(errors.sum())
        self.elements += errors.size
        self.mean = total / max(self.elements, 1)
        self.rounded += int(np.count_nonzero(errors)) + broken
        self.overflowed += broken
        self.largest = max(self.largest, float(errors.max(initial=0.0)))


@dataclass(slots=True)
class Output:
    """How far one result lies from the one at full precision.

    Attributes:
        shape, dtype: of the result.
        largest, mean: difference in ulps of `dtype`.
        absolute: the largest difference.
        relative: root mean square of the difference over that of the exact result.
        differing: elements that are not the exact value rounded once.
        overflowed: elements that are infinite or NaN only because of low precision.
    """

    shape: tuple[int, ...]
    dtype: str
    largest: float
    mean: float
    absolute: float
    relative: float
    differing: int
    overflowed: int


@dataclass(slots=True)
class Report:
    """What `report` found.

    Attributes:
        kernel: its name.
        lines: those that round, the costliest first.
        outputs: in the order in which they are returned.
        unexplained: how far the fp32 run with every write rounded is from the precise run, over
            the whole difference (root mean squares of the worst output). Sums in another order
            make it a few percent; more means that an instruction does something with low-precision
            data that `lines` do not show.
    """

    kernel: str
    lines: list[Line] = field(default_factory=list)
    outputs: list[Output] = field(default_factory=list)
    unexplained: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and strings."""
        from dataclasses import asdict

        return asdict(self)

    def __str__(self) -> str:
        parts = [f"rounding in {self.kernel}: {len(self.lines)} lines round"]
        parts += [_describe(number, one) for number, one in enumerate(self.outputs)]
        if self.unexplained > 0.25:
            parts.append(f"of this, the lines below leave {self.unexplained:.0%} unexplained")
        if self.lines:
            parts += ["", *_table(self.lines)]
        return "\n".join(parts)


def report(
    kernel: Callable[..., Any], *inputs: Any, attributed: int = 32, **settings: Any
) -> Report:
    """Where and how much low precision costs.

    Args:
        kernel: a kernel, ``kernel[lnc]``, or a function that is one.
        inputs, settings: its arguments, which stay as they are.
        attributed: for how many lines to run the kernel with that line alone rounding.

    Raises:
        NotModelled: the kernel reinterprets low-precision bits, which fp32 storage has not.
    """
    launch = simulate(kernel)
    arguments = inputs, settings
    exact = _run(launch, arguments, _Rounding(lambda _: False))
    rounding = _run(launch, arguments, _Rounding(lambda _: True))
    precise = _run(launch, arguments, _Precise())
    made = Report(getattr(launch, "__name__", "a kernel"))
    for full, low in zip(exact.outputs, precise.outputs, strict=True):
        made.outputs.append(_compare(full, low))
    triples = zip(exact.outputs, rounding.outputs, precise.outputs, strict=True)
    made.unexplained = max((_residue(*three) for three in triples), default=0.0)
    found = {place: line for place, line in rounding.lines.items() if line.rounded}
    ranked = sorted(found, key=lambda place: (-found[place].overflowed, -found[place].rounded))
    for place in ranked[:attributed]:
        alone = _run(launch, arguments, _Rounding(place.__eq__))
        pairs = zip(exact.outputs, alone.outputs, strict=True)
        found[place].alone = [_compare(full, low).relative for full, low in pairs]
    made.lines = sorted(found.values(), key=lambda one: -max(one.alone or [-1.0]))
    return made


Captured = tuple[Array, str]
"""Values of a result as stored, and its data type."""


class _Precise:
    """Captures what a launch returns."""

    precise = True

    def __init__(self) -> None:
        self.outputs: list[Captured] = []

    def run(self, instruction: Instruction, program: Program) -> None:
        instruction.run(program)

    def output(self, result: NkiTensor) -> None:
        self.outputs.append((np.array(result.array), result.dtype))


class _Rounding(_Precise):
    """A launch with low-precision tensors kept as fp32, in which chosen writes round."""

    precise = False

    def __init__(self, chosen: Callable[[Place], bool]) -> None:
        super().__init__()
        self.chosen = chosen
        self.lines: dict[Place, Line] = {}
        self._lock = threading.Lock()

    def run(self, instruction: Instruction, program: Program) -> None:
        """Execute, then round what was written where that is chosen."""
        low = [
            (operand, tensor)
            for operand, tensor in instruction.tensors()
            if operand.access is not READ and _is_low(tensor)
        ]
        before = [
            None
            if type(tensor) is NkiTensor and instruction.overwrites(operand)
            else np.array(_values(tensor))
            for operand, tensor in low
        ]
        instruction.run(program)
        for (_, tensor), old in zip(low, before, strict=True):
            file, line = _caller()
            place = file, line, instruction.opcode, tensor.dtype
            if self.chosen(place):
                self._round(place, _values(tensor), old, tensor.dtype)

    def _round(self, place: Place, values: Array, old: Array | None, dtype: str) -> None:
        """Round `values` in place, those that differ from `old` if that is given."""
        exact = np.array(values)
        rounded = exact.astype(TABLE[dtype].numpy).astype(np.float32)
        if old is None:
            values[...] = rounded
        else:
            fresh = exact.view(np.uint32) != old.view(np.uint32)
            np.copyto(values, rounded, where=fresh)
            exact, rounded = exact[fresh], rounded[fresh]
        with self._lock:
            line = self.lines.get(place)
            if line is None:
                file, number, opcode, _ = place
                source = linecache.getline(file, number).strip()
                line = self.lines[place] = Line(file, number, source, opcode, dtype)
            line.add(exact, rounded)


def _is_low(tensor: NkiTensor) -> bool:
    """Whether a tensor's type is a float narrower than fp32, kept here as fp32."""
    kind = TABLE[tensor.dtype]
    return tensor.storage.widened and kind.kind == "float" and kind.itemsize < 4


def _values(tensor: NkiTensor) -> Array:
    """The window's elements; of a window with a dynamic offset, all elements behind it."""
    return tensor.array if type(tensor) is NkiTensor else full_view(tensor.storage).array


def _caller() -> tuple[str, int]:
    """File and line of the innermost frame outside the simulator."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_HERE):
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno


def _run(launch: Callable[..., Any], arguments: tuple[Any, Any], watcher: Any) -> Any:
    """Launch on copies of the arguments; the watcher afterwards."""
    inputs, settings = arguments
    with watch(watcher):
        launch(*map(_copy, inputs), **{name: _copy(value) for name, value in settings.items()})
    return watcher


def _copy(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, tuple):
        return tuple(map(_copy, value))
    return value.detach().clone() if is_torch_tensor(value) else value


def _wide(values: Array) -> Array:
    return values.astype(np.float64)


def ulps(exact: Array, stored: Array, dtype: str) -> tuple[Array, int]:
    """Differences in ulps of `dtype` at the exact values (0 where one is not finite), float64; and
    how many finite values became infinite or NaN. Integers count in ones.
    """
    with np.errstate(all="ignore"):
        wide, low = _wide(exact), _wide(stored)
        finite = np.isfinite(wide) & np.isfinite(low)
        difference = np.where(finite, np.abs(wide - low), 0.0)
        broken = int(np.count_nonzero(np.isfinite(wide) & ~np.isfinite(low)))
        return difference / spacing(np.where(finite, wide, 0.0), dtype), broken


def spacing(values: Array, dtype: str) -> Any:
    """The distance of neighbouring numbers of `dtype` at `values`; 1 for integers."""
    if TABLE[dtype].kind != "float":
        return 1.0
    limits = ml_dtypes.finfo(TABLE[dtype].numpy)
    _, exponent = np.frexp(np.abs(values))
    lowest = int(limits.minexp)
    exponent = np.where(values == 0, lowest, np.maximum(exponent - 1, lowest))
    return np.ldexp(1.0, exponent - int(limits.nmant))


def _compare(full: Captured, low: Captured) -> Output:
    """The difference of two captures of one result."""
    (exact, dtype), (stored, _) = full, low
    errors, broken = ulps(exact, stored, dtype)
    with np.errstate(all="ignore"):
        once = _wide(exact.astype(TABLE[dtype].numpy))
        wide, low_values = _wide(exact), _wide(stored)
        finite = np.isfinite(wide) & np.isfinite(low_values)
        difference = np.where(finite, wide - low_values, 0.0)
        scale = float(np.sqrt(np.mean(np.where(finite, wide, 0.0) ** 2)))
    rms = float(np.sqrt(np.mean(difference**2)))
    same = (once == low_values) | (np.isnan(once) & np.isnan(low_values))
    return Output(
        tuple(exact.shape),
        dtype,
        float(errors.max()),
        float(errors.mean()),
        float(np.abs(difference).max()),
        rms / scale if scale else rms,
        int(np.count_nonzero(~same)),
        broken,
    )


def _residue(exact: Captured, rounded: Captured, precise: Captured) -> float:
    """The root mean square of rounded - precise over that of exact - precise; 0 for 0 / 0."""
    with np.errstate(all="ignore"):
        wide, low, stored = (_wide(one[0]) for one in (exact, rounded, precise))
        left, whole = (np.nan_to_num(a - stored, posinf=0, neginf=0) for a in (low, wide))
    unexplained, all_of_it = (float(np.sqrt(np.mean(part**2))) for part in (left, whole))
    return unexplained / all_of_it if all_of_it else float(unexplained > 0)


def _describe(number: int, one: Output) -> str:
    broken = f", {one.overflowed} overflowed" if one.overflowed else ""
    return (
        f"output {number} {one.shape} {one.dtype}: off by up to {one.largest:.3g} ulp, "
        f"{one.mean:.3g} on average; relative {one.relative:.2g}; "
        f"{one.differing} of {int(np.prod(one.shape))} elements are not rounded once{broken}"
    )


def _table(lines: list[Line]) -> list[str]:
    """Columns of text: one row per line, its source below."""
    header = ("line", "instruction", "stores", "writes", "rounded", "largest", "mean", "alone")
    rows = [header]
    for one in lines:
        alone = "-" if one.alone is None else " ".join(f"{error:.2g}" for error in one.alone)
        broken = f" ({one.overflowed} overflowed)" if one.overflowed else ""
        rows.append((
            f"{os.path.basename(one.file)}:{one.line}", one.opcode, one.dtype, str(one.writes),
            f"{one.rounded} of {one.elements}{broken}", f"{one.largest:.2f}", f"{one.mean:.3f}",
            alone,
        ))  # fmt: skip
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    text = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    sources = ["", *(one.source for one in lines)]
    shown = [
        part
        for row, source in zip(text, sources, strict=True)
        for part in (row, "    " + source)
        if part.strip()
    ]
    return [
        "largest, mean: error that the line's rounding adds, in ulps of what it stores;",
        "alone: relative error of each output when only this line rounds",
        *shown,
    ]
