"""MLP, dense: weights stationary in the first two products, activations in the third."""

import nki
import nki.isa as nisa
import nki.language as nl

from .case import Case, bfloat16, normal, rounded, silu, single
from .tiles import (
    COLUMNS,
    ROWS,
    accumulator,
    contraction_tiles,
    contraction_tiles_of_rows,
    fresh,
    loaded,
    sum_of_cores,
)


@nki.jit
def mlp(x, gate, up, down):
    """out [T, H] = (silu(x @ gate) * (x @ up)) @ down, for x [T, H], T <= 128.

    gate and up [H, I], down [I, H]. The cores share I; each adds half of the columns of both
    partial results.
    """
    tokens, hidden = x.shape
    cores = nl.num_programs(0)
    share = gate.shape[1] // cores
    begin = share * nl.program_id(0)
    columns = contraction_tiles_of_rows(x)
    gates = contraction_tiles(gate)
    ups = contraction_tiles(up)
    partial = fresh((tokens, hidden), nl.float32)
    nisa.memset(dst=partial, value=0.0)
    for first in range(begin, begin + share, ROWS):
        rows = min(ROWS, begin + share - first)
        inner = gated(columns, gates[:, :, first : first + rows], ups[:, :, first : first + rows])
        matrix = loaded(down[first : first + rows, :])
        for column in range(0, hidden, COLUMNS):
            last = min(column + COLUMNS, hidden)
            product = accumulator(tokens, last - column)
            nisa.nc_matmul(dst=product, stationary=inner, moving=matrix[:, column:last])
            nisa.tensor_tensor(
                dst=partial[:, column:last],
                data1=partial[:, column:last],
                data2=product,
                op=nl.add,
            )
    total, start = sum_of_cores(partial)
    result = fresh(total.shape, x.dtype)
    nisa.tensor_copy(dst=result, src=total)
    out = nl.ndarray((tokens, hidden), dtype=x.dtype, buffer=nl.shared_hbm)
    nisa.dma_copy(dst=out[:, start : start + result.shape[1]], src=result)
    return out


def gated(columns, gates, ups):
    """[rows of I, T]: silu(gate) * up."""
    steps, tokens = columns.shape[1], columns.shape[2]
    rows = gates.shape[2]
    gate = accumulator(rows, tokens)
    up = accumulator(rows, tokens)
    for step in range(steps):
        nisa.nc_matmul(dst=gate, stationary=gates[:, step, :], moving=columns[:, step, :])
        nisa.nc_matmul(dst=up, stationary=ups[:, step, :], moving=columns[:, step, :])
    active = fresh((rows, tokens), nl.float32)
    nisa.activation(dst=active, op=nl.silu, data=gate)
    inner = fresh((rows, tokens), columns.dtype)
    nisa.tensor_tensor(dst=inner, data1=active, data2=up, op=nl.multiply)
    return inner


def reference(x, gate, up, down):
    x = single(x)
    return rounded(silu(x @ single(gate)) * (x @ single(up))) @ single(down)


def inputs(rng, tokens=33, hidden=640, inner=384):
    return (
        normal(rng, tokens, hidden, dtype=bfloat16),
        normal(rng, hidden, inner, dtype=bfloat16, scale=hidden**-0.5),
        normal(rng, hidden, inner, dtype=bfloat16, scale=hidden**-0.5),
        normal(rng, inner, hidden, dtype=bfloat16, scale=inner**-0.5),
    )


CASES = (
    Case(mlp, inputs, reference, tolerance=1e-2),
    Case(mlp, lambda rng: inputs(rng, 128, 128, 40), reference, tolerance=1e-2),
)
