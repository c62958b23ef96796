"""Elements that nobody has written: how mode ``tails`` lets instructions compute on them.

Kernels often compute on whole tiles of which a ragged load has filled only some rows or columns,
and use only what was loaded. That is harmless as long as nothing crosses between partitions.
In this mode an instruction that works on each partition alone may read elements that nobody has
written; what depends on them counts as unwritten in its turn: the same elements for instructions
that work on each element alone, the partition's whole row for the others. A `sendrecv` hands them
on. Everything else (DMAs, matmuls, transposes, gathers, results) refuses them as in mode ``full``.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from typing import TYPE_CHECKING

import numpy as np

from .dtypes import Array
from .machine import Program
from .schedule import call_site
from .views import NkiTensor

if TYPE_CHECKING:
    from .engines.base import Instruction

ELEMENTWISE = frozenset(
    (
        "activate2", "activation", "activation_reduce", "affine_select", "dropout", "exponential",
        "range_select", "reciprocal", "scalar_tensor_tensor", "select_reduce", "sendrecv",
        "tensor_copy", "tensor_copy_predicated", "tensor_scalar", "tensor_scalar_reduce",
        "tensor_tensor",
    )
)  # fmt: skip
"""Instructions whose results with the axes of dst depend on the same element of each tile alone."""

ROWWISE = ELEMENTWISE | frozenset(
    (
        "bn_aggr", "bn_stats", "max8", "nc_find_index8", "nc_match_replace8", "tensor_reduce",
        "tensor_scalar_cumulative", "tensor_tensor_scan",
    )
)  # fmt: skip
"""Instructions whose every result in a partition depends on that partition alone."""

_EACH_ELEMENT = "PF"
"""The axes of the tiles of an element-wise instruction."""


def unwritten(instruction: Instruction, inputs: Iterable[tuple[str, NkiTensor]]) -> Array | None:
    """Which results depend on an element that nobody has written.

    Args:
        instruction: one of `ROWWISE`.
        inputs: operands, by name, that may have such elements.

    Returns:
        bool [P, F] for the tiles of an element-wise instruction, else [P, 1]; None if there are no
        such elements.
    """
    axes = {operand.name: operand.axes for operand in instruction.operands}
    masks = []
    for name, tensor in inputs:
        mask: Array = ~tensor.written_map().reshape(tensor.partitions, -1)
        by_element = instruction.opcode in ELEMENTWISE and axes[name] == _EACH_ELEMENT
        masks.append(mask if by_element else np.any(mask, axis=1, keepdims=True))
    found: Array = reduce(np.logical_or, masks)
    return found if found.any() else None


def forget(program: Program, instruction: Instruction, mask: Array) -> None:
    """Count results as unwritten, those in the registers included.

    Args:
        program, instruction: what was executed.
        mask: which results, as `unwritten` gives them.
    """
    rows: Array = np.any(mask, axis=1, keepdims=True)
    for operand, tensor in instruction.tensors():
        if operand.access != "read":
            tensor.mark_unwritten(mask if operand.axes == _EACH_ELEMENT else rows)
            start = tensor.start_partition
    registers = program.accumulators.get(instruction.engine)
    if registers is not None and hasattr(instruction, "reduce_cmd"):
        registers[1][start : start + len(rows)][rows[:, 0]] = False
    program.launch.find(
        f"{instruction.opcode} ({call_site()}): computes on what nobody has written, in "
        f"{np.count_nonzero(rows)} partitions"
    )
