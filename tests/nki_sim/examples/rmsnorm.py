"""RMSNorm with one row per partition, and two broken versions of it."""

import nki
import nki.isa as nisa
import nki.language as nl


def load(source, first, rows):
    """[rows, H] tile with rows of an HBM tensor."""
    tile = nl.ndarray((rows, source.shape[1]), dtype=source.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=tile, src=source[first : first + rows, :])
    return tile


def inverse_rms(tile, eps):
    """[rows, 1] fp32: 1 / sqrt(mean of squares + eps) of each row."""
    rows, width = tile.shape
    squares = nl.ndarray((rows, width), dtype=nl.float32, buffer=nl.sbuf)
    nisa.activation(dst=squares, op=nl.square, data=tile)
    total = nl.ndarray((rows, 1), dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_reduce(dst=total, op=nl.add, data=squares, axis=1)
    bias = nl.ndarray((rows, 1), dtype=nl.float32, buffer=nl.sbuf)
    nisa.memset(dst=bias, value=eps)
    result = nl.ndarray((rows, 1), dtype=nl.float32, buffer=nl.sbuf)
    nisa.activation(dst=result, op=nl.rsqrt, data=total, scale=1.0 / width, bias=bias)
    return result


@nki.jit
def rmsnorm(x, weight, eps=1e-6):
    """y[n, :] = x[n, :] / sqrt(mean(x[n, :] ** 2) + eps) * weight, for weight of shape [1, H]."""
    height, width = x.shape
    out = nl.ndarray((height, width), dtype=x.dtype, buffer=nl.shared_hbm)
    scale = nl.ndarray((min(128, height), width), dtype=weight.dtype, buffer=nl.sbuf, name="scale")
    rows_of_weight = weight.ap(pattern=[[0, scale.shape[0]], [1, width]], offset=0)
    nisa.dma_copy(dst=scale, src=rows_of_weight)
    for first in range(0, height, 128):
        rows = min(128, height - first)
        tile = load(x, first, rows)
        inverse = inverse_rms(tile, eps)
        nisa.scalar_tensor_tensor(
            dst=tile,
            data=tile,
            op0=nl.multiply,
            operand0=inverse,
            op1=nl.multiply,
            operand1=scale[0:rows, :],
        )
        nisa.dma_copy(dst=out[first : first + rows, :], src=tile)
    return out


@nki.jit
def rmsnorm_forgets_eps(x):
    """Broken for the hardware: reads a tile that nothing has written."""
    tile = load(x, 0, x.shape[0])
    bias = nl.ndarray((x.shape[0], 1), dtype=nl.float32, buffer=nl.sbuf, name="bias")
    nisa.activation(dst=tile, op=nl.rsqrt, data=tile, bias=bias)
    out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
    nisa.dma_copy(dst=out, src=tile)
    return out


@nki.jit
def rmsnorm_in_python(x):
    """Broken for the compiler: Python that it does not take."""
    tiles = [load(x, first, 1) for first in range(x.shape[0])]
    out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
    for first, tile in enumerate(tiles):
        nisa.dma_copy(out[first : first + 1, :], tile)
    return out
