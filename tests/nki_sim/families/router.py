"""Router: logits from a column-tiled matmul, the top 8 of their softmax, scattered to experts."""

import nki
import nki.isa as nisa
import nki.language as nl
import numpy as np

from .case import Case, bfloat16, normal, single, softmax
from .tiles import ROWS, accumulator, contraction_tiles, contraction_tiles_of_rows, filled, fresh

TOP = 8
TILE = 32  # columns of the tensor engine's array that one tile of tokens takes


@nki.jit
def router(x, w):
    """(affinities [T, E] fp32, experts [T, 8] uint32) of x [T, H] and w [H, E].

    The affinities of the chosen experts sum to 1; all others are 0. Each core takes at most 32
    tokens: the array then holds 4 tiles of columns, which work on 4 parts of H side by side.
    """
    cores = nl.num_programs(0)
    rows = x.shape[0] // cores
    begin = rows * nl.program_id(0)
    experts = w.shape[1]
    logits = column_tiled(x[begin : begin + rows, :], w)
    probabilities = softmax_rows(logits)

    best = fresh((rows, TOP), nl.float32)
    nisa.max8(dst=best, src=probabilities)
    chosen = fresh((rows, TOP), nl.uint32)
    nisa.nc_find_index8(dst=chosen, data=probabilities, vals=best)
    total = fresh((rows, 1), nl.float32)
    nisa.tensor_reduce(dst=total, op=nl.add, data=best, axis=1)
    nisa.reciprocal(dst=total, data=total)

    mask = one_hot(chosen, experts)
    affinities = fresh((rows, experts), nl.float32)
    nisa.scalar_tensor_tensor(
        dst=affinities,
        data=probabilities,
        op0=nl.multiply,
        operand0=total,
        op1=nl.multiply,
        operand1=mask,
    )
    affinities_out = nl.ndarray((x.shape[0], experts), dtype=nl.float32, buffer=nl.shared_hbm)
    chosen_out = nl.ndarray((x.shape[0], TOP), dtype=nl.uint32, buffer=nl.shared_hbm)
    nisa.dma_copy(dst=affinities_out[begin : begin + rows, :], src=affinities)
    nisa.dma_copy(dst=chosen_out[begin : begin + rows, :], src=chosen)
    return affinities_out, chosen_out


def column_tiled(x, w):
    """[T, E] fp32 = x @ w: step s accumulates in column tile s % 4; the tiles are added at last."""
    rows, hidden = x.shape
    experts = w.shape[1]
    columns = loaded_columns(x)
    matrix = contraction_tiles(w)
    tiles = ROWS // TILE
    partial = accumulator(ROWS, experts)
    for step in range(hidden // ROWS):
        first = TILE * (step % tiles)
        nisa.nc_matmul(
            dst=partial[first : first + rows, :],
            stationary=columns[:, step, :],
            moving=matrix[:, step, :],
            tile_position=(0, first),
            tile_size=(ROWS, TILE),
        )
    logits = fresh((rows, experts), nl.float32)
    nisa.tensor_copy(dst=logits, src=partial[0:rows, :])
    for tile in range(1, tiles):
        first = TILE * tile
        nisa.tensor_tensor(
            dst=logits, data1=logits, data2=partial[first : first + rows, :], op=nl.add
        )
    return logits


def loaded_columns(x):
    """[128, H / 128, T] of a window of rows of an HBM tensor, via a copy of its own."""
    rows = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.private_hbm)
    nisa.dma_copy(dst=rows, src=x)
    return contraction_tiles_of_rows(rows)


def softmax_rows(logits):
    """exp(logits - max) / sum, per row, in fp32."""
    rows, experts = logits.shape
    lowest = fresh((rows, 1), nl.float32)
    nisa.tensor_reduce(dst=lowest, op=nl.maximum, data=logits, axis=1, negate=True)
    powers = fresh((rows, experts), nl.float32)
    total = fresh((rows, 1), nl.float32)
    nisa.activation(
        dst=powers,
        op=nl.exp,
        data=logits,
        bias=lowest,
        reduce_op=nl.add,
        reduce_res=total,
        reduce_cmd=nisa.reduce_cmd.reset_reduce,
    )
    nisa.reciprocal(dst=total, data=total)
    nisa.tensor_scalar(dst=powers, data=powers, op0=nl.multiply, operand0=total)
    return powers


def one_hot(chosen, experts):
    """[T, E] fp32 with 1 where an expert is among a row's chosen ones."""
    rows, count = chosen.shape
    numbers = fresh((rows, experts), nl.float32)
    nisa.iota(dst=numbers, pattern=[[1, experts]], offset=0, channel_multiplier=0)
    wanted = fresh((rows, count), nl.float32)
    nisa.tensor_copy(dst=wanted, src=chosen)
    mask = filled((rows, experts), nl.float32, 0.0)
    for k in range(count):
        nisa.scalar_tensor_tensor(
            dst=mask,
            data=numbers,
            op0=nl.equal,
            operand0=wanted[:, k : k + 1],
            op1=nl.add,
            operand1=mask,
        )
    return mask


def reference(x, w):
    probabilities = softmax(single(x) @ single(w))
    chosen = np.argsort(-probabilities, axis=1, kind="stable")[:, :TOP]
    best = np.take_along_axis(probabilities, chosen, 1)
    affinities = np.zeros_like(probabilities)
    np.put_along_axis(affinities, chosen, best / best.sum(1, keepdims=True), 1)
    return affinities, chosen.astype(np.uint32)


def inputs(rng, tokens=10, hidden=768, experts=128, dtype=bfloat16):
    return (
        normal(rng, tokens, hidden, dtype=dtype),
        normal(rng, hidden, experts, dtype=dtype, scale=2 * hidden**-0.5),
    )


CASES = (
    Case(router, inputs, reference, tolerance=1e-5, since="2.28"),
    Case(
        router,
        lambda rng: inputs(rng, 32, 512, 16, np.float32),
        reference,
        tolerance=1e-5,
        since="2.28",
    ),
)
