"""Layouts of weights and states that the decoder kernels read, made once when a model is loaded.

The tensor engine contracts over partitions, so a vector of N elements lies on chip as *columns*:
P = `partitions(N)` partitions, N / P elements on each, element j P + p at (p, j). A linear weight
lies so that every (p, j) finds its row of outputs there, and one DMA brings it in with one long
run per partition. Functions take NumPy arrays and torch tensors alike; each `pack` has an `unpack`.
"""

from __future__ import annotations

from typing import Any

LARGEST = 128  # partitions of the on-chip memories


def partitions(size: int) -> int:
    """The most partitions, up to 128, over which `size` elements spread evenly."""
    return next(count for count in range(min(size, LARGEST), 0, -1) if size % count == 0)


def pack_vector(vector: Any) -> Any:
    """[..., N] -> [..., P, N / P]: element j P + p at (p, j)."""
    count = partitions(vector.shape[-1])
    return vector.reshape(*vector.shape[:-1], -1, count).swapaxes(-1, -2)


def unpack_vector(packed: Any) -> Any:
    """The inverse of `pack_vector`."""
    return packed.swapaxes(-1, -2).reshape(*packed.shape[:-2], -1)


def pack_linear(weight: Any, count: int | None = None) -> Any:
    """[..., outputs, N] as checkpoints have it -> [..., P, N / P, outputs].

    Element (p, j, n) is weight[n, j P + p]. `count` sets P where the input's layout is given:
    the output projection reads heads, so its P is the head dimension and j the head.
    """
    outputs, inputs = weight.shape[-2:]
    count = count or partitions(inputs)
    columns = weight.swapaxes(-1, -2).reshape(*weight.shape[:-2], -1, count, outputs)
    return columns.swapaxes(-2, -3)


def unpack_linear(packed: Any) -> Any:
    """The inverse of `pack_linear`."""
    rows = packed.swapaxes(-2, -3)
    return rows.reshape(*packed.shape[:-3], -1, packed.shape[-1]).swapaxes(-1, -2)
