"""A CPU simulator of NKI kernels.

`install.install()` makes ``import nki`` give it; `record()` shows what ran, `mode(...)` chooses how
much is simulated, `rounding.report(...)` tells what low precision costs, `ranks.run(...)` runs
several ranks that meet in collectives.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import errors, ranks, rounding
    from .modes import mode
    from .trace import Event, Launch, Recording, record

__all__ = ["Event", "Launch", "Recording", "errors", "mode", "ranks", "record", "rounding"]


def __getattr__(name: str) -> Any:
    """Import on first use: ``import nki_sim.install`` must stay free of NumPy."""
    from importlib import import_module

    if name in ("errors", "ranks", "rounding"):
        return import_module(f".{name}", __name__)
    if name == "mode":
        return import_module(".modes", __name__).mode
    if name in __all__:
        return getattr(import_module(".trace", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
