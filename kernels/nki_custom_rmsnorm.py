"""RMSNorm of rows, and the stages of it that the fused add+RMSNorm kernel shares."""

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
    spread,
)

LINE_ELEMENTS = 2048  # short rows share a partition up to this: 4 to 8 KiB per DMA run
SHORTEST_CUT = 16  # a single row is cut into pieces no shorter than this: 32 to 64 B per DMA run


def check_norm_arguments(kernel, x, weight, eps):
    """Refuse what the norm kernels do not compute: ranks, dtypes, lengths and a useless eps."""
    check_rank(kernel, "x", x, ("rows", "hidden"))
    check_float(kernel, "x", x)
    check_row_length(kernel, x.shape[1])
    check_rank(kernel, "weight", weight, ("hidden",))
    check_shape(kernel, "weight", weight, (x.shape[1],))
    check_dtype(kernel, "weight", weight, x.dtype)
    assert isinstance(eps, float), f"{kernel}: eps must be a Python float, received {eps}"
    assert eps > 0.0, (
        f"{kernel}: eps must be positive, received {eps}; rsqrt of a row of zeros is not finite"
    )


def norm_layout(rows, hidden):
    """(group, split): whole rows per partition, and partitions per row. One of them is always 1.

    Many short rows share a partition, by a divisor of `rows` that leaves no partition idle;
    a single row is cut into `split` pieces, because one lane alone would be 128 times slower.
    """
    if rows == 1:
        return 1, spread(1, hidden, SHORTEST_CUT)
    group = 1
    for candidate in range(2, min(rows // PARTITIONS, LINE_ELEMENTS // hidden) + 1):
        if rows % candidate == 0:
            group = candidate
    return group, 1


def load_weight(weight, lines, width, split):
    """[lines, width] tile: the weight on every partition, or cut as the row is (`split` > 1)."""
    tile = nl.ndarray((lines, width), dtype=weight.dtype, buffer=nl.sbuf)
    step = width if split > 1 else 0
    nisa.dma_copy(dst=tile, src=weight.ap(pattern=[[step, lines], [1, width]], offset=0))
    return tile


def load_eps(eps, lines):
    """[lines, 1] fp32 tile that holds eps: the bias which the activation unit adds before rsqrt."""
    column = nl.ndarray((lines, 1), dtype=nl.float32, buffer=nl.sbuf)
    nisa.memset(dst=column, value=eps)
    return column


def sum_over_partitions(column):
    """[P, 1] fp32 PSUM: the sum of a [P, 1] fp32 column on every partition, by a matmul."""
    lines = column.shape[0]
    ones = nl.ndarray((lines, lines), dtype=nl.float32, buffer=nl.sbuf)
    nisa.memset(dst=ones, value=1.0)
    total = nl.ndarray((lines, 1), dtype=nl.float32, buffer=nl.psum)
    nisa.nc_matmul(dst=total, stationary=ones, moving=column)
    return total


def reciprocal_rms(tile, eps_column, group, split):
    """[P, group] fp32: 1 / sqrt(mean of squares + eps) of each row in [P, group * width]."""
    lines = tile.shape[0]
    width = tile.shape[1] // group
    squares = nl.ndarray((lines, width), dtype=nl.float32, buffer=nl.sbuf)
    total = nl.ndarray((lines, group), dtype=nl.float32, buffer=nl.sbuf)
    for row in range(group):
        nisa.activation(
            dst=squares,
            op=nl.square,
            data=tile[:, row * width : (row + 1) * width],
            reduce_op=nl.add,
            reduce_res=total[:, row : row + 1],
            reduce_cmd=nisa.reduce_cmd.reset_reduce,
        )
    if split > 1:
        total = sum_over_partitions(total)
    rstd = nl.ndarray((lines, group), dtype=nl.float32, buffer=nl.sbuf)
    nisa.activation(
        dst=rstd,
        op=nl.rsqrt,
        data=total,
        scale=1.0 / (width * split),
        bias=eps_column[0:lines, :],
    )
    return rstd


def scale_rows(dst, src, rstd, weight_tile, group):
    """dst = round(src * rstd) * weight, rounded again; [P, group * width] tiles of one dtype.

    weight_tile is [P, width], one weight for all rows, or [P, group * width], one for each.
    """
    lines = src.shape[0]
    width = src.shape[1] // group
    for row in range(group):
        nisa.tensor_scalar(
            dst=dst[:, row * width : (row + 1) * width],
            data=src[:, row * width : (row + 1) * width],
            op0=nl.multiply,
            operand0=rstd[:, row : row + 1],
        )
    rows = [[group * width, lines], [width, group], [1, width]]
    held = weight_tile.shape[1]
    step = width if held > width else 0
    nisa.tensor_tensor(
        dst=dst.ap(pattern=rows, offset=0),
        data1=dst.ap(pattern=rows, offset=0),
        data2=weight_tile.ap(pattern=[[held, lines], [step, group], [1, width]], offset=0),
        op=nl.multiply,
    )


def norm_rows(dst, src, weight_tile, eps_column, inner):
    """dst = RMSNorm of the rows of src [P, H], times the weight; dst may have another dtype.

    With `inner` the dtype of dst, src * rstd is rounded to it before the product with the weight;
    with a wider one the result alone is rounded.
    """
    rstd = reciprocal_rms(src, eps_column, 1, 1)
    if inner == dst.dtype:
        scale_rows(dst, src, rstd, weight_tile, 1)
    else:
        nisa.scalar_tensor_tensor(
            dst=dst,
            data=src,
            op0=nl.multiply,
            operand0=rstd,
            op1=nl.multiply,
            operand1=weight_tile[0 : src.shape[0], :],
        )


@nki.jit
def nki_rmsnorm_kernel(x, weight, eps):
    """RMSNorm of any number of rows of up to 6144 elements.

    Math:        y[n, :] = x[n, :] / sqrt(mean(x[n, :]^2) + eps) * weight
    Dimensions:  N rows (tokens, or tokens x heads), H elements per row, P = 128 partitions
    Args:        x       [N, H]  float32 or bfloat16  HBM
                 weight  [H]     dtype of x           HBM
                 eps     Python float > 0
    Returns:     [N, H]  dtype of x  shared HBM
    Tiling:      128 partitions per tile, one row each. Rows of up to 1024 elements share a
                 partition when there are 256 or more, up to 2048 elements and by a divisor of N,
                 so that a DMA run stays long. A single row lies across the partitions instead, in
                 2^i equal pieces of at least 16 elements. The last tile holds the rows left over.
    Engine plan: DMA: the weight once, broadcast over the partitions by a step of 0, then one wide
                 load and store per tile. ACT: square with fused sum, rsqrt(sum / H + eps). VE: the
                 two multiplications. PE: for a single row, the sum over partitions as a matmul
                 with ones into one PSUM bank.
    Bound:       HBM: (2 N H + H) elements moved; VE next, with 2 passes over N H / 128 elements
    Numerics:    x to fp32, squares and their sum in fp32, rsqrt in fp32; x * rstd is rounded to the
                 dtype of x, and so is the product with the weight: Qwen3MoeRMSNorm's schedule.
                 The order of the sum is the hardware's. Finite while the mean square is < 2^97.
    Refuses:     other ranks, empty tensors, other dtypes, a weight of another length or dtype,
                 H > 6144, eps <= 0
    """
    check_norm_arguments("nki_rmsnorm_kernel", x, weight, eps)
    rows, hidden = x.shape
    group, split = norm_layout(rows, hidden)
    lines = rows * split // group
    width = hidden // split
    length = group * width

    out = nl.ndarray((rows, hidden), dtype=x.dtype, buffer=nl.shared_hbm)
    x_lines = x.reshape((lines, length))
    out_lines = out.reshape((lines, length))
    weight_tile = load_weight(weight, min(PARTITIONS, lines), width, split)
    eps_column = load_eps(eps, min(PARTITIONS, lines))
    for start in range(0, lines, PARTITIONS):
        stop = min(start + PARTITIONS, lines)
        tile = nl.ndarray((stop - start, length), dtype=x.dtype, buffer=nl.sbuf)
        nisa.dma_copy(dst=tile, src=x_lines[start:stop, :])
        rstd = reciprocal_rms(tile, eps_column, group, split)
        scale_rows(tile, tile, rstd, weight_tile, group)
        nisa.dma_copy(dst=out_lines[start:stop, :], src=tile)
    return out
