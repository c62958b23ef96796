"""Rotary embedding of heads with their depth on partitions: halves trade places, then combine."""

import nki
import nki.isa as nisa
import nki.language as nl
import numpy as np

from .case import Case, normal
from .tiles import fresh, loaded


@nki.jit
def rope(x, cos, sin):
    """out [N, D, T]: (a, b) becomes (a cos - b sin, b cos + a sin) for the halves a, b of D.

    x [N, D, T], cos and sin [D / 2, T], D / 2 is 32 or 64. The cores share the heads.
    """
    heads, depth, tokens = x.shape
    half = depth // 2
    cosine, sine = loaded(cos), loaded(sin)
    out = nl.ndarray((heads, depth, tokens), dtype=x.dtype, buffer=nl.shared_hbm)
    for head in range(nl.program_id(0), heads, nl.num_programs(0)):
        first = loaded(x[head, 0:half, :])
        second = loaded(x[head, half:depth, :])
        turned = fresh((depth, tokens), x.dtype)
        combine(turned[0:half, :], first, cosine, second, sine, nl.subtract)
        combine(turned[half:depth, :], second, cosine, first, sine, nl.add)
        nisa.dma_copy(dst=out[head], src=turned)
    return out


def combine(dst, a, cosine, b, sine, op):
    """dst = a * cosine op b * sine."""
    left = fresh(a.shape, nl.float32)
    nisa.tensor_tensor(dst=left, data1=a, data2=cosine, op=nl.multiply)
    right = fresh(a.shape, nl.float32)
    nisa.tensor_tensor(dst=right, data1=b, data2=sine, op=nl.multiply)
    nisa.tensor_tensor(dst=dst, data1=left, data2=right, op=op)


def reference(x, cos, sin):
    a, b = np.split(x, 2, axis=1)
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=1)


def inputs(rng, heads=3, depth=128, tokens=40):
    angles = np.outer(10000.0 ** -np.linspace(0, 1, depth // 2), np.arange(tokens))
    x = normal(rng, heads, depth, tokens)
    return x, np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


CASES = (
    Case(rope, inputs, reference),
    Case(rope, lambda rng: inputs(rng, 2, 64, 1), reference),
)
