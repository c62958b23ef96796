"""Rows that nobody has written: how mode ``tails`` lets row-wise instructions compute on them.

Kernels often compute on whole tiles of 128 partitions whose last rows a ragged load left as they
were, and store only the rows that were loaded. That is harmless as long as nothing crosses from one
row to another. In this mode an instruction that works on each row alone may read rows with elements
that nobody has written; what it writes to these rows then counts as unwritten in its turn.
Everything else (DMAs, matmuls, transposes, gathers, results) refuses them as in mode ``full``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from .dtypes import Array
from .machine import Program
from .schedule import call_site
from .views import NkiTensor

if TYPE_CHECKING:
    from .engines.base import Instruction

ROWWISE = frozenset(
    (
        "activate2", "activation", "activation_reduce", "affine_select", "bn_aggr", "bn_stats",
        "dropout", "exponential", "max8", "nc_find_index8", "nc_match_replace8", "range_select",
        "reciprocal", "scalar_tensor_tensor", "select_reduce", "tensor_copy",
        "tensor_copy_predicated", "tensor_reduce", "tensor_scalar", "tensor_scalar_cumulative",
        "tensor_scalar_reduce", "tensor_tensor", "tensor_tensor_scan",
    )
)  # fmt: skip
"""Instructions whose every result in a partition depends on that partition alone."""


def unwritten_rows(tensors: Iterable[NkiTensor]) -> Array | None:
    """The partitions [P] of which some tensor has an element that nobody has written, or None."""
    found = [~tensor.written_map().reshape(tensor.partitions, -1).all(axis=1) for tensor in tensors]
    rows = np.logical_or.reduce(found)
    return rows if rows.any() else None


def forget(program: Program, instruction: Instruction, rows: Array) -> None:
    """Count what an instruction wrote to some of its partitions as unwritten, registers included.

    Args:
        program, instruction: what was executed; all its operands have these partitions.
        rows: which of them, as a bool array [P].
    """
    for operand, tensor in instruction.tensors():
        if operand.access != "read":
            tensor.mark_unwritten(rows)
            start = tensor.start_partition
    registers = program.accumulators.get(instruction.engine)
    if registers is not None and hasattr(instruction, "reduce_cmd"):
        registers[1][start : start + rows.size][rows] = False
    program.launch.find(
        f"{instruction.opcode} ({call_site()}): computes on {np.count_nonzero(rows)} rows that "
        "nobody has written"
    )
