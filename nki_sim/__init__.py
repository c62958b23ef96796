"""A CPU simulator of NKI kernels.

`install.install()` makes ``import nki`` give it; `record()` shows what ran.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import errors
    from .trace import Event, Launch, Recording, record

__all__ = ["Event", "Launch", "Recording", "errors", "record"]


def __getattr__(name: str) -> Any:
    """Import on first use: ``import nki_sim.install`` must stay free of NumPy."""
    from importlib import import_module

    if name == "errors":
        return import_module(".errors", __name__)
    if name in __all__:
        return getattr(import_module(".trace", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
