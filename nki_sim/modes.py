"""How much of a launch is simulated: numbers with checks, numbers alone, or shapes alone.

All run the same kernel through the same instruction classes and write the same account.

| mode | numbers | checks |
| --- | --- | --- |
| ``full`` (default) | yes | all |
| ``tails`` | yes | all; but instructions may compute on what nobody has written (`tails`) |
| ``unchecked`` | yes | capacity and names only: for kernels known to be legal |
| ``shapes`` | none, and no memory for them | all that do not depend on data |

``NKI_SIM_MODE`` names the mode of launches outside any `mode`. In mode ``tails`` what is computed
from unwritten elements counts as unwritten, and is refused where it reaches HBM or another row.
Without checks an illegal program has no defined outcome (NumPy's own errors included),
and fresh memory holds anything. On shapes:

- every dynamic offset, register and mask is unknown; an offset counts as 0 and a dynamic loop runs
  once, or as often as `mode` is told (`Launch.assumed` lists every such assumption that was made);
- a read is refused as uninitialised only when nothing has been written to the whole tensor;
- what a launch returns has a shape and a type and refuses to be read (`placeholders`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from .errors import IllegalProgram

FULL, TAILS, UNCHECKED, SHAPES = "full", "tails", "unchecked", "shapes"
MODES = (FULL, TAILS, UNCHECKED, SHAPES)

_selected: ContextVar[str | None] = ContextVar("nki_sim_mode", default=None)
_passes: ContextVar[int] = ContextVar("nki_sim_passes", default=1)


def selected() -> str:
    """The mode in which the next launch runs.

    Raises:
        IllegalProgram: NKI_SIM_MODE names no mode.
    """
    return _selected.get() or _known("NKI_SIM_MODE", os.environ.get("NKI_SIM_MODE") or FULL)


def passes() -> int:
    """How often a loop whose end is unknown runs in the next launch on shapes."""
    return _passes.get()


def _known(where: str, name: str) -> str:
    if name not in MODES:
        raise IllegalProgram(where, f"is one of {', '.join(MODES)}", repr(name))
    return name


@contextmanager
def mode(name: str, passes: int = 1) -> Iterator[None]:
    """Run the launches inside the ``with`` in mode `name`.

    `passes`: on shapes, how often a loop runs whose end is in a register.

    Raises:
        IllegalProgram: there is no such mode, or a loop would not run at all.
    """
    if type(passes) is not int or passes < 1:
        raise IllegalProgram("nki_sim.mode", "passes is an integer from 1 on", repr(passes))
    token, count = _selected.set(_known("nki_sim.mode", name)), _passes.set(passes)
    try:
        yield
    finally:
        _selected.reset(token)
        _passes.reset(count)
