"""Which tokens go to an expert: the places of non-zero elements, by GpSimd's 8 cores."""

import nki
import nki.isa as nisa
import nki.language as nl
import numpy as np

from .case import Case
from .tiles import ROWS, filled, fresh

CORE = 16  # partitions of one GpSimd core; it works on the first
AT_ONCE = ROWS // CORE


@nki.jit
def find_nonzero(x):
    """(places [C, T] int32, counts [C, 1] int32) of the non-zero elements of x [C, T], C rows.

    Behind its places a row is filled with -1. 8 rows are searched at once, one by each core of
    GpSimd. The cores of the launch share the rows.
    """
    cores = nl.num_programs(0)
    rows, tokens = x.shape[0] // cores, x.shape[1]
    begin = rows * nl.program_id(0)
    places = nl.ndarray((rows * cores, tokens), dtype=nl.int32, buffer=nl.shared_hbm)
    counts = nl.ndarray((rows * cores, 1), dtype=nl.int32, buffer=nl.shared_hbm)
    for first in range(begin, begin + rows, AT_ONCE):
        count = min(AT_ONCE, begin + rows - first)
        source = filled((ROWS, tokens), x.dtype, 0)
        for row in range(count):  # a DMA may begin in any partition
            nisa.dma_copy(
                dst=source[row * CORE : row * CORE + 1, :], src=x[first + row : first + row + 1, :]
            )
        found = fresh((ROWS, tokens + 1), nl.int32)
        nisa.nonzero_with_count(dst=found, src=source, index_offset=0, padding_val=-1)
        for row in range(count):
            line = found[row * CORE : row * CORE + 1, :]
            at = first + row
            nisa.dma_copy(dst=places[at : at + 1, :], src=line[:, 0:tokens])
            nisa.dma_copy(dst=counts[at : at + 1, :], src=line[:, tokens : tokens + 1])
    return places, counts


def reference(x):
    places = np.full(x.shape, -1, np.int32)
    for row, values in zip(places, x, strict=True):
        found = np.flatnonzero(values)
        row[: found.size] = found
    return places, (x != 0).sum(1, keepdims=True).astype(np.int32)


CASES = (
    Case(
        find_nonzero,
        lambda rng: (rng.integers(0, 2, (20, 150)).astype(np.int32),),
        reference,
        since="2.28",
    ),
)
