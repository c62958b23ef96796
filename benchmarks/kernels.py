"""The kernels that are timed, and what they must compute.

They are written as published ones are: portable NKI, tiles of 128 partitions, weights streamed from
HBM. Import them after `nki_sim.install.install()`.
"""

import nki
import nki.isa as nisa
import nki.language as nl
import numpy as np

PARTITIONS = 128
COLUMNS = 512  # of a matmul: one PSUM bank of fp32
CHOSEN = 8


@nki.jit
def matmul(x_transposed, w):
    """out[M, N] = x[M, K] @ w[K, N]; x is given transposed, K and M are multiples of 128.

    All of x is kept in SBUF; w passes through in blocks of 512 columns.
    """
    depth, rows = x_transposed.shape
    columns = w.shape[1]
    steps = depth // PARTITIONS
    out = nl.ndarray((rows, columns), dtype=w.dtype, buffer=nl.shared_hbm)
    x = load_steps(x_transposed, 0, rows)
    for first in range(0, columns, COLUMNS):
        width = min(COLUMNS, columns - first)
        block = load_steps(w, first, width)
        for row in range(0, rows, PARTITIONS):
            product = nl.ndarray((PARTITIONS, width), dtype=nl.float32, buffer=nl.psum)
            for k in range(steps):
                nisa.nc_matmul(
                    dst=product,
                    stationary=x[:, k, row : row + PARTITIONS],
                    moving=block[:, k, :],
                )
            result = nl.ndarray((PARTITIONS, width), dtype=w.dtype, buffer=nl.sbuf)
            nisa.tensor_copy(dst=result, src=product)
            nisa.dma_copy(dst=out[row : row + PARTITIONS, first : first + width], src=result)
    return out


def load_steps(matrix, first, width):
    """Columns first..first+width of a [K, N] matrix as a tile [128, K / 128, width]."""
    depth, columns = matrix.shape
    steps = depth // PARTITIONS
    tile = nl.ndarray((PARTITIONS, steps, width), dtype=matrix.dtype, buffer=nl.sbuf)
    pattern = [[columns, PARTITIONS], [PARTITIONS * columns, steps], [1, width]]
    nisa.dma_copy(dst=tile, src=matrix.ap(pattern=pattern, offset=first))
    return tile


@nki.jit
def moe_decode(x, norm, router, gate, up, down):
    """One decode MoE layer of one rank, one token: norm, route, 8 of E experts, weighted sum.

    Math:   h = rmsnorm(x) * norm; the 8 largest of h @ router, softmax over them;
            sum_k p_k * (silu(h @ gate_k) * (h @ up_k)) @ down_k
    Args:   x, norm [1, H] bf16; router [H, E] bf16; gate, up [E, H, I] bf16; down [E, I, H] bf16
            (H a multiple of 512, I at most 256)
    Returns: ([1, H] fp32, the rank's share of the layer's output; [1, 8] uint32, the experts)
    """
    hidden = x.shape[1]
    experts, inner = router.shape[1], gate.shape[2]
    out = nl.ndarray((1, hidden), dtype=nl.float32, buffer=nl.shared_hbm)
    picked = nl.ndarray((1, CHOSEN), dtype=nl.uint32, buffer=nl.shared_hbm)
    h = normalised(x, norm)
    logits = multiply_vector(h, load_steps(router, 0, experts))
    weights, chosen = choose(logits)
    nisa.dma_copy(dst=picked, src=chosen)
    total = nl.ndarray((1, hidden), dtype=nl.float32, buffer=nl.sbuf)
    nisa.memset(dst=total, value=0.0)
    for k in range(CHOSEN):
        expert = chosen[:, k : k + 1]
        g = multiply_vector(h, load_expert(gate, expert, hidden, inner))
        u = multiply_vector(h, load_expert(up, expert, hidden, inner))
        nisa.activation(dst=g, op=nl.silu, data=g)
        product = nl.ndarray((1, inner), dtype=nl.bfloat16, buffer=nl.sbuf)
        nisa.tensor_tensor(dst=product, data1=g, data2=u, op=nl.multiply)
        add_down(total, product, down, expert, weights[:, k : k + 1])
    nisa.dma_copy(dst=out, src=total)
    return out, picked


def normalised(x, norm):
    """rmsnorm(x) * norm as a bf16 tile [128, H / 128], element p * (H / 128) + j at [p, j]."""
    hidden = x.shape[1]
    steps = hidden // PARTITIONS
    pattern = [[steps, PARTITIONS], [1, steps]]
    tile = nl.ndarray((PARTITIONS, steps), dtype=x.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=tile, src=x.ap(pattern=pattern, offset=0))
    gain = nl.ndarray((PARTITIONS, steps), dtype=norm.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=gain, src=norm.ap(pattern=pattern, offset=0))
    squares = nl.ndarray((PARTITIONS, steps), dtype=nl.float32, buffer=nl.sbuf)
    sums = nl.ndarray((PARTITIONS, 1), dtype=nl.float32, buffer=nl.sbuf)
    nisa.activation_reduce(dst=squares, op=nl.square, data=tile, reduce_op=nl.add, reduce_res=sums)
    ones = nl.ndarray((PARTITIONS, PARTITIONS), dtype=nl.float32, buffer=nl.sbuf)
    nisa.memset(dst=ones, value=1.0)
    total = nl.ndarray((PARTITIONS, 1), dtype=nl.float32, buffer=nl.psum)
    nisa.nc_matmul(dst=total, stationary=ones, moving=sums)
    mean = nl.ndarray((PARTITIONS, 1), dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_scalar(
        dst=mean, data=total, op0=nl.multiply, operand0=1.0 / hidden, op1=nl.add, operand1=1e-6
    )
    scale = nl.ndarray((PARTITIONS, 1), dtype=nl.float32, buffer=nl.sbuf)
    nisa.activation(dst=scale, op=nl.rsqrt, data=mean)
    result = nl.ndarray((PARTITIONS, steps), dtype=nl.bfloat16, buffer=nl.sbuf)
    nisa.scalar_tensor_tensor(
        dst=result, data=tile, op0=nl.multiply, operand0=scale, op1=nl.multiply, operand1=gain
    )
    return result


def multiply_vector(h, weights):
    """h[128, S] as the vector of H elements @ weights[128, S, N], an fp32 tile [1, N]."""
    steps, width = weights.shape[1], weights.shape[2]
    product = nl.ndarray((1, width), dtype=nl.float32, buffer=nl.psum)
    for j in range(steps):
        nisa.nc_matmul(dst=product, stationary=h[:, j : j + 1], moving=weights[:, j, :])
    result = nl.ndarray((1, width), dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_copy(dst=result, src=product)
    return result


def choose(logits):
    """The 8 largest logits [1, E]: their softmax [1, 8] fp32, and their positions [1, 8] uint32."""
    largest = nl.ndarray((1, CHOSEN), dtype=nl.float32, buffer=nl.sbuf)
    nisa.max8(dst=largest, src=logits)
    chosen = nl.ndarray((1, CHOSEN), dtype=nl.uint32, buffer=nl.sbuf)
    nisa.nc_find_index8(dst=chosen, data=logits, vals=largest)
    below = nl.ndarray((1, 1), dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_scalar(dst=below, data=largest[:, 0:1], op0=nl.multiply, operand0=-1.0)
    weights = nl.ndarray((1, CHOSEN), dtype=nl.float32, buffer=nl.sbuf)
    total = nl.ndarray((1, 1), dtype=nl.float32, buffer=nl.sbuf)
    nisa.activation_reduce(
        dst=weights, op=nl.exp, data=largest, bias=below, reduce_op=nl.add, reduce_res=total
    )
    nisa.reciprocal(dst=total, data=total)
    nisa.tensor_scalar(dst=weights, data=weights, op0=nl.multiply, operand0=total)
    return weights, chosen


def load_expert(matrices, expert, hidden, inner):
    """One expert's [H, I] matrix of [E, H, I] as [128, H / 128, I]; row p * (H / 128) + j at p, j.

    The expert's number is read from SBUF when the copy executes.
    """
    steps = hidden // PARTITIONS
    tile = nl.ndarray((PARTITIONS, steps, inner), dtype=matrices.dtype, buffer=nl.sbuf)
    pattern = [[steps * inner, PARTITIONS], [inner, steps], [1, inner]]
    source = matrices.ap(pattern=pattern, offset=0, scalar_offset=expert, indirect_dim=0)
    nisa.dma_copy(dst=tile, src=source, dge_mode=nisa.dge_mode.swdge)
    return tile


def add_down(total, product, down, expert, weight):
    """total[1, H] += weight * product[1, I] @ down[expert], with I on partitions in two parts."""
    inner, hidden = down.shape[1], down.shape[2]
    parts = []
    for first in range(0, inner, PARTITIONS):
        rows = min(PARTITIONS, inner - first)
        turned = nl.ndarray((rows, 1), dtype=nl.bfloat16, buffer=nl.psum)
        nisa.nc_transpose(dst=turned, data=product[:, first : first + rows])
        column = nl.ndarray((rows, 1), dtype=nl.bfloat16, buffer=nl.sbuf)
        nisa.tensor_copy(dst=column, src=turned)
        matrix = nl.ndarray((rows, hidden), dtype=down.dtype, buffer=nl.sbuf)
        source = down.ap(
            pattern=[[hidden, rows], [1, hidden]],
            offset=first * hidden,
            scalar_offset=expert,
            indirect_dim=0,
        )
        nisa.dma_copy(dst=matrix, src=source, dge_mode=nisa.dge_mode.swdge)
        parts.append((column, matrix))
    for start in range(0, hidden, COLUMNS):
        width = min(COLUMNS, hidden - start)
        sums = nl.ndarray((1, width), dtype=nl.float32, buffer=nl.psum)
        for column, matrix in parts:
            nisa.nc_matmul(dst=sums, stationary=column, moving=matrix[:, start : start + width])
        target = total[:, start : start + width]
        nisa.scalar_tensor_tensor(
            dst=target, data=sums, op0=nl.multiply, operand0=weight, op1=nl.add, operand1=target
        )


def moe_oracle(x, norm, router, gate, up, down, precision=np.float64):
    """What `moe_decode` computes, in fp64 from the same bf16 numbers with the same two roundings;
    with precision=np.float32 what one would write in NumPy.

    Returns ([1, H], the 8 experts in order of their logits).
    """
    wide = [np.asarray(a, precision) for a in (x, norm, router)]
    h = wide[0] / np.sqrt(np.mean(wide[0] ** 2) + precision(1e-6)) * wide[1]
    h = h.astype(np.float32).astype(x.dtype).astype(precision)
    # element p * S + j of h lies at [p, j], and the router's row j * 128 + p meets it there
    steps = x.shape[1] // PARTITIONS
    turned = h.reshape(PARTITIONS, steps).T.reshape(1, -1)
    logits = (turned @ wide[2])[0]
    chosen = np.argsort(-logits, kind="stable")[:CHOSEN]
    weights = np.exp(logits[chosen] - logits[chosen].max())
    weights /= weights.sum()
    total = np.zeros_like(h)
    for weight, expert in zip(weights, chosen, strict=True):
        g, u = (h @ m[expert].astype(precision) for m in (gate, up))
        product = g / (1 + np.exp(-g)) * u
        product = product.astype(np.float32).astype(x.dtype).astype(precision)
        total += weight * (product @ down[expert].astype(precision))
    return total, chosen


def moe_inputs(experts=128, hidden=2048, inner=192, seed=0):
    """Arguments of `moe_decode`: the weights of one rank, scaled so that sums stay near one."""
    import ml_dtypes

    rng = np.random.default_rng(seed)

    def draw(*shape, scale=1.0):
        flat = rng.standard_normal(65521, np.float32) * np.float32(scale)
        count = int(np.prod(shape))
        repeated = np.resize(flat.astype(ml_dtypes.bfloat16), count)
        return repeated.reshape(shape)

    return (
        draw(1, hidden),
        draw(1, hidden),
        draw(hidden, experts, scale=hidden**-0.5),
        draw(experts, hidden, inner, scale=hidden**-0.5),
        draw(experts, hidden, inner, scale=hidden**-0.5),
        draw(experts, inner, hidden, scale=inner**-0.5),
    )


@nki.jit
def stream(x, rounds):
    """A long stream of instructions on all engines: load, eight products, evict, exp, store."""
    out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
    blocks = x.shape[0] // PARTITIONS
    for i in range(rounds):
        row = i % blocks * PARTITIONS
        tile = nl.ndarray((PARTITIONS, COLUMNS), dtype=x.dtype, buffer=nl.sbuf)
        nisa.dma_copy(dst=tile, src=x[row : row + PARTITIONS, :])
        total = nl.ndarray((PARTITIONS, COLUMNS), dtype=nl.float32, buffer=nl.psum)
        for k in range(8):
            first = k % 4 * PARTITIONS
            nisa.nc_matmul(dst=total, stationary=tile[:, first : first + PARTITIONS], moving=tile)
        result = nl.ndarray((PARTITIONS, COLUMNS), dtype=x.dtype, buffer=nl.sbuf)
        nisa.tensor_copy(dst=result, src=total)
        nisa.activation(dst=result, op=nl.exp, data=result)
        nisa.dma_copy(dst=out[row : row + PARTITIONS, :], src=result)
    return out
