"""A kernel in which the ranks of a tensor-parallel group meet.

`nki.collectives` exists from SDK 2.28 on. This module alone imports it, and nothing that runs on
2.27 imports this module: under NxD Inference the framework sums over the ranks.
"""

import nki
import nki.collectives as ncc
import nki.isa as nisa
import nki.language as nl

from kernels.nki_common import check_float, check_rank, core_share


def copy_share(dst, src):
    """dst = src [T, H], both in HBM: this core's share of the columns."""
    start, stop = core_share(src.shape[1])
    if start < stop:
        nisa.dma_copy(dst=dst[:, start:stop], src=src[:, start:stop])


@nki.jit
def nki_all_reduce_kernel(x, group):
    """Sum of a matrix of any size over the ranks of a group.

    Math:        y[t, n] = sum over the ranks r of the group of x_r[t, n]
    Dimensions:  T tokens, H hidden
    Args:        x      [T, H]  float32 or bfloat16  HBM, this rank's part of the sum
                 group  nki.collectives.ReplicaGroup; one of its lists holds this rank
    Returns:     [T, H]  dtype of x  shared HBM, the same on all ranks of a list
    Tiling:      none, nothing comes on chip. A collective takes neither arguments nor results of a
                 kernel, so x is copied before it and the sum behind it; each core copies its share
                 of the columns, and both take part in one collective of the whole matrix. On one
                 core it works on private HBM, which SDK 2.33 asks for; on two it must be shared.
    Engine plan: DMA: a copy, the collective, a copy
    Bound:       for few tokens the collective's fixed cost, about 10 us; then the links between
                 chips, and 4 T H elements of HBM for the copies
    Numerics:    documented as a sum alone; the simulator's is fp32 in the order of the ranks, with
                 one rounding to the dtype of x
    Refuses:     other ranks of x, empty tensors, other dtypes
    """
    check_rank("nki_all_reduce_kernel", "x", x, ("tokens", "hidden"))
    check_float("nki_all_reduce_kernel", "x", x)
    tokens, hidden = x.shape
    cores = nl.num_programs(0)
    memory = nl.private_hbm if cores == 1 else nl.shared_hbm
    # Without names the compiler of 2.29 cannot place the tensors of a collective.
    part = nl.ndarray((tokens, hidden), dtype=x.dtype, buffer=memory, name="all_reduce_part")
    total = nl.ndarray((tokens, hidden), dtype=x.dtype, buffer=memory, name="all_reduce_total")
    out = nl.ndarray((tokens, hidden), dtype=x.dtype, buffer=nl.shared_hbm)
    copy_share(part, x)
    if cores == 2:
        nisa.core_barrier(data=part, cores=(0, 1))
    ncc.all_reduce(srcs=[part], dsts=[total], replica_group=group, op=nl.add)
    copy_share(out, total)
    return out
