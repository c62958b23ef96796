"""Small helpers for the simulator's tests: run statements inside a kernel, make written tiles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import nki
import nki.isa as nisa
import nki.language as nl
import numpy as np


def in_kernel(body: Callable[..., Any], *arguments: Any, cores: int = 1) -> Any:
    """Run `body` inside a launch and return whatever it returns (on core 0)."""
    results = []

    def kernel(arguments: Any) -> None:
        results.append(body(*arguments))

    launch = nki.jit(kernel)
    (launch[cores] if cores > 1 else launch)(arguments)
    return results[0]


def tile(
    shape: tuple[int, ...], dtype: str = "float32", buffer: Any = nl.sbuf, value: int = 0
) -> Any:
    """An initialised tile."""
    made = nl.ndarray(shape, dtype=dtype, buffer=buffer)
    nisa.memset(dst=made, value=value)
    return made


def loaded(source: Any, dtype: str | None = None) -> Any:
    """An SBUF tile with the contents of an HBM tensor."""
    made = nl.ndarray(source.shape, dtype=dtype or source.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=made, src=source)
    return made


def stored(result: Any) -> Any:
    """An HBM output with the contents of an SBUF tile."""
    out = nl.ndarray(result.shape, dtype=result.dtype, buffer=nl.shared_hbm)
    nisa.dma_copy(dst=out, src=result)
    return out


def values(tensor: Any) -> np.ndarray:
    """A copy of a window's current contents."""
    return np.array(tensor.array)
