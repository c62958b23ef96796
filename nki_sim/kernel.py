"""Launching: what ``@nki.jit`` makes of a function, and the life of one launch."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from .errors import IllegalProgram, NotModelled
from .host import Host
from .machine import Program, platform_from_environment, precise_from_environment, run_as, running
from .trace import open_launch


class Kernel:
    """A kernel: ``kernel(...)`` launches it on one core, ``kernel[lnc](...)`` on `lnc` cores.

    Called from inside another kernel it is a plain function, as the compiler inlines it.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        functools.update_wrapper(self, function)
        self._signature = inspect.signature(function)

    def __repr__(self) -> str:
        return f"<kernel {self.function.__name__}>"

    def __getitem__(self, grid: int | tuple[int, ...]) -> Callable[..., Any]:
        """The kernel on a grid of `grid` cores (an integer or a tuple of one)."""
        size = grid[0] if isinstance(grid, tuple) and len(grid) == 1 else grid
        if type(size) is not int or size not in (1, 2):
            raise IllegalProgram(self.function.__name__, "the grid is 1 or 2 cores", repr(grid))
        if size == 2:
            raise NotModelled(
                self.function.__name__,
                "two cores (LNC2) are not modelled yet",
                "kernel[2]",
                "use kernel[1]",
            )
        return functools.partial(self._launch, 1)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._launch(0, *args, **kwargs)

    def _launch(self, dimensions: int, /, *args: Any, **kwargs: Any) -> Any:
        """Run on one core, in a grid of `dimensions` dimensions; a plain call inside a kernel."""
        if running() is not None:
            return self.function(*args, **kwargs)
        name = self.function.__name__
        host = Host(name, precise_from_environment())
        arguments = self._bind(args, kwargs)
        received = {k: host.receive(k, v) for k, v in arguments.items()}
        program = Program(
            open_launch(name),
            platform_from_environment(),
            program_ndim=dimensions,
            precise=host.precise,
        )
        bound = inspect.BoundArguments(self._signature, received)
        try:
            with run_as(program), np.errstate(all="ignore"):
                result = host.deliver(self.function(*bound.args, **bound.kwargs))
                host.copy_back()
        finally:
            program.launch.close(program)
        return result

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
        raise IllegalProgram(
            "nki.jit", "takes no platform_target from SDK 2.29 on",
            repr(options["platform_target"]), "set NEURON_PLATFORM_TARGET_OVERRIDE",
        )  # fmt: skip
    if fn is None:
        return functools.partial(jit, **options)
    return fn if isinstance(fn, Kernel) else Kernel(fn)


def simulate(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """``nki.simulate(kernel)``: the kernel itself, since everything is simulated here."""
    return kernel if isinstance(kernel, Kernel | functools.partial) else Kernel(kernel)
