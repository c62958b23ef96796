"""Runs a kernel on a spec's case and compares it with its oracle, or on inputs it must refuse."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.specs import Case, Inputs, KernelSpec, Refusal, Tolerance

Kernel = Any  # callable, and by [cores] in a launch on several
WORST_SHOWN = 5


@dataclass(frozen=True)
class Verification:
    """Outcome of one kernel on one case in one dtype.

    `worst_index` is (result number, *index in it) of the element furthest beyond its tolerance, or
    furthest off when all are within; errors are None where results could not be compared.
    """

    kernel: str
    case: str
    dtype: str
    passed: bool
    max_abs_error: float | None
    max_ulp_error: int | None
    worst_index: tuple[int, ...] | None
    message: str


@dataclass(frozen=True)
class RefusalCheck:
    """Outcome of one kernel on inputs that it must refuse."""

    kernel: str
    refusal: str
    passed: bool
    message: str


@dataclass(frozen=True)
class _Comparison:
    """One result array against its oracle's."""

    abs_error: float
    ulp_error: int
    excess: float  # error beyond the tolerance; > 0 is a failure
    worst: tuple[int, ...]
    report: str


class _NotComparable(Exception):
    """The result has another shape or dtype than the oracle's, or is not finite."""


def ulp_distance(actual: NDArray[Any], expected: NDArray[Any]) -> NDArray[np.int64]:
    """How many representable numbers lie between each pair (0 if equal; -0 equals +0).

    Of one dtype, 2 or 4 bytes wide; integers are their own representation.
    """
    if actual.dtype.kind in "iu":
        return np.abs(actual.astype(np.int64) - expected.astype(np.int64))
    bits = np.dtype(f"i{actual.dtype.itemsize}")
    magnitude = np.int64(np.iinfo(bits).max)

    def ordered(array: NDArray[Any]) -> NDArray[np.int64]:
        raw = np.ascontiguousarray(array).view(bits).astype(np.int64)
        return np.where(raw < 0, -(raw & magnitude), raw)

    return np.abs(ordered(actual) - ordered(expected))


def _require_comparable(actual: NDArray[Any], expected: NDArray[Any]) -> None:
    if actual.shape != expected.shape or actual.dtype != expected.dtype:
        raise _NotComparable(
            f"is {actual.dtype} {actual.shape}, the oracle gives {expected.dtype} {expected.shape}"
        )
    for name, array in (("kernel", actual), ("oracle", expected)):
        finite = np.isfinite(array)
        if not finite.all():
            broken = np.argwhere(~finite)
            first = tuple(int(i) for i in broken[0])
            raise _NotComparable(
                f"has {len(broken)} NaN or infinite elements from the {name}, the first at "
                f"{first}: {array[first]}"
            )


def _compare(actual: NDArray[Any], expected: NDArray[Any], tolerance: Tolerance) -> _Comparison:
    _require_comparable(actual, expected)
    wide_actual, wide_expected = actual.astype(np.float64), expected.astype(np.float64)
    error = np.abs(wide_actual - wide_expected)
    exact = expected.dtype.kind in "iu"
    allowed = (
        np.zeros_like(error) if exact else tolerance.atol + tolerance.rtol * np.abs(wide_expected)
    )
    excess = error - allowed
    indices = _worst_first(excess)
    lines = [
        f"  {index}: kernel {wide_actual[index]!s}, oracle {wide_expected[index]!s}, "
        f"error {error[index]:.3g}, allowed {allowed[index]:.3g}"
        for index in indices
        if excess[index] > 0
    ]
    summary = f"{int(np.sum(excess > 0))} of {error.size} elements beyond tolerance; the worst:"
    return _Comparison(
        abs_error=float(np.max(error)),
        ulp_error=int(np.max(ulp_distance(actual, expected))),
        excess=float(excess[indices[0]]),
        worst=indices[0],
        report="\n".join([summary, *lines]),
    )


def _worst_first(excess: NDArray[np.float64]) -> list[tuple[int, ...]]:
    """Where the largest excesses are, the first of equals first; only the largest if none fails."""
    largest = int(np.argmax(excess))
    order = [largest]
    if excess.flat[largest] > 0:
        order = [int(i) for i in np.argsort(-excess, axis=None, kind="stable")[:WORST_SHOWN]]
    return [tuple(int(i) for i in np.unravel_index(flat, excess.shape)) for flat in order]


def _as_tuple(result: Any) -> tuple[NDArray[Any], ...]:
    results = tuple(result) if isinstance(result, (tuple, list)) else (result,)
    return tuple(np.asarray(array) for array in results)


def _bytes(array: NDArray[Any]) -> NDArray[np.uint8]:
    """An array's elements in row-major order, as bytes."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _same_bytes(one: NDArray[Any], other: NDArray[Any]) -> bool:
    return np.array_equal(_bytes(one), _bytes(other))


def _checksums(arguments: Inputs) -> dict[str, int]:
    """A checksum of each array: hundreds of megabytes are compared without a copy of them."""
    return {
        name: zlib.crc32(_bytes(value).data)
        for name, value in arguments.items()
        if isinstance(value, np.ndarray)
    }


@dataclass(frozen=True)
class _Trial:
    """A case in one dtype: arguments, their checksums, and what the oracle makes of them."""

    key: tuple[KernelSpec, Case, str, int]
    arguments: Inputs
    checksums: dict[str, int]
    expected: tuple[NDArray[Any], ...]


_latest: list[_Trial] = []
"""The last trial, at most: launches of a case on one core and on two follow each other."""


def _take_trial(spec: KernelSpec, case: Case, dtype: str, seed: int) -> _Trial:
    """The trial of a case: the latest one, if it was put back, or a new one."""
    key = (spec, case, dtype, seed)
    if _latest and _latest[0].key == key:
        return _latest.pop()
    _latest.clear()  # before the next is made: the largest are most of a gigabyte
    arguments = spec.inputs(case, dtype, seed)
    checksums = _checksums(arguments)
    return _Trial(key, arguments, checksums, _as_tuple(spec.reference(**arguments)))


def _changed(trial: _Trial) -> list[str]:
    """The arguments that are no longer what they were, in alphabetical order."""
    now = _checksums(trial.arguments)
    return sorted(name for name, checksum in trial.checksums.items() if checksum != now[name])


def _failed(spec: KernelSpec, case: Case, dtype: str, message: str) -> Verification:
    return Verification(spec.name, case.label, dtype, False, None, None, None, message)


def verify(
    spec: KernelSpec,
    case: Case,
    dtype: str,
    kernel: Kernel | None = None,
    seed: int = 0,
    cores: int = 1,
    writes_back: bool = True,
) -> Verification:
    """Run `kernel` (by default the spec's own, on `cores` cores) on a case and compare all results.

    Fails on a wrong number, shape or dtype of results, on NaN or infinity, on an error beyond the
    spec's tolerance, on an argument that was written to although the spec does not say so, and on
    an updated argument that is not the result it is returned as. The last only where a launch
    `writes_back` into the caller's arrays, as simulators do; a device gets copies of them. What the
    kernel raises is not caught.
    """
    trial = _take_trial(spec, case, dtype, seed)
    expected = trial.expected
    own = {name: trial.arguments[name].copy() for name in spec.updates}
    arguments = trial.arguments | own
    launch = kernel or (spec.load() if cores == 1 else spec.load()[cores])
    actual = _as_tuple(launch(**arguments))
    if changed := _changed(trial):
        return _failed(spec, case, dtype, f"the kernel wrote to its arguments {changed}")
    _latest.append(trial)
    updates = spec.updates if writes_back else {}
    for name, number in updates.items():
        if number < len(actual) and not _same_bytes(arguments[name], actual[number]):
            return _failed(spec, case, dtype, f"{name} was not updated to result {number}")
    if len(actual) != len(expected):
        wrong = f"{len(actual)} results, the oracle gives {len(expected)}"
        return _failed(spec, case, dtype, wrong)
    comparisons = []
    for number, (got, wanted) in enumerate(zip(actual, expected, strict=True)):
        try:
            comparisons.append(_compare(got, wanted, spec.tolerances[dtype]))
        except _NotComparable as problem:
            return _failed(spec, case, dtype, f"result {number} {problem}")
    worst = max(range(len(comparisons)), key=lambda number: comparisons[number].excess)
    passed = comparisons[worst].excess <= 0
    return Verification(
        kernel=spec.name,
        case=case.label,
        dtype=dtype,
        passed=passed,
        max_abs_error=max(comparison.abs_error for comparison in comparisons),
        max_ulp_error=max(comparison.ulp_error for comparison in comparisons),
        worst_index=(worst, *comparisons[worst].worst),
        message="" if passed else f"result {worst}: {comparisons[worst].report}",
    )


def verify_refusal(
    spec: KernelSpec, refusal: Refusal, kernel: Kernel | None = None
) -> RefusalCheck:
    """Check that the kernel refuses the inputs, with the message that the spec declares.

    Any exception with that message counts: compilers wrap a kernel's own AssertionError in theirs.
    """
    launch = kernel or spec.load()
    try:
        launch(**refusal.inputs())
    except Exception as error:
        if refusal.message in str(error):
            return RefusalCheck(spec.name, refusal.label, True, "")
        received = f"{type(error).__name__}: {error}"
        message = f"refused without saying {refusal.message!r}, but with {received}"
        return RefusalCheck(spec.name, refusal.label, False, message)
    return RefusalCheck(spec.name, refusal.label, False, "was accepted, it must be refused")
