"""Prefill MoE: blocks of tokens of one expert each, as many as the router filled."""

import nki
import nki.isa as nisa
import nki.language as nl
import numpy as np

from .case import Case, bfloat16, normal, rounded, silu, single
from .tiles import ROWS, accumulator, filled, fresh, loaded, transposed


@nki.jit
def moe_prefill(x, gate_up, down, token_ids, weights, block_experts, blocks):
    """out[t] = sum over the blocks that hold t of its weight * the block's expert's MLP of x[t].

    x [T, H], gate_up [E, H, 2 * I] (gate first), down [E, I, H] with I <= 128 and H <= 512. Of the
    N blocks of B tokens the first `blocks` [1, 1] are used: token_ids [N, B] int32 (-1 is nobody),
    weights [N, B] fp32, block_experts [N, 1]. The cores take turns; each adds up its blocks in HBM
    of its own, since blocks share tokens.
    """
    tokens, hidden = x.shape
    partial = nl.ndarray((tokens, hidden), dtype=nl.float32, buffer=nl.private_hbm)
    nothing = filled((ROWS, hidden), nl.float32, 0.0)
    for first in range(0, tokens, ROWS):
        rows = min(ROWS, tokens - first)
        nisa.dma_copy(dst=partial[first : first + rows, :], src=nothing[0:rows, :])
    end = nisa.register_alloc(0)
    nisa.register_load(end, loaded(blocks))
    for block in nl.dynamic_range(nl.program_id(0), end, nl.num_programs(0)):
        one_block(partial, x, gate_up, down, token_ids, weights, block_experts, block)
    return sum_of_partials(partial, x.dtype)


def one_block(partial, x, gate_up, down, token_ids, weights, block_experts, block):
    """partial[ids] += weights * mlp(x[ids]) with the block's expert."""
    hidden = x.shape[1]
    size = token_ids.shape[1]
    ids = fresh((size, 1), token_ids.dtype)
    nisa.dma_copy(dst=ids, src=column_of(token_ids, block))
    scale = fresh((size, 1), weights.dtype)
    nisa.dma_copy(dst=scale, src=column_of(weights, block))
    expert = fresh((1, 1), block_experts.dtype)
    nisa.dma_copy(dst=expert, src=column_of(block_experts, block))

    rows = filled((size, hidden), x.dtype, 0.0)
    pattern = [[hidden, size], [1, hidden]]
    gathered = x.ap(pattern=pattern, offset=0, vector_offset=ids, indirect_dim=0)
    nisa.dma_copy(dst=rows, src=gathered, oob_mode=nisa.oob_mode.skip)
    inner = gated(rows, gate_up, expert)

    matrix = fresh((down.shape[1], hidden), down.dtype)
    source = down.ap(
        pattern=[[hidden, down.shape[1]], [1, hidden]],
        offset=0,
        scalar_offset=expert,
        indirect_dim=0,
    )
    nisa.dma_copy(dst=matrix, src=source)
    product = accumulator(size, hidden)
    nisa.nc_matmul(dst=product, stationary=inner, moving=matrix)
    scaled = fresh((size, hidden), nl.float32)
    nisa.tensor_scalar(dst=scaled, data=product, op0=nl.multiply, operand0=scale)
    places = partial.ap(pattern=pattern, offset=0, vector_offset=ids, indirect_dim=0)
    nisa.dma_compute(
        dst=places,
        srcs=[scaled, places],
        reduce_op=nl.add,
        scales=[1.0, 1.0],
        oob_mode=nisa.oob_mode.skip,
    )


def column_of(table, block):
    """Row `block` of an HBM table, one element per partition."""
    size = table.shape[1]
    pattern = [[1, size], [1, 1]]
    return table.ap(pattern=pattern, offset=0, scalar_offset=block, indirect_dim=0)


def gated(rows, gate_up, expert):
    """[I, B]: silu(gate) * up of a block of rows [B, H]."""
    size, hidden = rows.shape
    width = gate_up.shape[2]
    inner = width // 2
    steps = hidden // ROWS
    matrix = fresh((ROWS, steps, width), gate_up.dtype)
    pattern = [[width, ROWS], [ROWS * width, steps], [1, width]]
    source = gate_up.ap(pattern=pattern, offset=0, scalar_offset=expert, indirect_dim=0)
    nisa.dma_copy(dst=matrix, src=source)
    gate = accumulator(inner, size)
    up = accumulator(inner, size)
    for step in range(steps):
        moving = transposed(rows[:, step * ROWS : (step + 1) * ROWS])
        nisa.nc_matmul(dst=gate, stationary=matrix[:, step, 0:inner], moving=moving)
        nisa.nc_matmul(dst=up, stationary=matrix[:, step, inner:width], moving=moving)
    active = fresh((inner, size), nl.float32)
    nisa.activation(dst=active, op=nl.silu, data=gate)
    result = fresh((inner, size), rows.dtype)
    nisa.tensor_tensor(dst=result, data1=active, data2=up, op=nl.multiply)
    return result


def sum_of_partials(partial, dtype):
    """The cores' results added; each core stores its half of the columns."""
    tokens, hidden = partial.shape
    cores = nl.num_programs(0)
    everyones = nl.ndarray((cores, tokens, hidden), dtype=nl.float32, buffer=nl.shared_hbm)
    nisa.dma_copy(dst=everyones[nl.program_id(0)], src=partial)
    out = nl.ndarray((tokens, hidden), dtype=dtype, buffer=nl.shared_hbm)
    if cores == 2:
        nisa.core_barrier(everyones, (0, 1))
    width = hidden // cores
    begin = width * nl.program_id(0)
    for first in range(0, tokens, ROWS):
        rows = min(ROWS, tokens - first)
        total = loaded(everyones[0, first : first + rows, begin : begin + width])
        for core in range(1, cores):
            other = loaded(everyones[core, first : first + rows, begin : begin + width])
            nisa.tensor_tensor(dst=total, data1=total, data2=other, op=nl.add)
        result = fresh((rows, width), dtype)
        nisa.tensor_copy(dst=result, src=total)
        nisa.dma_copy(dst=out[first : first + rows, begin : begin + width], src=result)
    return out


def reference(x, gate_up, down, token_ids, weights, block_experts, blocks):
    out = np.zeros(x.shape, np.float32)
    inner = down.shape[1]
    for block in range(int(blocks[0, 0])):
        expert = block_experts[block, 0]
        for token, weight in zip(token_ids[block], weights[block], strict=True):
            if token >= 0:
                both = single(x[token]) @ single(gate_up[expert])
                active = rounded(silu(both[:inner]) * both[inner:])
                out[token] += weight * (active @ single(down[expert]))
    return out


def inputs(rng, tokens=140, hidden=256, inner=64, experts=4, size=32, blocks=5):
    ids = np.full((8, size), -1, np.int32)
    for row in ids:
        count = rng.integers(1, size + 1)
        row[:count] = rng.permutation(tokens)[:count]
    return (
        normal(rng, tokens, hidden, dtype=bfloat16),
        normal(rng, experts, hidden, 2 * inner, dtype=bfloat16, scale=hidden**-0.5),
        normal(rng, experts, inner, hidden, dtype=bfloat16, scale=inner**-0.5),
        ids,
        rng.random(ids.shape, np.float32),
        rng.integers(0, experts, (8, 1)).astype(np.int32),
        np.array([[blocks]], np.int32),
    )


CASES = (
    Case(
        moe_prefill,
        inputs,
        reference,
        tolerance=1e-2,
        since="2.30",
        allowed=("deprecated",),
    ),
)
