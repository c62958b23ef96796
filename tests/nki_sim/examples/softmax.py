"""Softmax over the rows of a matrix; `stop` breaks in the debugger after the row maximum."""

import nki
import nki.isa as nisa
import nki.language as nl


@nki.jit
def softmax(x, stop=False):
    """y[n, :] = exp(x[n, :] - max) / sum, one row per partition."""
    height, width = x.shape
    out = nl.ndarray((height, width), dtype=x.dtype, buffer=nl.shared_hbm)
    for first in range(0, height, 128):
        rows = min(128, height - first)
        tile = nl.ndarray((rows, width), dtype=x.dtype, buffer=nl.sbuf)
        nisa.dma_copy(dst=tile, src=x[first : first + rows, :])
        lowest = nl.ndarray((rows, 1), dtype=nl.float32, buffer=nl.sbuf)
        nisa.tensor_reduce(dst=lowest, op=nl.maximum, data=tile, axis=1, negate=True)
        if stop:
            breakpoint()
        powers = nl.ndarray((rows, width), dtype=nl.float32, buffer=nl.sbuf)
        total = nl.ndarray((rows, 1), dtype=nl.float32, buffer=nl.sbuf)
        nisa.activation_reduce(
            dst=powers, op=nl.exp, data=tile, bias=lowest, reduce_op=nl.add, reduce_res=total
        )
        nisa.reciprocal(dst=total, data=total)
        nisa.tensor_scalar(dst=tile, data=powers, op0=nl.multiply, operand0=total)
        nisa.dma_copy(dst=out[first : first + rows, :], src=tile)
    return out
