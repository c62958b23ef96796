"""What the kernels of several families share. Part of kernels: the compiler's Python only."""

import nki.isa as nisa
import nki.language as nl

ROWS = 128  # partitions
COLUMNS = 512  # fp32 elements per partition of a PSUM bank


def fresh(shape, dtype):
    """An SBUF tile that nothing has written."""
    return nl.ndarray(shape, dtype=dtype, buffer=nl.sbuf)


def filled(shape, dtype, value):
    """An SBUF tile that holds one number."""
    tile = fresh(shape, dtype)
    nisa.memset(dst=tile, value=value)
    return tile


def loaded(source):
    """An SBUF tile with a window of HBM."""
    tile = fresh(source.shape, source.dtype)
    nisa.dma_copy(dst=tile, src=source)
    return tile


def evacuated(total, dtype):
    """A PSUM tile, in SBUF and of another type."""
    tile = fresh(total.shape, dtype)
    nisa.tensor_copy(dst=tile, src=total)
    return tile


def accumulator(rows, columns):
    """A PSUM tile for one output of matmuls."""
    return nl.ndarray((rows, columns), dtype=nl.float32, buffer=nl.psum)


def transposed(tile):
    """[columns, rows] in SBUF, of a [rows, columns] tile, both at most 128."""
    rows, columns = tile.shape
    turned = nl.ndarray((columns, rows), dtype=tile.dtype, buffer=nl.psum)
    nisa.nc_transpose(dst=turned, data=tile, engine=nisa.engine.tensor)
    return evacuated(turned, tile.dtype)


def contraction_tiles(matrix):
    """[128, K / 128, N] of an HBM matrix [K, N]: row k is in partition k % 128, tile k // 128."""
    depth, width = matrix.shape
    steps = depth // ROWS
    pattern = [[width, ROWS], [ROWS * width, steps], [1, width]]
    return loaded(matrix.ap(pattern=pattern, offset=0))


def contraction_tiles_of_rows(matrix):
    """[128, K / 128, T] of an HBM matrix [T, K], transposed by the DMA."""
    rows, depth = matrix.shape
    steps = depth // ROWS
    return loaded(matrix.ap(pattern=[[1, ROWS], [ROWS, steps], [depth, rows]], offset=0))


def spread(row, rows):
    """[rows, F] of a [1, F] tile: row 0 of each quadrant of 32 partitions is shuffled to all."""
    tile = fresh((rows, row.shape[1]), row.dtype)
    for first in range(0, rows, 32):
        count = min(32, rows - first)
        nisa.nc_stream_shuffle(
            dst=tile[first : first + count, :], src=row[0:1, :], shuffle_mask=[0] * 32
        )
    return tile


def swap(src, dst, pipe):
    """dst = src of the other core."""
    other = 1 - nl.program_id(0)
    nisa.sendrecv(src=src, dst=dst, send_to_rank=other, recv_from_rank=other, pipe_id=pipe)


def sum_of_cores(partial):
    """This core's columns of the sum of both cores' partial results, and where they begin.

    Each core sends the half that the other keeps. On one core all columns, beginning at 0.
    """
    rows, width = partial.shape
    if nl.num_programs(0) == 1:
        return partial, 0
    half = width // 2
    begin = half * nl.program_id(0)
    other = half - begin
    received = fresh((rows, half), partial.dtype)
    outgoing = fresh((rows, half), partial.dtype)
    nisa.tensor_copy(dst=outgoing, src=partial[:, other : other + half])
    swap(outgoing, received, 0)
    total = fresh((rows, half), partial.dtype)
    nisa.tensor_tensor(dst=total, data1=partial[:, begin : begin + half], data2=received, op=nl.add)
    return total, begin
