"""Single instructions and short chains of one engine."""

import nki
import nki.isa as nisa
import nki.language as nl


def filled(shape, dtype, buffer=nl.sbuf):
    """A tile that holds ones."""
    tile = nl.ndarray(shape, dtype=dtype, buffer=buffer)
    nisa.memset(dst=tile, value=1)
    return tile


@nki.jit
def activations(columns, count):
    """`count` independent activations of [128, columns] fp32, of a function without a table."""
    source = filled((128, columns), nl.float32)
    for _ in range(count):
        result = nl.ndarray((128, columns), dtype=nl.float32, buffer=nl.sbuf)
        nisa.activation(dst=result, op=nl.copy, data=source)


@nki.jit
def activation_chain(count):
    """`count` activations of one element per partition, each of the result of the one before."""
    tile = filled((128, 1), nl.float32)
    for _ in range(count):
        nisa.activation(dst=tile, op=nl.copy, data=tile)


@nki.jit
def evictions(columns, count):
    """`count` copies of [128, columns] fp32 from PSUM to SBUF on the vector engine."""
    source = filled((128, columns), nl.float32, nl.psum)
    for _ in range(count):
        result = nl.ndarray((128, columns), dtype=nl.float32, buffer=nl.sbuf)
        nisa.tensor_copy(dst=result, src=source, engine=nisa.engine.vector)


@nki.jit
def additions(columns, count):
    """`count` independent sums of [128, columns] fp32."""
    source = filled((128, columns), nl.float32)
    for _ in range(count):
        result = nl.ndarray((128, columns), dtype=nl.float32, buffer=nl.sbuf)
        nisa.tensor_tensor(dst=result, data1=source, data2=source, op=nl.add)


@nki.jit
def matmuls(rows, columns, count, dtype):
    """`count` products of [128, rows].T and [128, columns], accumulated eight at a time."""
    stationary = filled((128, rows), dtype)
    moving = filled((128, columns), dtype)
    for _ in range(count // 8):
        total = nl.ndarray((rows, columns), dtype=nl.float32, buffer=nl.psum)
        for _ in range(8):
            nisa.nc_matmul(dst=total, stationary=stationary, moving=moving)


@nki.jit
def load(x):
    """One load of a [128, N] tensor, and an activation of a few of its elements."""
    tile = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=tile, src=x)
    result = nl.ndarray((128, 1), dtype=nl.float32, buffer=nl.sbuf)
    nisa.activation(dst=result, op=nl.copy, data=tile[:, 0:1])


@nki.jit
def loads(x, count):
    """`count` loads of one [128, N] tensor into as many tiles."""
    for _ in range(count):
        tile = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.sbuf)
        nisa.dma_copy(dst=tile, src=x)


@nki.jit
def add(a, b):
    """out = a + b of one small tile."""
    left = nl.ndarray(a.shape, dtype=a.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=left, src=a)
    right = nl.ndarray(b.shape, dtype=b.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=right, src=b)
    nisa.tensor_tensor(dst=left, data1=left, data2=right, op=nl.add)
    out = nl.ndarray(a.shape, dtype=a.dtype, buffer=nl.shared_hbm)
    nisa.dma_copy(dst=out, src=left)
    return out


@nki.jit
def gathers(table, count):
    """`count` gathers of 128 rows of a table into as many tiles."""
    index = nl.ndarray((128, 1), dtype=nl.int32, buffer=nl.sbuf)
    nisa.iota(dst=index, pattern=[[0, 1]], offset=0, channel_multiplier=1)
    width = table.shape[1]
    for _ in range(count):
        tile = nl.ndarray((128, width), dtype=table.dtype, buffer=nl.sbuf)
        rows = table.ap(pattern=[[width, 128], [1, width]], offset=0, vector_offset=index)
        nisa.dma_copy(dst=tile, src=rows, dge_mode=nisa.dge_mode.swdge)
