"""Decode attention: one new position goes into the cache; the cores share the positions."""

import nki
import nki.isa as nisa
import nki.language as nl
import numpy as np

from .case import Case, bfloat16, normal, rounded, single
from .tiles import COLUMNS, ROWS, accumulator, evacuated, filled, fresh, loaded, swap, transposed

LOWEST = -3.4028235e38  # what range_select puts into masked places


@nki.jit
def attention_decode(q, cache, new, position):
    """(out [N, D], cache): attention of N heads of one token over a cache of one KV head.

    q [N, D], cache [2, S, D] (keys, values; updated in place), new [2, 1, D], position [1, 1]
    int32. S is a multiple of 128 per core, D at most 128. Positions after the new one are masked.
    """
    heads, depth = q.shape
    cores = nl.num_programs(0)
    length = cache.shape[1] // cores
    begin = length * nl.program_id(0)
    place = loaded(position)
    for part in range(nl.program_id(0), 2, cores):  # one core writes keys, the other values
        row = loaded(new[part])
        where = cache.ap(
            pattern=[[depth, 1], [1, depth]],
            offset=part * cache.shape[1] * depth,
            scalar_offset=place,
            indirect_dim=1,
        )
        nisa.dma_copy(dst=where, src=row)
    if cores == 2:
        nisa.core_barrier(cache, (0, 1))

    scores = scaled_scores(q, cache, begin, length)
    masked, highest = masked_up_to(scores, position, begin)
    weighted, total = weighted_values(masked, highest, cache, begin, q.dtype)
    out = nl.ndarray((heads, depth), dtype=q.dtype, buffer=nl.shared_hbm)
    result = combined(weighted, highest, total)
    width = depth // cores
    first = width * nl.program_id(0)
    rounded_result = fresh((heads, width), q.dtype)
    nisa.tensor_copy(dst=rounded_result, src=result[:, first : first + width])
    nisa.dma_copy(dst=out[:, first : first + width], src=rounded_result)
    return out, cache


def scaled_scores(q, cache, begin, length):
    """[N, length] fp32: q @ keys.T / sqrt(D) for this core's positions."""
    heads, depth = q.shape
    query = transposed(loaded(q))
    scores = fresh((heads, length), nl.float32)
    for first in range(0, length, COLUMNS):
        columns = min(COLUMNS, length - first)
        keys = fresh((depth, columns), q.dtype)
        for start in range(0, columns, ROWS):
            at = begin + first + start
            nisa.dma_transpose(  # four dimensions, as every release takes them
                dst=keys.ap(pattern=[[columns, depth], [1, 1], [1, 1], [1, ROWS]], offset=start),
                src=cache.ap(
                    pattern=[[depth, ROWS], [1, 1], [1, 1], [1, depth]], offset=at * depth
                ),
            )
        product = accumulator(heads, columns)
        nisa.nc_matmul(dst=product, stationary=query, moving=keys)
        nisa.tensor_scalar(
            dst=scores[:, first : first + columns],
            data=product,
            op0=nl.multiply,
            operand0=depth**-0.5,
        )
    return scores


def masked_up_to(scores, position, begin):
    """Scores of places up to the position, the lowest fp32 elsewhere; the maximum of each row."""
    heads, length = scores.shape
    last = fresh((heads, 1), nl.float32)
    places = loaded(position.ap(pattern=[[0, heads], [1, 1]], offset=0))
    nisa.tensor_copy(dst=last, src=places)
    zero = filled((heads, 1), nl.float32, 0.0)
    masked = fresh((heads, length), nl.float32)
    highest = fresh((heads, 1), nl.float32)
    nisa.range_select(
        dst=masked,
        on_true_tile=scores,
        comp_op0=nl.greater_equal,
        comp_op1=nl.less_equal,
        bound0=zero,
        bound1=last,
        reduce_cmd=nisa.reduce_cmd.reset_reduce,
        reduce_res=highest,
        reduce_op=nl.maximum,
        range_start=begin,
        on_false_value=LOWEST,
    )
    return masked, highest


def weighted_values(masked, highest, cache, begin, dtype):
    """([N, D], [N, 1]) fp32: exp(masked - highest) @ values, and the sum of the weights."""
    heads, length = masked.shape
    negative = fresh((heads, 1), nl.float32)
    nisa.tensor_scalar(dst=negative, data=highest, op0=nl.multiply, operand0=-1.0)
    weights = fresh((heads, length), dtype)
    total = fresh((heads, 1), nl.float32)
    nisa.activation(
        dst=weights,
        op=nl.exp,
        data=masked,
        bias=negative,
        reduce_op=nl.add,
        reduce_res=total,
        reduce_cmd=nisa.reduce_cmd.reset_reduce,
    )
    product = accumulator(heads, cache.shape[2])
    for first in range(0, length, ROWS):
        values = loaded(cache[1, begin + first : begin + first + ROWS, :])
        turned = transposed(weights[:, first : first + ROWS])
        nisa.nc_matmul(dst=product, stationary=turned, moving=values)
    return evacuated(product, nl.float32), total


def combined(weighted, highest, total):
    """[N, D] fp32: the softmax over both cores' positions, from each one's maximum and sum."""
    heads, depth = weighted.shape
    if nl.num_programs(0) == 2:
        mine = fresh((heads, depth + 2), nl.float32)
        nisa.tensor_copy(dst=mine[:, 0:depth], src=weighted)
        nisa.tensor_copy(dst=mine[:, depth : depth + 1], src=total)
        nisa.tensor_copy(dst=mine[:, depth + 1 : depth + 2], src=highest)
        others = fresh((heads, depth + 2), nl.float32)
        swap(mine, others, 0)
        common = fresh((heads, 1), nl.float32)
        nisa.tensor_tensor(
            dst=common, data1=highest, data2=others[:, depth + 1 : depth + 2], op=nl.maximum
        )
        nisa.tensor_scalar(dst=common, data=common, op0=nl.multiply, operand0=-1.0)
        both = fresh((heads, depth + 1), nl.float32)
        nisa.memset(dst=both, value=0.0)
        for part in (mine, others):
            factor = fresh((heads, 1), nl.float32)
            nisa.activation(dst=factor, op=nl.exp, data=part[:, depth + 1 : depth + 2], bias=common)
            nisa.scalar_tensor_tensor(
                dst=both,
                data=part[:, 0 : depth + 1],
                op0=nl.multiply,
                operand0=factor,
                op1=nl.add,
                operand1=both,
            )
        nisa.tensor_copy(dst=weighted, src=both[:, 0:depth])
        nisa.tensor_copy(dst=total, src=both[:, depth : depth + 1])
    inverse = fresh((heads, 1), nl.float32)
    nisa.reciprocal(dst=inverse, data=total)
    nisa.tensor_scalar(dst=weighted, data=weighted, op0=nl.multiply, operand0=inverse)
    return weighted


def reference(q, cache, new, position):
    cache, last = cache.copy(), int(position[0, 0])
    cache[:, last] = new[:, 0]
    keys, values = single(cache[:, : last + 1])
    scores = single(q) @ keys.T * q.shape[1] ** -0.5
    weights = np.exp(scores - scores.max(1, keepdims=True))
    return rounded(weights) @ values / weights.sum(1, keepdims=True), cache


def inputs(rng, heads=8, depth=64, length=512, position=300):
    return (
        normal(rng, heads, depth, dtype=bfloat16),
        normal(rng, 2, length, depth, dtype=bfloat16),
        normal(rng, 2, 1, depth, dtype=bfloat16),
        np.array([[position]], np.int32),
    )


CASES = (
    Case(attention_decode, inputs, reference, tolerance=1e-2),
    Case(
        attention_decode,
        lambda rng: inputs(rng, 32, 128, 1536, 3),  # the second core has nothing to attend to
        reference,
        tolerance=1e-2,
    ),
)
