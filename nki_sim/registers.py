"""Registers of the engines' sequencers, and the loops that run on the device.

A register's value is known only when the kernel runs, so Python must not look at it: it can bound
a loop, end one, be the ``scalar_offset`` of an access pattern, and be stored to memory.
"""

from __future__ import annotations

import ast
import functools
import itertools
import linecache
import sys
from collections.abc import Callable, Iterator
from types import CodeType, FrameType
from typing import Any, NoReturn

import numpy as np

from .dtypes import Array
from .errors import IllegalProgram, UninitialisedRead
from .machine import Program, current, running
from .schedule import call_site

_serials = itertools.count(1)
LOWEST, HIGHEST = -(2**31), 2**32 - 1
"""32 bits, read as signed or as unsigned."""


class VirtualRegister:
    """A 32-bit register (``nisa.register_alloc``).

    Attributes:
        value: an integer or a float32's value; None before the first write, and on shapes, where
            it is unknown.
        unknown: it was loaded in a launch on shapes.
        frozen: the induction variable of a loop, which cannot be written.
        serial: unique number.
    """

    __slots__ = ("frozen", "serial", "unknown", "value")
    __hash__ = object.__hash__

    def __init__(self, state: int | float | None = None, frozen: bool = False) -> None:
        self.value = state
        self.frozen = frozen
        self.unknown = False
        self.serial = next(_serials)

    def __repr__(self) -> str:
        return "a frozen register" if self.frozen else "a register"

    # -- what instructions do with it --------------------------------------------------------------

    def write(self, value: int | float | None, operation: str, unknown: bool = False) -> None:
        """Set it.

        Raises:
            IllegalProgram: it is a loop's induction variable, or 32 bits do not hold the value.
        """
        if self.frozen:
            raise IllegalProgram(
                operation,
                "a loop's induction variable is not written",
                repr(self),
                "move it to another register, or keep the state in SBUF",
            )
        if isinstance(value, int) and not LOWEST <= value <= HIGHEST:
            raise IllegalProgram(operation, "a register holds 32 bits", repr(value))
        self.value = value
        self.unknown = unknown

    def integer(self, operation: str, role: str) -> int:
        """Its value where a number of elements or iterations is meant; 0 where it is unknown."""
        self.require_written(operation, role)
        if self.unknown:
            return 0
        if not isinstance(self.value, int):
            raise IllegalProgram(
                operation, f"{role} is an integer register", "a register with a float"
            )
        return self.value

    def require_written(self, operation: str, role: str) -> None:
        """Raise UninitialisedRead unless it has been written."""
        if self.value is None and not self.unknown:
            raise UninitialisedRead(
                operation,
                f"{role} must have been written before it is read",
                "a register that nothing has written",
                "give register_alloc a value, or load one",
            )

    @property
    def array(self) -> Array:
        """As an index: its value, int64 [1, 1]."""
        return np.array([[self.integer("ap", "scalar_offset")]], np.int64)

    # -- what Python may not do with it ------------------------------------------------------------

    def __bool__(self) -> bool:
        frame = sys._getframe(1)
        if not _is_while(frame):
            self._refuse("a condition")
        self.require_written("while", "the condition")
        if self.unknown:
            return _assume_passes(self)
        return self.value != 0

    def _refuse(self, *what: Any) -> NoReturn:
        used = what[0] if what and isinstance(what[0], str) else "a Python number"
        raise IllegalProgram(
            "register",
            "its value is known on the device only: it bounds loops, offsets access patterns and "
            "is stored",
            f"a register used as {used}",
            "use nl.fori_loop, nl.while_loop, scalar_offset= or nisa.register_store",
        )

    __int__ = __index__ = __float__ = __complex__ = __round__ = __len__ = __iter__ = _refuse
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = _refuse
    __rtruediv__ = __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = __pow__ = _refuse
    __lshift__ = __rshift__ = __and__ = __or__ = __xor__ = __neg__ = __invert__ = __abs__ = _refuse
    __lt__ = __le__ = __gt__ = __ge__ = _refuse

    def __eq__(self, other: object) -> bool:
        if isinstance(other, int | float):
            self._refuse("a number to compare")
        return self is other


def _assume_passes(register: VirtualRegister) -> bool:
    """On shapes ``while register`` runs its body as often as the launch assumes."""
    program = current("while")
    left: dict[int, int] = program.passes_left
    if id(register) not in left:
        left[id(register)] = program.launch.assume_passes("while: a loop on a register")
    if left[id(register)] == 0:
        del left[id(register)]
        return False
    left[id(register)] -= 1
    return True


# -- loops -----------------------------------------------------------------------------------------


def bound(value: object, operation: str, role: str) -> int:
    """A loop bound: an integer or a register."""
    if isinstance(value, VirtualRegister):
        return value.integer(operation, role)
    if type(value) is not int:
        raise IllegalProgram(operation, f"{role} is an integer or a register", repr(value))
    return value


def steps(operation: str, lower: object, upper: object, step: object) -> range:
    """The values of a device loop; as many as the launch assumes, if a bound is unknown."""
    if type(step) is not int or step < 1:
        raise IllegalProgram(
            operation, "the step is a positive integer known while tracing", repr(step)
        )
    program = current(operation)
    if program.ordered:
        raise IllegalProgram(
            operation,
            "a device loop does not stand inside nl.no_reorder",
            "a loop in a no_reorder block",
            "put the no_reorder block into the loop's body",
        )
    first, last = bound(lower, operation, "the lower bound"), bound(upper, operation, "the bound")
    if any(isinstance(value, VirtualRegister) and value.unknown for value in (lower, upper)):
        passes = program.launch.assume_passes(f"{operation}: a loop whose bounds are registers")
        return range(first, first + passes * step, step)
    return range(first, last, step)


class Body:
    """The body of a device loop, which exists once: what it allocates and names in one iteration
    are the same tensors and instructions in the next.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.names = {kind: set(names) for kind, names in program.names.items()}
        self.allocated = program.seat.allocated if program.seat is not None else 0

    def again(self) -> None:
        """Before every iteration."""
        self.program.names.update({kind: set(names) for kind, names in self.names.items()})
        if self.program.seat is not None:
            self.program.seat.allocated = self.allocated


def dynamic_range(
    start: int | VirtualRegister, stop: int | VirtualRegister | None = None, step: int = 1
) -> Iterator[VirtualRegister]:
    """``nl.dynamic_range``: a ``for`` loop on the device; the values are frozen registers."""
    operation = "nl.dynamic_range"
    lower, upper = (0, start) if stop is None else (start, stop)
    _check_body(sys._getframe(1), operation)
    return _iterations(steps(operation, lower, upper, step), current(operation), call_site())


def _iterations(values: range, program: Program, where: str) -> Iterator[VirtualRegister]:
    body = Body(program)
    try:
        for value in values:
            body.again()
            yield VirtualRegister(value, frozen=True)
    except GeneratorExit:
        program.fault = _left_early("nl.dynamic_range", where)
        raise


def fori_loop(
    lower: int | VirtualRegister,
    upper: int | VirtualRegister,
    body_fun: Callable[[VirtualRegister], Any],
    step: int = 1,
) -> None:
    """``nl.fori_loop``: ``body_fun(i)`` for every i, passed by value in a register."""
    body = Body(current("nl.fori_loop"))
    for value in steps("nl.fori_loop", lower, upper, step):
        body.again()
        body_fun(VirtualRegister(value))


def while_loop(
    init: VirtualRegister, body_fun: Callable[[VirtualRegister], VirtualRegister]
) -> None:
    """``nl.while_loop``: ``r = body_fun(r)`` while r is not zero."""
    operation = "nl.while_loop"
    register, body = _condition(init), Body(current(operation))
    steps(operation, 0, 0, 1)
    left = 0  # passes, once a condition is unknown
    while register.integer(operation, "the condition") or register.unknown:
        body.again()
        passed = VirtualRegister(register.value)
        passed.unknown = register.unknown
        was_unknown = register.unknown
        register = _condition(body_fun(passed))
        if was_unknown or register.unknown:
            launch = current(operation).launch
            left = (left or launch.assume_passes(f"{operation}: a loop on a register")) - 1
            if left == 0:
                return


def _condition(register: object) -> VirtualRegister:
    if not isinstance(register, VirtualRegister):
        raise IllegalProgram(
            "nl.while_loop",
            "the condition is a register, and so is what the body returns",
            repr(register),
            "return the next condition's register from the body",
        )
    return register


# -- how a loop is written -------------------------------------------------------------------------


def _left_early(operation: str, where: str) -> IllegalProgram:
    return IllegalProgram(
        operation,
        "break, continue and return do not stand in a device loop",
        f"the loop at {where}",
        "compute a bound first, or use a static loop",
    )


def _check_body(frame: FrameType, operation: str) -> None:
    """Refuse a ``for`` statement whose body leaves it early."""
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    for node in _statements(frame.f_code):
        if not isinstance(node, ast.For) or node.iter.lineno > frame.f_lineno:
            continue
        if (node.iter.end_lineno or 0) >= frame.f_lineno and _leaves(node.body):
            raise _left_early(operation, f"line {node.lineno} of {frame.f_code.co_filename}")


_PACKAGE = __file__.rsplit("registers", 1)[0]


def _leaves(body: list[ast.stmt], nested: bool = False) -> bool:
    """Whether statements of a loop leave it or an iteration of it; `nested`: in an inner loop."""
    for node in body:
        if isinstance(node, ast.Return) or (
            isinstance(node, ast.Break | ast.Continue) and not nested
        ):
            return True
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            continue
        inner = nested or isinstance(node, ast.For | ast.While)
        for name in ("body", "orelse"):
            if _leaves(getattr(node, name, []), inner):
                return True
    return False


def _is_while(frame: FrameType) -> bool:
    """Whether the line that a frame executes is the condition of a ``while`` on a bare name."""
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    return any(
        isinstance(node, ast.While)
        and isinstance(node.test, ast.Name | ast.Attribute | ast.Subscript)
        and node.test.lineno <= frame.f_lineno <= (node.test.end_lineno or 0)
        for node in _statements(frame.f_code)
    )


@functools.lru_cache(maxsize=256)
def _statements(code: CodeType) -> tuple[ast.stmt, ...]:
    """The loops of the file that defines `code`; none when its source is not there."""
    source = "".join(linecache.getlines(code.co_filename))
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return ()
    return tuple(node for node in ast.walk(tree) if isinstance(node, ast.For | ast.While))


def no_reorder() -> Callable[[], None]:
    """Enter an ``nl.no_reorder`` block; call the result to leave it."""
    program = running()
    if program is None:
        return lambda: None
    program.ordered += 1

    def leave() -> None:
        program.ordered -= 1

    return leave
