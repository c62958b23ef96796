"""How much of a launch is simulated: numbers with checks, numbers alone, or shapes alone.

All three run the same kernel through the same instruction classes and write the same account.

| mode | numbers | checks |
| --- | --- | --- |
| ``full`` (default) | yes | all |
| ``unchecked`` | yes | capacity and names only: for kernels known to be legal |
| ``shapes`` | none, and no memory for them | all that do not depend on data |

Without checks an illegal program has no defined outcome (NumPy's own errors included), and fresh
memory holds anything. On shapes:

- every dynamic offset, register and mask is unknown; an offset counts as 0 and a dynamic loop runs
  once (`Launch.assumed` lists every such assumption that was made);
- a read is refused as uninitialised only when nothing has been written to the whole tensor;
- what a launch returns has a shape and a type and refuses to be read (`placeholders`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from .errors import IllegalProgram

FULL, UNCHECKED, SHAPES = "full", "unchecked", "shapes"
MODES = (FULL, UNCHECKED, SHAPES)

_selected: ContextVar[str] = ContextVar("nki_sim_mode", default=FULL)


def selected() -> str:
    """The mode in which the next launch runs."""
    return _selected.get()


@contextmanager
def mode(name: str) -> Iterator[None]:
    """Run the launches inside the ``with`` in mode `name`.

    Raises:
        IllegalProgram: there is no such mode.
    """
    if name not in MODES:
        raise IllegalProgram("nki_sim.mode", f"is one of {', '.join(MODES)}", repr(name))
    token = _selected.set(name)
    try:
        yield
    finally:
        _selected.reset(token)
