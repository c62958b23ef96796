"""MLP in MX: both operands of every product are quantised to fp8 with a scale per 32 elements."""

import ml_dtypes
import nki
import nki.isa as nisa
import nki.language as nl
import numpy as np

from .case import Case, bfloat16, normal, rounded, silu, single
from .tiles import ROWS, accumulator, fresh, loaded

PACKED = 4  # elements of the contraction that one packed element holds
DEPTH = ROWS * PACKED  # contraction of one product


@nki.jit
def mlp_mx(x, gate, up, down):
    """out [T, H] = (silu(x @ gate) * (x @ up)) @ down, for x [T, 512], gate and up [512, 512].

    down [512, H]. Row k of a contraction lies in partition k // 4, at place k % 4. The cores share
    the columns of down.
    """
    tokens = x.shape[0]
    columns = quantised(loaded(x.ap(pattern=[[4, ROWS], [DEPTH, tokens], [1, 4]], offset=0)))
    inner = fresh((ROWS, tokens, PACKED), x.dtype)
    gates = quantised(packed_rows(gate, 0, DEPTH))
    ups = quantised(packed_rows(up, 0, DEPTH))
    for place in range(PACKED):
        active = fresh((ROWS, tokens), nl.float32)
        nisa.activation(dst=active, op=nl.silu, data=product(gates, columns, place))
        nisa.tensor_tensor(
            dst=inner[:, :, place],
            data1=active,
            data2=product(ups, columns, place),
            op=nl.multiply,
        )
    width = down.shape[1] // nl.num_programs(0)
    begin = width * nl.program_id(0)
    activations = quantised(inner)
    matrix = quantised(packed_rows(down, begin, width))
    total = accumulator(tokens, width)
    nisa.nc_matmul_mx(
        dst=total,
        stationary=activations[0],
        moving=matrix[0],
        stationary_scale=activations[1],
        moving_scale=matrix[1],
    )
    result = fresh((tokens, width), x.dtype)
    nisa.tensor_copy(dst=result, src=total)
    out = nl.ndarray((tokens, down.shape[1]), dtype=x.dtype, buffer=nl.shared_hbm)
    nisa.dma_copy(dst=out[:, begin : begin + width], src=result)
    return out


def packed_rows(matrix, begin, width):
    """[128, width, 4] of columns of an HBM matrix [512, N]: row 4 * p + q is at [p, :, q]."""
    columns = matrix.shape[1]
    pattern = [[PACKED * columns, ROWS], [1, width], [columns, PACKED]]
    return loaded(matrix.ap(pattern=pattern, offset=begin))


def quantised(tile):
    """([128, F] packed, [128, F] scales) of [128, F, 4]; scales fill 4 rows of every quadrant."""
    packed = fresh((ROWS, tile.shape[1]), nl.float8_e4m3fn_x4)
    scales = fresh((ROWS, tile.shape[1]), nl.uint8)
    nisa.quantize_mx(dst=packed, src=tile, dst_scale=scales)
    return packed, scales


def product(weights, columns, place):
    """[128, T] in PSUM: columns 4 * p + place of the weights, transposed, times the activations."""
    tokens = columns[0].shape[1]
    total = accumulator(ROWS, tokens)
    nisa.nc_matmul_mx(
        dst=total,
        stationary=weights[0][:, place:DEPTH:PACKED],
        moving=columns[0],
        stationary_scale=weights[1][:, place:DEPTH:PACKED],
        moving_scale=columns[1],
    )
    return total


def in_mx(matrix):
    """A matrix [K, N] after quantisation along K: 8 rows of 4 share the scale of their largest."""
    groups = single(matrix).reshape(-1, 32, matrix.shape[1])
    exponents = np.floor(np.log2(np.abs(groups).max(1, keepdims=True))) - 7
    scales = np.exp2(exponents)
    return single((groups / scales).astype(ml_dtypes.float8_e4m3fn) * scales).reshape(matrix.shape)


def reference(x, gate, up, down):
    x = in_mx(x.T).T
    inner = rounded(silu(x @ in_mx(gate)) * (x @ in_mx(up)))
    return in_mx(inner.T).T @ in_mx(down)


def inputs(rng, tokens=36, width=256):
    return (
        normal(rng, tokens, DEPTH, dtype=bfloat16),
        normal(rng, DEPTH, DEPTH, dtype=bfloat16, scale=DEPTH**-0.5),
        normal(rng, DEPTH, DEPTH, dtype=bfloat16, scale=DEPTH**-0.5),
        normal(rng, DEPTH, width, dtype=bfloat16, scale=DEPTH**-0.5),
    )


CASES = (Case(mlp_mx, inputs, reference, tolerance=1e-2, platform="trn3"),)
