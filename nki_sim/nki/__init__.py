"""The vendor's package ``nki``; `nki_sim.install` makes it importable by that name."""

from ..kernel import jit, simulate
from . import dtype

__all__ = ["dtype", "jit", "simulate"]
