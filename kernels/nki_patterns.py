"""Counters and triangular matrices, which kernels compute instead of loading; rows to columns."""

import nki.isa as nisa
import nki.language as nl

PSUM_BANK_BYTES = 2048  # per partition: what the matmuls of one output tile may fill


def index_row(lines, count, first):
    """[lines, count] fp32: first, first + 1, ... along the free dimension of every partition."""
    row = nl.ndarray((lines, count), dtype=nl.float32, buffer=nl.sbuf)
    nisa.iota(dst=row, pattern=[[1, count]], offset=first, channel_multiplier=0)
    return row


def index_column(lines, first):
    """[lines, 1] fp32: first + p on partition p."""
    column = nl.ndarray((lines, 1), dtype=nl.float32, buffer=nl.sbuf)
    nisa.iota(dst=column, pattern=[[1, 1]], offset=first, channel_multiplier=1)
    return column


def order_matrix(size, comparison, value, dtype):
    """[size, size] in `dtype`: `value` at (p, f) where `f comparison p` holds, else 0.

    As stationary operand, nl.greater sums all earlier partitions.
    """
    matrix = nl.ndarray((size, size), dtype=dtype, buffer=nl.sbuf)
    nisa.tensor_scalar(
        dst=matrix,
        data=index_row(size, size, 0),
        op0=comparison,
        operand0=index_column(size, 0),
        op1=nl.multiply,
        operand1=value,
    )
    return matrix


def bytes_of(dtype):
    """Bytes per element of float32 or bfloat16."""
    return 4 if dtype == nl.float32 else 2


def rows_to_columns(rows, count, identity_tile):
    """[P, J, B] columns of `rows` [B, N], N = J P: element j P + p of a row at (p, j).

    J transposes on the tensor engine fill a PSUM bank, or several one after the other, each of
    which is evacuated once. `identity_tile` has the dtype of `rows`; `count` is P.
    """
    lines, length = rows.shape
    pieces = length // count
    columns = nl.ndarray((count, pieces, lines), dtype=rows.dtype, buffer=nl.sbuf)
    together = max(1, PSUM_BANK_BYTES // (lines * bytes_of(rows.dtype)))
    for first in range(0, pieces, together):
        last = min(first + together, pieces)
        turned = nl.ndarray((count, last - first, lines), dtype=rows.dtype, buffer=nl.psum)
        for piece in range(first, last):
            nisa.nc_matmul(
                dst=turned[:, piece - first, :],
                stationary=rows[:, piece * count : (piece + 1) * count],
                moving=identity_tile[0:lines, 0:lines],
                is_transpose=True,
            )
        nisa.tensor_copy(dst=columns[:, first:last, :], src=turned)
    return columns
