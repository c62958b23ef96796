"""Launching: what ``@nki.jit`` makes of a function, and the life of one launch."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .errors import IllegalProgram, NotModelled
from .host import Host
from .machine import (
    Program,
    current,
    platform_from_environment,
    platform_named,
    precise_from_environment,
    run_as,
    running,
)
from .schedule import advise
from .trace import open_launch
from .world import place


class Kernel:
    """A kernel: ``kernel(...)`` launches it on one core, ``kernel[lnc](...)`` on `lnc` cores.

    Called from inside another kernel it is a plain function, as the compiler inlines it.
    """

    def __init__(
        self, function: Callable[..., Any], schedule: tuple[tuple[str, str], ...] = ()
    ) -> None:
        self.function = function
        self.schedule = schedule
        functools.update_wrapper(self, function)
        self._signature = inspect.signature(function)

    def __repr__(self) -> str:
        return f"<kernel {self.function.__name__}>"

    def __getitem__(self, grid: int | tuple[int, ...]) -> Callable[..., Any]:
        """The kernel on a grid of `grid` cores (an integer or a tuple of one)."""
        size = grid[0] if isinstance(grid, tuple) and len(grid) == 1 else grid
        if type(size) is not int or size not in (1, 2):
            raise IllegalProgram(self.function.__name__, "the grid is 1 or 2 cores", repr(grid))
        return functools.partial(self._launch, 1, size)

    def with_schedule(self, schedule: Sequence[tuple[str, str]]) -> Kernel:
        """The kernel with explicit dependencies.

        Args:
            schedule: pairs of instruction names (``name=``): the first runs after the second.
        """
        legal = isinstance(schedule, list | tuple) and all(
            isinstance(pair, list | tuple)
            and len(pair) == 2
            and all(isinstance(name, str) for name in pair)
            for pair in schedule
        )
        if not legal:
            raise IllegalProgram(
                "with_schedule", "takes a list of pairs of instruction names", repr(schedule)
            )
        pairs = tuple((pair[0], pair[1]) for pair in schedule)
        return Kernel(self.function, (*self.schedule, *pairs))

    def _run(self, bound: inspect.BoundArguments) -> Any:
        """The function's result in the current program, whose account then knows the schedule."""
        result = self.function(*bound.args, **bound.kwargs)
        if self.schedule:
            _note_schedule(current("with_schedule"), self.schedule)
        return result

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._launch(0, 1, *args, **kwargs)

    def _launch(self, dimensions: int, cores: int, /, *args: Any, **kwargs: Any) -> Any:
        """Run on `cores` cores, in a grid of `dimensions` dimensions; a plain call inside a
        kernel.
        """
        if running() is not None:
            return self.function(*args, **kwargs)
        name = self.function.__name__
        host = Host(name, precise_from_environment())
        arguments = self._bind(args, kwargs)
        received = {k: host.receive(k, v) for k, v in arguments.items()}
        bound = inspect.BoundArguments(self._signature, received)
        if cores > 1 or place() is not None:
            return self._launch_beside_others(dimensions, cores, host, bound)
        program = Program(
            open_launch(name),
            platform_from_environment(),
            program_ndim=dimensions,
            precise=host.precise,
        )
        try:
            with run_as(program), np.errstate(all="ignore"):
                returned = self._run(bound)
                if program.fault is not None:
                    raise program.fault
                result = host.deliver(returned)
                host.copy_back()
        finally:
            program.launch.close(program)
        return result

    def _launch_beside_others(
        self, dimensions: int, cores: int, host: Host, bound: inspect.BoundArguments
    ) -> Any:
        """Run on two cores, or as one rank of several."""
        from .cores import launch

        result = launch(
            self.function.__name__,
            lambda: self._run(bound),
            dimensions,
            cores,
            host.precise,
            frozenset(host.arguments),
        )
        with np.errstate(all="ignore"):
            delivered = host.deliver(result)
            host.copy_back()
        return delivered

    def _bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        try:
            bound = self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise IllegalProgram(
                self.function.__name__,
                f"is called as {self._signature}",
                str(error),
                "correct the call",
            ) from None
        return dict(bound.arguments)


def jit(fn: Callable[..., Any] | None = None, **options: Any) -> Any:
    """Make a kernel of a function; `options` are settings of the compiler, without effect here."""
    if "platform_target" in options:
        _compare_target(options.pop("platform_target"))
    fn = options.pop("func", None) if fn is None else fn  # its name up to SDK 2.29
    if "grid" in options:
        warnings.warn(
            "nki.jit: grid= has no effect; write kernel[cores](...) where it is called",
            stacklevel=2,
        )
    if fn is None:
        return functools.partial(jit, **{k: v for k, v in options.items() if k != "grid"})
    if not callable(fn):
        raise IllegalProgram("nki.jit", "makes a kernel of a function", repr(fn))
    return fn if isinstance(fn, Kernel) else Kernel(fn)


def _compare_target(target: Any) -> None:
    """Warn of ``platform_target=``, which releases from SDK 2.29 on refuse.

    Raises:
        IllegalProgram: the environment names another platform.
    """
    platform = platform_from_environment()
    if not isinstance(target, str) or platform_named(target) is not platform:
        raise IllegalProgram(
            "nki.jit",
            f"the platform is the one of NEURON_PLATFORM_TARGET_OVERRIDE, here {platform.name}",
            f"platform_target={target!r}",
            "set NEURON_PLATFORM_TARGET_OVERRIDE, and leave platform_target out",
        )
    advise(
        "nki.jit: takes no platform_target from SDK 2.29 on: set NEURON_PLATFORM_TARGET_OVERRIDE"
    )


def simulate(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """``nki.simulate(kernel)``: the kernel itself, since everything is simulated here."""
    if not callable(kernel):
        raise IllegalProgram("nki.simulate", "takes a kernel or a function", repr(kernel))
    return kernel if isinstance(kernel, Kernel | functools.partial) else Kernel(kernel)


def _note_schedule(program: Program, schedule: tuple[tuple[str, str], ...]) -> None:
    """Put explicit dependencies between named instructions into the account."""
    numbers = program.numbers
    for after, before in schedule:
        for name in (after, before):
            if name not in numbers:
                raise IllegalProgram(
                    "with_schedule",
                    f"names instructions of the kernel: {', '.join(sorted(numbers)) or 'none'}",
                    repr(name),
                    "pass name= to the instruction",
                )
        if numbers[after] <= numbers[before]:
            raise NotModelled(
                "with_schedule",
                "an order other than the program's is not modelled",
                f"{after!r} after {before!r}, which is issued later",
                "issue them in that order",
            )
        program.launch.dependencies.append((numbers[after], numbers[before]))
