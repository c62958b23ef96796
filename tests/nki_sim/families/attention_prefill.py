"""Prefill attention, causal: blocks of keys pass by each block of queries (online softmax)."""

import nki
import nki.isa as nisa
import nki.language as nl
import numpy as np

from .case import Case, bfloat16, normal, rounded, single
from .tiles import ROWS, accumulator, filled, fresh, loaded, transposed

MASKED = -3.0e38


@nki.jit
def attention_prefill(q, k, v):
    """out [N, S, D] of q, k, v [N, S, D]; S is a multiple of 128, D at most 128.

    The cores share the heads.
    """
    heads, length, depth = q.shape
    out = nl.ndarray((heads, length, depth), dtype=q.dtype, buffer=nl.shared_hbm)
    for head in range(nl.program_id(0), heads, nl.num_programs(0)):
        for block in range(length // ROWS):
            rows = slice(block * ROWS, (block + 1) * ROWS)
            result = block_of_queries(loaded(q[head, rows, :]), k[head], v[head], block)
            nisa.dma_copy(dst=out[head, rows, :], src=result)
    return out


def block_of_queries(queries, k, v, block):
    """[128, D]: the queries of one block against all keys that they may see."""
    depth = queries.shape[1]
    turned = transposed(queries)
    highest = filled((ROWS, 1), nl.float32, MASKED)
    total = filled((ROWS, 1), nl.float32, 0.0)
    weighted = filled((ROWS, depth), nl.float32, 0.0)
    for other in range(block + 1):
        rows = slice(other * ROWS, (other + 1) * ROWS)
        scores = scaled_scores(turned, k[rows, :])
        if other == block:
            only_earlier(scores)
        update(highest, total, weighted, scores, loaded(v[rows, :]))
    inverse = fresh((ROWS, 1), nl.float32)
    nisa.reciprocal(dst=inverse, data=total)
    result = fresh((ROWS, depth), queries.dtype)
    nisa.tensor_scalar(dst=result, data=weighted, op0=nl.multiply, operand0=inverse)
    return result


def scaled_scores(turned, k):
    """[128, 128] fp32: queries @ keys.T / sqrt(D)."""
    product = accumulator(ROWS, ROWS)
    nisa.nc_matmul(dst=product, stationary=turned, moving=transposed(loaded(k)))
    scores = fresh((ROWS, ROWS), nl.float32)
    nisa.activation(dst=scores, op=nl.copy, data=product, scale=turned.shape[0] ** -0.5)
    return scores


def only_earlier(scores):
    """Mask, in the block on the diagonal, the columns after each row: keep row - column >= 0."""
    nisa.affine_select(
        dst=scores,
        pattern=[[-1, ROWS]],
        offset=0,
        channel_multiplier=1,
        on_true_tile=scores,
        on_false_value=MASKED,
        cmp_op=nl.greater_equal,
    )


def update(highest, total, weighted, scores, values):
    """Take a block of scores into the running maximum, sum and weighted values of each row."""
    depth = values.shape[1]
    best = fresh((ROWS, 1), nl.float32)
    nisa.tensor_reduce(dst=best, op=nl.maximum, data=scores, axis=1)
    nisa.tensor_tensor(dst=best, data1=best, data2=highest, op=nl.maximum)
    negative = fresh((ROWS, 1), nl.float32)
    nisa.tensor_scalar(dst=negative, data=best, op0=nl.multiply, operand0=-1.0)
    shrink = fresh((ROWS, 1), nl.float32)
    nisa.activation(dst=shrink, op=nl.exp, data=highest, bias=negative)
    weights = fresh((ROWS, ROWS), values.dtype)
    added = fresh((ROWS, 1), nl.float32)
    nisa.activation_reduce(
        dst=weights, op=nl.exp, data=scores, bias=negative, reduce_op=nl.add, reduce_res=added
    )
    product = accumulator(ROWS, depth)
    nisa.nc_matmul(dst=product, stationary=transposed(weights), moving=values)
    rescale_and_add(total, shrink, added)
    rescale_and_add(weighted, shrink, product)
    nisa.tensor_copy(dst=highest, src=best)


def rescale_and_add(running, shrink, added):
    """running = running * shrink + added."""
    nisa.scalar_tensor_tensor(
        dst=running,
        data=running,
        op0=nl.multiply,
        operand0=shrink,
        op1=nl.add,
        operand1=added,
    )


def reference(q, k, v):
    scores = single(q) @ single(k).transpose(0, 2, 1) * q.shape[2] ** -0.5
    scores = np.where(np.tri(q.shape[1], dtype=bool), scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return rounded(weights) @ single(v) / weights.sum(-1, keepdims=True)


def inputs(rng, heads=2, length=384, depth=64, dtype=bfloat16):
    return tuple(normal(rng, heads, length, depth, dtype=dtype) for _ in range(3))


CASES = (
    Case(attention_prefill, inputs, reference, tolerance=2e-2),
    Case(attention_prefill, lambda rng: inputs(rng, 3, 128, 128), reference, tolerance=2e-2),
)
