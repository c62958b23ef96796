"""Kernels that the vector engine limits."""

import nki
import nki.isa as nisa
import nki.language as nl

PARTITIONS, BANK = 128, 512


@nki.jit
def scan(delta, u, a, b, c, chunk, hoist):
    """A selective state space (Mamba) layer over [channels, length] with `states` states, fp32.

    Args:
        delta, u: [C, L]
        a: [C, S]
        b, c: [S, L]
        chunk: columns that are scanned at once; divides L.
        hoist: load delta and u, and multiply them, once for all states instead of for each.

    Returns: [C, L]
    """
    channels, length = delta.shape
    out = nl.ndarray((channels, length), dtype=delta.dtype, buffer=nl.shared_hbm)
    for row in range(0, channels, PARTITIONS):
        decay = tile_of(a, row, 0, a.shape[1])
        states = nl.ndarray((PARTITIONS, a.shape[1]), dtype=nl.float32, buffer=nl.sbuf)
        nisa.memset(dst=states, value=0.0)
        for column in range(0, length, chunk):
            total = nl.ndarray((PARTITIONS, chunk), dtype=nl.float32, buffer=nl.sbuf)
            nisa.memset(dst=total, value=0.0)
            step = tile_of(delta, row, column, chunk)
            product = inputs(delta, u, row, column, chunk)
            for s in range(a.shape[1]):
                if not hoist:
                    step = tile_of(delta, row, column, chunk)
                    product = inputs(delta, u, row, column, chunk)
                one_state(total, step, product, decay, states, b, c, s, column)
            nisa.dma_copy(dst=out[row : row + PARTITIONS, column : column + chunk], src=total)
    return out


def tile_of(source, row, column, width):
    """A [128, width] tile of a matrix."""
    tile = nl.ndarray((PARTITIONS, width), dtype=source.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=tile, src=source[row : row + PARTITIONS, column : column + width])
    return tile


def inputs(delta, u, row, column, width):
    """delta * u of a tile."""
    step = tile_of(delta, row, column, width)
    value = tile_of(u, row, column, width)
    product = nl.ndarray((PARTITIONS, width), dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_tensor(dst=product, data1=step, data2=value, op=nl.multiply)
    return product


def spread(source, row, column, width):
    """A row of a matrix on all partitions, by a product with ones: a PSUM tile."""
    line = nl.ndarray((1, width), dtype=source.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=line, src=source[row : row + 1, column : column + width])
    ones = nl.ndarray((1, PARTITIONS), dtype=source.dtype, buffer=nl.sbuf)
    nisa.memset(dst=ones, value=1.0, engine=nisa.engine.gpsimd)
    tile = nl.ndarray((PARTITIONS, width), dtype=nl.float32, buffer=nl.psum)
    for first in range(0, width, BANK):
        end = min(first + BANK, width)
        nisa.nc_matmul(dst=tile[:, first:end], stationary=ones, moving=line[:, first:end])
    return tile


def one_state(total, step, product, decay, states, b, c, s, column):
    """Add what state `s` contributes."""
    width = total.shape[1]
    shape = (PARTITIONS, width)
    factor = nl.ndarray(shape, dtype=nl.float32, buffer=nl.sbuf)
    nisa.activation(dst=factor, op=nl.exp, data=step, scale=decay[:, s : s + 1])
    entering = nl.ndarray(shape, dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_tensor(
        dst=entering, data1=product, data2=spread(b, s, column, width), op=nl.multiply
    )
    scanned = nl.ndarray(shape, dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_tensor_scan(
        dst=scanned, data0=factor, data1=entering, initial=states[:, s : s + 1],
        op0=nl.multiply, op1=nl.add,
    )  # fmt: skip
    nisa.activation(dst=states[:, s : s + 1], op=nl.copy, data=scanned[:, width - 1 : width])
    leaving = nl.ndarray(shape, dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_tensor(
        dst=leaving, data1=scanned, data2=spread(c, s, column, width), op=nl.multiply
    )
    nisa.tensor_tensor(dst=total, data1=total, data2=leaving, op=nl.add)


@nki.jit
def rotate(x, cosine, sine, chunk):
    """Rotary embedding of x [H, D, L] fp32, D on the partitions: each half of D with the other.

    Args:
        x: [H, D, L]
        cosine, sine: [D / 2, L]
        chunk: columns at once.
    """
    heads, size, length = x.shape
    half = size // 2
    out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
    for column in range(0, length, chunk):
        tables = []
        for table in (cosine, sine):
            tile = nl.ndarray((half, chunk), dtype=x.dtype, buffer=nl.sbuf)
            nisa.dma_copy(dst=tile, src=table[:, column : column + chunk])
            tables.append(tile)
        for h in range(heads):
            halves = []
            for part in range(2):
                tile = nl.ndarray((half, chunk), dtype=x.dtype, buffer=nl.sbuf)
                rows = x[h, part * half : (part + 1) * half, column : column + chunk]
                nisa.dma_copy(dst=tile, src=rows)
                halves.append(tile)
            for part in range(2):
                turned = nl.ndarray((half, chunk), dtype=x.dtype, buffer=nl.sbuf)
                other = nl.ndarray((half, chunk), dtype=x.dtype, buffer=nl.sbuf)
                nisa.tensor_tensor(dst=turned, data1=halves[part], data2=tables[0], op=nl.multiply)
                nisa.tensor_tensor(
                    dst=other, data1=halves[1 - part], data2=tables[1], op=nl.multiply
                )
                op = nl.add if part else nl.subtract
                nisa.tensor_tensor(dst=turned, data1=turned, data2=other, op=op)
                rows = out[h, part * half : (part + 1) * half, column : column + chunk]
                nisa.dma_copy(dst=rows, src=turned)
    return out
