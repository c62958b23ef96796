"""Decode MoE: the experts of each token are loaded from addresses that the router computed."""

import nki
import nki.isa as nisa
import nki.language as nl
import numpy as np

from .case import Case, bfloat16, normal, rounded, silu, single
from .tiles import (
    COLUMNS,
    ROWS,
    accumulator,
    contraction_tiles_of_rows,
    filled,
    fresh,
    loaded,
    sum_of_cores,
)


@nki.jit
def moe_decode(x, gate_up, down, experts, affinities):
    """out[t] = sum over k of affinities[t, k] * down(silu(gate(x[t])) * up(x[t])) of experts[t, k].

    x [T, H], gate_up [E, H, 2 * I] (gate first), down [E, I, H], experts [T, K] int32, affinities
    [T, K] fp32. I is at most 128. The cores share the K experts of each token.
    """
    tokens, hidden = x.shape
    count = experts.shape[1]
    mine = count // nl.num_programs(0)
    ids = loaded(experts.reshape((1, tokens * count)))
    weights = loaded(affinities.reshape((1, tokens * count)))
    columns = contraction_tiles_of_rows(x)
    out = nl.ndarray((tokens, hidden), dtype=x.dtype, buffer=nl.shared_hbm)
    total = filled((1, tokens * hidden), nl.float32, 0.0)
    for token in range(tokens):
        for k in range(mine):
            place = token * count + nl.program_id(0) * mine + k
            expert = fresh((1, 1), ids.dtype)
            nisa.tensor_copy(dst=expert, src=ids[0:1, place : place + 1])
            inner = gated(columns[:, :, token : token + 1], gate_up, expert)
            row = total[0:1, token * hidden : (token + 1) * hidden]
            add_scaled_down(row, inner, down, expert, weights[0:1, place : place + 1])
    total, begin = sum_of_cores_by_token(total, tokens)
    result = fresh(total.shape, out.dtype)
    nisa.tensor_copy(dst=result, src=total)
    width = result.shape[1] // tokens
    for token in range(tokens):
        kept = result[0:1, token * width : (token + 1) * width]
        nisa.dma_copy(dst=out[token : token + 1, begin : begin + width], src=kept)
    return out


def gated(column, gate_up, expert):
    """[I, 1]: silu(gate) * up of one token with one expert; column is [128, H / 128, 1]."""
    steps = column.shape[1]
    width = gate_up.shape[2]
    inner = width // 2
    matrix = fresh((ROWS, steps, width), gate_up.dtype)
    pattern = [[width, ROWS], [ROWS * width, steps], [1, width]]
    source = gate_up.ap(pattern=pattern, offset=0, scalar_offset=expert, indirect_dim=0)
    nisa.dma_copy(dst=matrix, src=source)
    gate = accumulator(inner, 1)
    up = accumulator(inner, 1)
    for step in range(steps):
        moving = column[:, step, :]
        nisa.nc_matmul(dst=gate, stationary=matrix[:, step, 0:inner], moving=moving)
        nisa.nc_matmul(dst=up, stationary=matrix[:, step, inner:width], moving=moving)
    active = fresh((inner, 1), nl.float32)
    nisa.activation(dst=active, op=nl.silu, data=gate)
    result = fresh((inner, 1), column.dtype)
    nisa.tensor_tensor(dst=result, data1=active, data2=up, op=nl.multiply)
    return result


def add_scaled_down(row, inner, down, expert, weight):
    """row [1, H] += weight * inner.T @ down[expert]."""
    depth, hidden = down.shape[1], down.shape[2]
    matrix = fresh((depth, hidden), down.dtype)
    pattern = [[hidden, depth], [1, hidden]]
    source = down.ap(pattern=pattern, offset=0, scalar_offset=expert, indirect_dim=0)
    nisa.dma_copy(dst=matrix, src=source)
    for first in range(0, hidden, COLUMNS):
        last = min(first + COLUMNS, hidden)
        product = accumulator(1, last - first)
        nisa.nc_matmul(dst=product, stationary=inner, moving=matrix[:, first:last])
        nisa.scalar_tensor_tensor(
            dst=row[:, first:last],
            data=product,
            op0=nl.multiply,
            operand0=weight,
            op1=nl.add,
            operand1=row[:, first:last],
        )


def sum_of_cores_by_token(total, tokens):
    """Of each token's row, the columns that this core keeps, and where they begin."""
    hidden = total.shape[1] // tokens
    if nl.num_programs(0) == 1:
        return total, 0
    half = hidden // 2
    by_half = fresh((1, 2 * tokens * half), total.dtype)
    for token in range(tokens):
        for part in range(2):
            to = (part * tokens + token) * half
            start = token * hidden + part * half
            nisa.tensor_copy(dst=by_half[:, to : to + half], src=total[:, start : start + half])
    kept, _ = sum_of_cores(by_half)
    return kept, half * nl.program_id(0)


def reference(x, gate_up, down, experts, affinities):
    out = np.zeros(x.shape, np.float32)
    inner = down.shape[1]
    for t, row in enumerate(single(x)):
        for expert, weight in zip(experts[t], affinities[t], strict=True):
            both = row @ single(gate_up[expert])
            active = rounded(silu(both[:inner]) * both[inner:])
            out[t] += weight * (active @ single(down[expert]))
    return out


def inputs(rng, tokens=3, hidden=256, inner=96, experts=16, count=4):
    chosen = np.stack([rng.permutation(experts)[:count] for _ in range(tokens)])
    return (
        normal(rng, tokens, hidden, dtype=bfloat16),
        normal(rng, experts, hidden, 2 * inner, dtype=bfloat16, scale=hidden**-0.5),
        normal(rng, experts, inner, hidden, dtype=bfloat16, scale=inner**-0.5),
        chosen.astype(np.int32),
        rng.random((tokens, count), np.float32),
    )


CASES = (
    Case(moe_decode, inputs, reference, tolerance=1e-2),
    Case(moe_decode, lambda rng: inputs(rng, 1, 1152, 128, 8, 2), reference, tolerance=1e-2),
)
