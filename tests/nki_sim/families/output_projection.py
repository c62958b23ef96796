"""Output projection: the heads' results, already with their depth on partitions, times W_O."""

import nki
import nki.isa as nisa
import nki.language as nl

from .case import Case, bfloat16, normal, single
from .tiles import COLUMNS, accumulator, fresh, loaded


@nki.jit
def output_projection(heads, w, bias):
    """out [T, H] = sum over n of heads[n].T @ w[n] + bias.

    heads [N, D, T] with D, T <= 128, w [N, D, H], bias [1, H] fp32. The cores share the columns.
    """
    count, _, tokens = heads.shape
    hidden = w.shape[2]
    width = hidden // nl.num_programs(0)
    begin = width * nl.program_id(0)
    stationary = []
    for head in range(count):
        stationary.append(loaded(heads[head]))
    out = nl.ndarray((tokens, hidden), dtype=heads.dtype, buffer=nl.shared_hbm)
    for first in range(begin, begin + width, COLUMNS):
        columns = min(COLUMNS, begin + width - first)
        total = accumulator(tokens, columns)
        for head in range(count):
            moving = loaded(w[head, :, first : first + columns])
            nisa.nc_matmul(dst=total, stationary=stationary[head], moving=moving)
        offsets = loaded(bias.ap(pattern=[[0, tokens], [1, columns]], offset=first))
        result = fresh((tokens, columns), out.dtype)
        nisa.tensor_tensor(dst=result, data1=total, data2=offsets, op=nl.add)
        nisa.dma_copy(dst=out[:, first : first + columns], src=result)
    return out


def reference(heads, w, bias):
    return sum(single(h).T @ single(m) for h, m in zip(heads, w, strict=True)) + bias


def inputs(rng, count=4, depth=64, tokens=20, hidden=1100):
    return (
        normal(rng, count, depth, tokens, dtype=bfloat16),
        normal(rng, count, depth, hidden, dtype=bfloat16, scale=(count * depth) ** -0.5),
        normal(rng, 1, hidden),
    )


CASES = (
    Case(output_projection, inputs, reference, tolerance=1e-2),
    Case(output_projection, lambda rng: inputs(rng, 1, 128, 128, 96), reference, tolerance=1e-2),
)
