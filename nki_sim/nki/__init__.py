"""The vendor's package ``nki``; `nki_sim.install` makes it importable by that name."""

from ..kernel import jit, simulate

__all__ = ["jit", "simulate"]
