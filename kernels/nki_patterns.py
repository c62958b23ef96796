"""Constants that kernels compute instead of loading: fillings, identities, counters, triangles.

They are made once per launch, while the first loads are on their way.
"""

import nki.isa as nisa
import nki.language as nl


def filled(lines, width, value, dtype):
    """[lines, width] tile of `value`, a Python float."""
    tile = nl.ndarray((lines, width), dtype=dtype, buffer=nl.sbuf)
    nisa.memset(dst=tile, value=value)
    return tile


def diagonals(size, shifts, dtype):
    """[size, size] tile of 0 with 1 where partition - column is in the tuple `shifts`."""
    tile = filled(size, size, 0.0, dtype)
    for shift in shifts:
        nisa.affine_select(
            dst=tile,
            pattern=[[-1, size]],
            offset=-shift,
            channel_multiplier=1,
            on_true_tile=tile,
            on_false_value=1.0,
            cmp_op=nl.not_equal,
        )
    return tile


def identity(size, dtype):
    """[size, size] identity: the moving operand of a transpose, whose dtype it must have."""
    return diagonals(size, (0,), dtype)


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
