"""Element-wise and row kernels: SiLU, softmax, fused residual addition and RMSNorm."""

import nki
import nki.isa as nisa
import nki.language as nl

from kernels.nki_common import (
    PARTITIONS,
    check_dtype,
    check_float,
    check_rank,
    check_row_length,
    check_shape,
)
from kernels.nki_custom_rmsnorm import (
    check_norm_arguments,
    load_eps,
    load_weight,
    norm_layout,
    reciprocal_rms,
    scale_rows,
)

SHORTEST_RUN = 128  # elements per partition: 256 to 512 B per DMA run, and above ACT's fixed cost
LONGEST_RUN = 2048  # 4 to 8 KiB per DMA run, and tiles small enough to overlap with each other


def silu_strip(x, out, first, lines, run):
    """SiLU of `lines * run` elements of HBM from flat position `first`, `run` on each partition."""
    pattern = [[run, lines], [1, run]]
    tile = nl.ndarray((lines, run), dtype=x.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=tile, src=x.ap(pattern=pattern, offset=first))
    nisa.activation(dst=tile, op=nl.silu, data=tile)
    nisa.dma_copy(dst=out.ap(pattern=pattern, offset=first), src=tile)


@nki.jit
def nki_silu_kernel(x):
    """SiLU of a matrix of any size.

    Math:        y = x * sigmoid(x), element by element
    Dimensions:  N rows, F elements per row, P = 128 partitions
    Args:        x  [N, F]  float32 or bfloat16  HBM
    Returns:     [N, F]  dtype of x  shared HBM
    Tiling:      rows do not matter, so the N F elements are one stream: 128 partitions x a run of
                 N F / 128 elements, at least 128 and at most 2048. What is left of the last tile is
                 a shorter tile and, when the run does not divide it, one short run.
    Engine plan: DMA: one load and one store per tile, each run contiguous. ACT: one pass, in place.
    Bound:       HBM: 2 N F elements moved; ACT next, with N F / 128 elements per lane
    Numerics:    fp32 inside the activation unit, one rounding to the dtype of x
    Refuses:     other ranks, empty tensors, other dtypes
    """
    check_rank("nki_silu_kernel", "x", x, ("rows", "width"))
    check_float("nki_silu_kernel", "x", x)
    rows, width = x.shape
    total = rows * width
    share = (total + PARTITIONS - 1) // PARTITIONS
    run = min(max(share, SHORTEST_RUN), LONGEST_RUN)

    out = nl.ndarray((rows, width), dtype=x.dtype, buffer=nl.shared_hbm)
    for start in range(0, total, PARTITIONS * run):
        left = min(PARTITIONS * run, total - start)
        lines = left // run
        rest = left % run
        if lines > 0:
            silu_strip(x, out, start, lines, run)
        if rest > 0:
            silu_strip(x, out, start + lines * run, 1, rest)
    return out


def softmax_rows(x, out):
    """Softmax of every row of x [N, F] into out [N, F], both in HBM; out's dtype is its own."""
    rows, width = x.shape
    for start in range(0, rows, PARTITIONS):
        stop = min(start + PARTITIONS, rows)
        lines = stop - start
        tile = nl.ndarray((lines, width), dtype=x.dtype, buffer=nl.sbuf)
        nisa.dma_copy(dst=tile, src=x[start:stop, :])
        negative_max = nl.ndarray((lines, 1), dtype=nl.float32, buffer=nl.sbuf)
        nisa.tensor_reduce(dst=negative_max, op=nl.maximum, data=tile, axis=1, negate=True)
        exponentials = nl.ndarray((lines, width), dtype=nl.float32, buffer=nl.sbuf)
        total = nl.ndarray((lines, 1), dtype=nl.float32, buffer=nl.sbuf)
        nisa.activation(
            dst=exponentials,
            op=nl.exp,
            data=tile,
            bias=negative_max,
            reduce_op=nl.add,
            reduce_res=total,
            reduce_cmd=nisa.reduce_cmd.reset_reduce,
        )
        inverse = nl.ndarray((lines, 1), dtype=nl.float32, buffer=nl.sbuf)
        nisa.reciprocal(dst=inverse, data=total)
        result = nl.ndarray((lines, width), dtype=out.dtype, buffer=nl.sbuf)
        nisa.tensor_scalar(dst=result, data=exponentials, op0=nl.multiply, operand0=inverse)
        nisa.dma_copy(dst=out[start:stop, :], src=result)


@nki.jit
def nki_softmax_kernel(x):
    """Softmax along rows of up to 6144 elements, as attention needs it.

    Math:        y[n, f] = exp(x[n, f] - max_f x[n, f]) / sum_f exp(x[n, f] - max_f x[n, f])
    Dimensions:  N rows (tokens x heads), F elements per row (key length), P = 128 partitions
    Args:        x  [N, F]  float32 or bfloat16  HBM
    Returns:     [N, F]  dtype of x  shared HBM
    Tiling:      128 rows per tile, one row per partition; the last tile holds the rows left over
    Engine plan: DMA: one load and one store per tile. VE: row maximum, already negated. ACT: exp
                 with the maximum as bias and the sum fused. VE: reciprocal, one multiplication.
    Bound:       HBM: 2 N F elements moved; VE next, with 2 passes over N F / 128 elements
    Numerics:    fp32 inside, from x - max to the product with 1 / sum; one rounding to the dtype of
                 x. Entries at the dtype's minimum (masks) give 0. A row of -inf alone gives NaN,
                 as in torch.
    Refuses:     other ranks, empty tensors, other dtypes, F > 6144
    """
    check_rank("nki_softmax_kernel", "x", x, ("rows", "width"))
    check_float("nki_softmax_kernel", "x", x)
    rows, width = x.shape
    check_row_length("nki_softmax_kernel", width)
    out = nl.ndarray((rows, width), dtype=x.dtype, buffer=nl.shared_hbm)
    softmax_rows(x, out)
    return out


@nki.jit
def nki_fused_add_rmsnorm_kernel(x, residual, weight, eps):
    """Residual addition and RMSNorm of the sum, for any number of rows of up to 6144 elements.

    Math:        s = x + residual; y[n, :] = s[n, :] / sqrt(mean(s[n, :]^2) + eps) * weight
    Dimensions:  N tokens, H hidden elements, P = 128 partitions
    Args:        x         [N, H]  float32 or bfloat16  HBM
                 residual  [N, H]  dtype of x           HBM
                 weight    [H]     dtype of x           HBM
                 eps       Python float > 0
    Returns:     (y [N, H], s [N, H])  dtype of x  shared HBM
    Tiling:      as nki_rmsnorm_kernel: 128 partitions per tile; short rows share a partition, a
                 single row lies across the partitions; the last tile holds the rows left over
    Engine plan: DMA: the weight once, broadcast; two loads and two stores per tile, and the sum is
                 stored while it is being normalised. VE: the addition and the two
                 multiplications. ACT: square with fused sum, rsqrt. PE: for a single row, the sum
                 over partitions.
    Bound:       HBM: (4 N H + H) elements moved, 1 N H less than apart; VE next, with 3 passes
    Numerics:    the sum is rounded to the dtype of x first, and the norm is that of the rounded
                 sum: the unfused model's schedule. Then as nki_rmsnorm_kernel.
    Refuses:     other ranks, empty tensors, other dtypes, a residual of another shape or dtype, a
                 weight of another length or dtype, H > 6144, eps <= 0
    """
    check_norm_arguments("nki_fused_add_rmsnorm_kernel", x, weight, eps)
    check_shape("nki_fused_add_rmsnorm_kernel", "residual", residual, tuple(x.shape))
    check_dtype("nki_fused_add_rmsnorm_kernel", "residual", residual, x.dtype)
    rows, hidden = x.shape
    group, split = norm_layout(rows, hidden)
    lines = rows * split // group
    width = hidden // split
    length = group * width

    normed = nl.ndarray((rows, hidden), dtype=x.dtype, buffer=nl.shared_hbm)
    total = nl.ndarray((rows, hidden), dtype=x.dtype, buffer=nl.shared_hbm)
    x_lines = x.reshape((lines, length))
    residual_lines = residual.reshape((lines, length))
    normed_lines = normed.reshape((lines, length))
    total_lines = total.reshape((lines, length))
    weight_tile = load_weight(weight, min(PARTITIONS, lines), width, split)
    eps_column = load_eps(eps, min(PARTITIONS, lines))
    for start in range(0, lines, PARTITIONS):
        stop = min(start + PARTITIONS, lines)
        sum_tile = nl.ndarray((stop - start, length), dtype=x.dtype, buffer=nl.sbuf)
        work_tile = nl.ndarray((stop - start, length), dtype=x.dtype, buffer=nl.sbuf)
        nisa.dma_copy(dst=sum_tile, src=x_lines[start:stop, :])
        nisa.dma_copy(dst=work_tile, src=residual_lines[start:stop, :])
        nisa.tensor_tensor(dst=sum_tile, data1=sum_tile, data2=work_tile, op=nl.add)
        nisa.dma_copy(dst=total_lines[start:stop, :], src=sum_tile)
        rstd = reciprocal_rms(sum_tile, eps_column, group, split)
        scale_rows(work_tile, sum_tile, rstd, weight_tile, group)
        nisa.dma_copy(dst=normed_lines[start:stop, :], src=work_tile)
    return normed, total
