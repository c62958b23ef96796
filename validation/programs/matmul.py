"""Matrix products, from a naive one to one that keeps everything on chip."""

import nki
import nki.isa as nisa
import nki.language as nl

ROWS, COLUMNS = 128, 512


def load(source, row, column, width):
    """The tile of 128 rows and `width` columns of a matrix at (row, column)."""
    tile = nl.ndarray((ROWS, width), dtype=source.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=tile, src=source[row : row + ROWS, column : column + width])
    return tile


def store(out, row, column, total, depth):
    """Evict a PSUM tile and write it out."""
    result = nl.ndarray((depth, COLUMNS), dtype=out.dtype, buffer=nl.sbuf)
    nisa.tensor_copy(dst=result, src=total, engine=nisa.engine.vector)
    nisa.dma_copy(dst=out[row : row + depth, column : column + COLUMNS], src=result)


@nki.jit
def naive(lhs_t, rhs):
    """out[M, N] = lhs_t[K, M].T @ rhs[K, N]: both tiles are loaded for every product."""
    depth, rows = lhs_t.shape
    columns = rhs.shape[1]
    out = nl.ndarray((rows, columns), dtype=rhs.dtype, buffer=nl.shared_hbm)
    for m in range(0, rows, ROWS):
        for n in range(0, columns, COLUMNS):
            total = nl.ndarray((ROWS, COLUMNS), dtype=nl.float32, buffer=nl.psum)
            for k in range(0, depth, ROWS):
                left = load(lhs_t, k, m, ROWS)
                right = load(rhs, k, n, COLUMNS)
                nisa.nc_matmul(dst=total, stationary=left, moving=right)
            store(out, m, n, total, ROWS)
    return out


@nki.jit
def hoisted(lhs_t, rhs, together):
    """As `naive`; the tiles of a block row of lhs serve `together` block columns of the result."""
    depth, rows = lhs_t.shape
    columns = rhs.shape[1]
    out = nl.ndarray((rows, columns), dtype=rhs.dtype, buffer=nl.shared_hbm)
    for first in range(0, columns, together * COLUMNS):
        for m in range(0, rows, ROWS):
            left = []
            for k in range(0, depth, ROWS):
                left.append(load(lhs_t, k, m, ROWS))
            for n in range(first, min(first + together * COLUMNS, columns), COLUMNS):
                total = nl.ndarray((ROWS, COLUMNS), dtype=nl.float32, buffer=nl.psum)
                for k in range(0, depth, ROWS):
                    right = load(rhs, k, n, COLUMNS)
                    nisa.nc_matmul(dst=total, stationary=left[k // ROWS], moving=right)
                store(out, m, n, total, ROWS)
    return out


@nki.jit
def blocked(lhs_t, rhs, block_rows, block_columns):
    """As `naive`, in blocks of `block_rows` x `block_columns` tiles of the result, whose operands
    are loaded once per block.
    """
    depth, rows = lhs_t.shape
    columns = rhs.shape[1]
    out = nl.ndarray((rows, columns), dtype=rhs.dtype, buffer=nl.shared_hbm)
    for m0 in range(0, rows, block_rows * ROWS):
        left = []
        for k in range(0, depth, ROWS):
            left.append(load(lhs_t, k, m0, block_rows * ROWS))
        for n0 in range(0, columns, block_columns * COLUMNS):
            right = []
            for k in range(0, depth, ROWS):
                right.append(load(rhs, k, n0, block_columns * COLUMNS))
            for m in range(block_rows):
                for n in range(block_columns):
                    total = nl.ndarray((ROWS, COLUMNS), dtype=nl.float32, buffer=nl.psum)
                    for k in range(depth // ROWS):
                        nisa.nc_matmul(
                            dst=total,
                            stationary=left[k][:, m * ROWS : (m + 1) * ROWS],
                            moving=right[k][:, n * COLUMNS : (n + 1) * COLUMNS],
                        )
                    store(out, m0 + m * ROWS, n0 + n * COLUMNS, total, ROWS)
    return out


@nki.jit
def split_depth(lhs_t, rhs, block_rows, block_columns, block_depth):
    """In blocks in all three dimensions, with partial sums in SBUF."""
    depth, rows = lhs_t.shape
    columns = rhs.shape[1]
    out = nl.ndarray((rows, columns), dtype=rhs.dtype, buffer=nl.shared_hbm)
    for n0 in range(0, columns, block_columns * COLUMNS):
        sums = []
        for _ in range(rows // ROWS * block_columns):
            part = nl.ndarray((ROWS, COLUMNS), dtype=rhs.dtype, buffer=nl.sbuf)
            nisa.memset(dst=part, value=0.0)
            sums.append(part)
        for k0 in range(0, depth, block_depth * ROWS):
            right = []
            for k in range(block_depth):
                right.append(load(rhs, k0 + k * ROWS, n0, block_columns * COLUMNS))
            for m0 in range(0, rows, block_rows * ROWS):
                left = []
                for k in range(block_depth):
                    left.append(load(lhs_t, k0 + k * ROWS, m0, block_rows * ROWS))
                add_block(sums, left, right, m0 // ROWS, block_rows, block_columns)
        for number in range(rows // ROWS * block_columns):
            m, n = number // block_columns, number % block_columns
            column = n0 + n * COLUMNS
            nisa.dma_copy(
                dst=out[m * ROWS : (m + 1) * ROWS, column : column + COLUMNS], src=sums[number]
            )
    return out


def add_block(sums, left, right, first, block_rows, block_columns):
    """Add the products of two blocks to their partial sums."""
    for m in range(block_rows):
        for n in range(block_columns):
            total = nl.ndarray((ROWS, COLUMNS), dtype=nl.float32, buffer=nl.psum)
            for k in range(len(left)):
                nisa.nc_matmul(
                    dst=total,
                    stationary=left[k][:, m * ROWS : (m + 1) * ROWS],
                    moving=right[k][:, n * COLUMNS : (n + 1) * COLUMNS],
                )
            part = sums[(first + m) * block_columns + n]
            nisa.tensor_tensor(dst=part, data1=part, data2=total, op=nl.add)


@nki.jit
def one_bank(lhs_t, rhs):
    """As `blocked` with both matrices on chip, but all results go through one PSUM bank."""
    depth, rows = lhs_t.shape
    columns = rhs.shape[1]
    out = nl.ndarray((rows, columns), dtype=rhs.dtype, buffer=nl.shared_hbm)
    left = []
    right = []
    for k in range(0, depth, ROWS):
        left.append(load(lhs_t, k, 0, rows))
        right.append(load(rhs, k, 0, columns))
    for m in range(0, rows, ROWS):
        for n in range(0, columns, COLUMNS):
            total = nl.ndarray((ROWS, COLUMNS), dtype=nl.float32, buffer=nl.psum, address=(0, 0))
            for k in range(depth // ROWS):
                nisa.nc_matmul(
                    dst=total,
                    stationary=left[k][:, m : m + ROWS],
                    moving=right[k][:, n : n + COLUMNS],
                )
            store(out, m, n, total, ROWS)
    return out


@nki.jit
def batched(lhs_t, rhs):
    """out[B, M, N] = lhs_t[B, K, M].T @ rhs[B, K, N], K <= 128; evicted by the scalar engine."""
    batch, depth, rows = lhs_t.shape
    columns = rhs.shape[2]
    out = nl.ndarray((batch, rows, columns), dtype=rhs.dtype, buffer=nl.shared_hbm)
    for b in range(batch):
        left = nl.ndarray((depth, rows), dtype=lhs_t.dtype, buffer=nl.sbuf)
        nisa.dma_copy(dst=left, src=lhs_t[b])
        right = nl.ndarray((depth, columns), dtype=rhs.dtype, buffer=nl.sbuf)
        nisa.dma_copy(dst=right, src=rhs[b])
        for m in range(0, rows, ROWS):
            result = nl.ndarray((ROWS, columns), dtype=rhs.dtype, buffer=nl.sbuf)
            for n in range(0, columns, COLUMNS):
                total = nl.ndarray((ROWS, COLUMNS), dtype=nl.float32, buffer=nl.psum)
                nisa.nc_matmul(
                    dst=total,
                    stationary=left[:, m : m + ROWS],
                    moving=right[:, n : n + COLUMNS],
                )
                nisa.activation(dst=result[:, n : n + COLUMNS], op=nl.copy, data=total)
            nisa.dma_copy(dst=out[b, m : m + ROWS, :], src=result)
    return out


@nki.jit
def vectors(weights, x, dtype=nl.bfloat16):
    """`x` times every [128, 128] tile of resident weights by one column: a chain of products."""
    tiles = weights.shape[1] // ROWS
    resident = nl.ndarray((ROWS, weights.shape[1]), dtype=dtype, buffer=nl.sbuf)
    nisa.memset(dst=resident, value=1.0)
    column = nl.ndarray((ROWS, 1), dtype=dtype, buffer=nl.sbuf)
    nisa.memset(dst=column, value=1.0)
    for _ in range(x):
        total = nl.ndarray((ROWS, 1), dtype=nl.float32, buffer=nl.psum)
        for t in range(tiles):
            nisa.nc_matmul(
                dst=total, stationary=resident[:, t * ROWS : (t + 1) * ROWS], moving=column
            )
