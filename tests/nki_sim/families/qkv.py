"""QKV projection behind a LayerNorm whose statistics come from bn_stats and bn_aggr."""

import nki
import nki.isa as nisa
import nki.language as nl

from .case import Case, bfloat16, normal, rounded, single
from .tiles import COLUMNS, ROWS, accumulator, contraction_tiles, fresh, loaded, spread, transposed

EPSILON = 1e-6
STATISTICS = 6  # of bn_stats: count, mean and variance * count, of even and odd elements


@nki.jit
def qkv(x, gamma, beta, w, bias):
    """out [T, N] = layernorm(x) @ w + bias, for x [T, H] with T <= 128, w [H, N].

    gamma and beta [1, H], bias [1, N]. The cores share the columns of w.
    """
    tokens, hidden = x.shape
    cores = nl.num_programs(0)
    width = w.shape[1] // cores
    begin = width * nl.program_id(0)
    normed = layernorm(loaded(x), gamma, beta)
    matrix = contraction_tiles(w)
    offsets = spread(loaded(bias[0:1, begin : begin + width]), tokens)
    out = nl.ndarray((tokens, w.shape[1]), dtype=x.dtype, buffer=nl.shared_hbm)
    columns = []
    for step in range(hidden // ROWS):
        columns.append(transposed(normed[:, step * ROWS : (step + 1) * ROWS]))
    for first in range(0, width, COLUMNS):
        last = min(first + COLUMNS, width)
        total = accumulator(tokens, last - first)
        for step in range(len(columns)):
            nisa.nc_matmul(
                dst=total,
                stationary=columns[step],
                moving=matrix[:, step, begin + first : begin + last],
            )
        result = fresh((tokens, last - first), x.dtype)
        nisa.tensor_tensor(dst=result, data1=total, data2=offsets[:, first:last], op=nl.add)
        nisa.dma_copy(dst=out[:, begin + first : begin + last], src=result)
    return out


def layernorm(x, gamma, beta):
    """(x - mean) / sqrt(variance + epsilon) * gamma + beta of each row."""
    rows, hidden = x.shape
    parts = (hidden + COLUMNS - 1) // COLUMNS
    statistics = fresh((rows, parts * STATISTICS), nl.float32)
    for part in range(parts):
        chunk = x[:, part * COLUMNS : min((part + 1) * COLUMNS, hidden)]
        place = part * STATISTICS
        nisa.bn_stats(dst=statistics[:, place : place + STATISTICS], data=chunk)
    moments = fresh((rows, 2), nl.float32)
    nisa.bn_aggr(dst=moments, data=statistics)
    epsilon = fresh((rows, 1), nl.float32)
    nisa.memset(dst=epsilon, value=EPSILON)
    inverse = fresh((rows, 1), nl.float32)
    nisa.activation(dst=inverse, op=nl.rsqrt, data=moments[:, 1:2], bias=epsilon)
    centred = fresh((rows, hidden), nl.float32)
    nisa.tensor_scalar(
        dst=centred,
        data=x,
        op0=nl.subtract,
        operand0=moments[:, 0:1],
        op1=nl.multiply,
        operand1=inverse,
    )
    nisa.tensor_tensor(
        dst=centred, data1=centred, data2=spread(loaded(gamma), rows), op=nl.multiply
    )
    normed = fresh((rows, hidden), x.dtype)
    nisa.tensor_tensor(dst=normed, data1=centred, data2=spread(loaded(beta), rows), op=nl.add)
    return normed


def reference(x, gamma, beta, w, bias):
    x = single(x)
    centred = (x - x.mean(1, keepdims=True)) / (x.var(1, keepdims=True) + EPSILON) ** 0.5
    return rounded(centred * single(gamma) + single(beta)) @ single(w) + single(bias)


def inputs(rng, tokens=70, hidden=1152, width=640):
    return (
        normal(rng, tokens, hidden, dtype=bfloat16) + bfloat16.type(1),
        normal(rng, 1, hidden, dtype=bfloat16),
        normal(rng, 1, hidden, dtype=bfloat16),
        normal(rng, hidden, width, dtype=bfloat16, scale=hidden**-0.5),
        normal(rng, 1, width),
    )


CASES = (
    Case(qkv, inputs, reference, tolerance=1e-2),
    Case(qkv, lambda rng: inputs(rng, 1, 256, 192), reference, tolerance=1e-2),
)
