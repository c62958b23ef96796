"""RMSNorm whose result is quantised to fp8, with one scale per row."""

import ml_dtypes
import nki
import nki.isa as nisa
import nki.language as nl
import numpy as np

from .case import Case, bfloat16, normal, single
from .tiles import ROWS, fresh, loaded

EPSILON = 1e-6
LARGEST = 240.0  # of float8_e4m3


@nki.jit
def rmsnorm_quant(x, gamma):
    """(y [N, H] float8_e4m3, scale [N, 1] fp32): y * scale is x / rms(x) * gamma, row by row.

    gamma [1, H]. The cores take turns with tiles of 128 rows.
    """
    height, width = x.shape
    quantised = nl.ndarray((height, width), dtype=nl.float8_e4m3, buffer=nl.shared_hbm)
    scales = nl.ndarray((height, 1), dtype=nl.float32, buffer=nl.shared_hbm)
    weights = loaded(gamma.ap(pattern=[[0, ROWS], [1, width]], offset=0))
    cores = nl.num_programs(0)
    for first in range(ROWS * nl.program_id(0), height, ROWS * cores):
        rows = min(ROWS, height - first)
        normed = rmsnorm(loaded(x[first : first + rows, :]), weights[0:rows, :])
        result, scale = row_quantised(normed)
        nisa.dma_copy(dst=quantised[first : first + rows, :], src=result)
        nisa.dma_copy(dst=scales[first : first + rows, :], src=scale)
    return quantised, scales


def rmsnorm(x, weights):
    """x / sqrt(mean(x ** 2) + epsilon) * weights in fp32."""
    rows, width = x.shape
    squares = fresh((rows, width), nl.float32)
    total = fresh((rows, 1), nl.float32)
    nisa.activation_reduce(dst=squares, op=nl.square, data=x, reduce_op=nl.add, reduce_res=total)
    epsilon = fresh((rows, 1), nl.float32)
    nisa.memset(dst=epsilon, value=EPSILON)
    inverse = fresh((rows, 1), nl.float32)
    nisa.activation(dst=inverse, op=nl.rsqrt, data=total, scale=1.0 / width, bias=epsilon)
    normed = fresh((rows, width), nl.float32)
    nisa.scalar_tensor_tensor(
        dst=normed,
        data=x,
        op0=nl.multiply,
        operand0=inverse,
        op1=nl.multiply,
        operand1=weights,
    )
    return normed


def row_quantised(x):
    """x / scale in fp8 and the scale, which maps the largest magnitude of a row to fp8's."""
    rows, width = x.shape
    magnitudes = fresh((rows, width), nl.float32)
    largest = fresh((rows, 1), nl.float32)
    nisa.tensor_scalar_reduce(
        dst=magnitudes,
        data=x,
        op0=nl.abs,
        operand0=0.0,
        reduce_op=nl.maximum,
        reduce_res=largest,
    )
    scale = fresh((rows, 1), nl.float32)
    nisa.tensor_scalar(
        dst=scale,
        data=largest,
        op0=nl.maximum,
        operand0=1e-12,
        op1=nl.multiply,
        operand1=1.0 / LARGEST,
    )
    inverse = fresh((rows, 1), nl.float32)
    nisa.reciprocal(dst=inverse, data=scale)
    shrunk = fresh((rows, width), nl.float32)
    nisa.tensor_scalar(
        dst=shrunk, data=x, op0=nl.multiply, operand0=inverse, op1=nl.minimum, operand1=LARGEST
    )
    quantised = fresh((rows, width), nl.float8_e4m3)
    nisa.tensor_scalar(dst=quantised, data=shrunk, op0=nl.maximum, operand0=-LARGEST)
    return quantised, scale


def reference(x, gamma):
    x = single(x)
    normed = x / np.sqrt((x**2).mean(1, keepdims=True) + EPSILON) * single(gamma)
    scale = np.maximum(np.abs(normed).max(1, keepdims=True), 1e-12) / LARGEST
    return np.clip(normed / scale, -LARGEST, LARGEST).astype(ml_dtypes.float8_e4m3), scale


def inputs(rng, height=200, width=320, dtype=bfloat16):
    return normal(rng, height, width, dtype=dtype), normal(rng, 1, width, dtype=dtype)


CASES = (  # one step of fp8 at its largest value is 16 of 240
    Case(rmsnorm_quant, inputs, reference, tolerance=0.07, since="2.28"),
    Case(
        rmsnorm_quant,
        lambda rng: inputs(rng, 300, 64, np.float32),
        reference,
        tolerance=0.07,
        since="2.28",
    ),
)
