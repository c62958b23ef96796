"""A step of the matmul ladder: blocks of K loaded once per row of tiles, accumulated in PSUM."""

import nki
import nki.isa as nisa
import nki.language as nl

ROWS = 128  # K and M of one matmul
COLUMNS = 512  # N of one matmul, and of one PSUM bank in fp32


@nki.jit
def matmul(lhs_t, rhs):
    """out[M, N] = lhs_t[K, M].T @ rhs[K, N]; K and M are multiples of 128, N of 512."""
    K, M = lhs_t.shape
    N = rhs.shape[1]
    assert K % ROWS == 0 and M % ROWS == 0 and N % COLUMNS == 0, "shapes are multiples of a tile"
    steps = K // ROWS
    out = nl.ndarray((M, N), dtype=lhs_t.dtype, buffer=nl.shared_hbm)
    for m in range(0, M, ROWS):
        left = nl.ndarray((ROWS, steps, ROWS), dtype=lhs_t.dtype, buffer=nl.sbuf)
        for k in range(steps):
            rows = lhs_t[k * ROWS : (k + 1) * ROWS, m : m + ROWS]
            nisa.dma_copy(dst=left[:, k, :], src=rows)
        for n in range(0, N, COLUMNS):
            total = nl.ndarray((ROWS, COLUMNS), dtype=nl.float32, buffer=nl.psum)
            for k in range(steps):
                right = nl.ndarray((ROWS, COLUMNS), dtype=rhs.dtype, buffer=nl.sbuf)
                nisa.dma_copy(dst=right, src=rhs[k * ROWS : (k + 1) * ROWS, n : n + COLUMNS])
                nisa.nc_matmul(dst=total, stationary=left[:, k, :], moving=right)
            result = nl.ndarray((ROWS, COLUMNS), dtype=out.dtype, buffer=nl.sbuf)
            nisa.tensor_copy(dst=result, src=total)
            nisa.dma_copy(dst=out[m : m + ROWS, n : n + COLUMNS], src=result)
    return out
