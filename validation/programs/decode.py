"""The MLP of a decode step: few tokens, weights streamed from HBM once."""

import nki
import nki.isa as nisa
import nki.language as nl

PARTITIONS, COLUMNS = 128, 512
WEIGHT_BYTES = 32768
"""Bytes per partition of a piece of weights that is loaded at once."""


@nki.jit
def mlp(x, gate, up, down, norm, gated):
    """out = (silu(h @ gate) * (h @ up)) @ down, h = x or its RMS norm; on one core or two.

    On two cores each contracts half of H; the halves of the small sums are exchanged, and each then
    makes half of the output's columns.

    Args:
        x: [T, H], T <= 128
        gate, up: [H, I]; down: [I, H]
        norm: whether x is normalised first.
        gated: whether there is a gate (else silu(h @ up) alone).
    """
    tokens, hidden = x.shape
    inner = up.shape[1]
    cores, core = nl.num_programs(0), nl.program_id(0)
    part = hidden // cores
    steps = part // PARTITIONS
    out = nl.ndarray((tokens, hidden), dtype=x.dtype, buffer=nl.shared_hbm)
    h = nl.ndarray((PARTITIONS, tokens, steps), dtype=x.dtype, buffer=nl.sbuf)
    pattern = [[steps, PARTITIONS], [hidden, tokens], [1, steps]]
    nisa.dma_copy(dst=h, src=x.ap(pattern=pattern, offset=core * part))
    if norm:
        h = normalised(h, hidden)
    product = exchanged(project(h, up, core * part), 0)
    if gated:
        g = exchanged(project(h, gate, core * part), 1)
        nisa.activation(dst=g, op=nl.silu, data=g)
        nisa.tensor_tensor(dst=product, data1=g, data2=product, op=nl.multiply)
    else:
        nisa.activation(dst=product, op=nl.silu, data=product)
    finish(out, product, down, core * part, part, inner)
    return out


def normalised(h, hidden):
    """h / rms(h) over both cores' halves; h is [128, T, steps]."""
    tokens, steps = h.shape[1], h.shape[2]
    squares = nl.ndarray((PARTITIONS, tokens, steps), dtype=nl.float32, buffer=nl.sbuf)
    nisa.activation(dst=squares, op=nl.square, data=h)
    sums = nl.ndarray((PARTITIONS, tokens), dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_reduce(dst=sums, op=nl.add, data=squares, axis=2)
    ones = nl.ndarray((PARTITIONS, PARTITIONS), dtype=nl.float32, buffer=nl.sbuf)
    nisa.memset(dst=ones, value=1.0)
    total = nl.ndarray((PARTITIONS, tokens), dtype=nl.float32, buffer=nl.psum)
    nisa.nc_matmul(dst=total, stationary=ones, moving=sums)
    scale = nl.ndarray((PARTITIONS, tokens), dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_copy(dst=scale, src=total)
    scale = exchanged(scale, 2)
    nisa.activation(dst=scale, op=nl.rsqrt, data=scale, scale=1.0 / hidden)
    repeated = scale.ap(pattern=[[tokens, PARTITIONS], [1, tokens], [0, steps]], offset=0)
    result = nl.ndarray((PARTITIONS, tokens, steps), dtype=h.dtype, buffer=nl.sbuf)
    nisa.tensor_tensor(dst=result, data1=h, data2=repeated, op=nl.multiply)
    return result


def project(h, weights, first):
    """h.T @ weights[first : first + part] as [T, I] fp32; row p * steps + s meets h[p, :, s]."""
    tokens, inner = h.shape[1], weights.shape[1]
    result = nl.ndarray((tokens, inner), dtype=nl.float32, buffer=nl.sbuf)
    for column in range(0, inner, 4 * COLUMNS):
        project_columns(result, h, weights, first, column, min(4 * COLUMNS, inner - column))
    return result


def project_columns(result, h, weights, first, column, width):
    """Up to 2048 columns of `project`, in four banks of PSUM."""
    tokens, steps = h.shape[1], h.shape[2]
    inner = weights.shape[1]
    at_once = max(1, min(steps, WEIGHT_BYTES // (width * 2)))
    totals = []
    for n in range(0, width, COLUMNS):
        size = min(COLUMNS, width - n)
        totals.append(nl.ndarray((tokens, size), dtype=nl.float32, buffer=nl.psum))
    for s0 in range(0, steps, at_once):
        count = min(at_once, steps - s0)
        tile = nl.ndarray((PARTITIONS, count, width), dtype=weights.dtype, buffer=nl.sbuf)
        pattern = [[steps * inner, PARTITIONS], [inner, count], [1, width]]
        offset = (first + s0) * inner + column
        nisa.dma_copy(dst=tile, src=weights.ap(pattern=pattern, offset=offset))
        for s in range(count):
            for n in range(len(totals)):
                size = totals[n].shape[1]
                nisa.nc_matmul(
                    dst=totals[n],
                    stationary=h[:, :, s0 + s],
                    moving=tile[:, s, n * COLUMNS : n * COLUMNS + size],
                )
    for n in range(len(totals)):
        begin = column + n * COLUMNS
        nisa.tensor_copy(dst=result[:, begin : begin + totals[n].shape[1]], src=totals[n])


def exchanged(mine, pipe):
    """mine + the other core's; mine on one core."""
    if nl.num_programs(0) == 1:
        return mine
    theirs = nl.ndarray(mine.shape, dtype=mine.dtype, buffer=nl.sbuf)
    other = 1 - nl.program_id(0)
    nisa.sendrecv(src=mine, dst=theirs, send_to_rank=other, recv_from_rank=other, pipe_id=pipe)
    nisa.tensor_tensor(dst=mine, data1=mine, data2=theirs, op=nl.add)
    return mine


def finish(out, product, down, first, part, inner):
    """out[:, first : first + part] = product @ down[:, first : first + part]."""
    tokens = product.shape[0]
    blocks = (inner + PARTITIONS - 1) // PARTITIONS
    turned = []
    for i in range(blocks):
        width = min(PARTITIONS, inner - i * PARTITIONS)
        flat = nl.ndarray((width, tokens), dtype=nl.float32, buffer=nl.psum)
        nisa.nc_transpose(
            dst=flat,
            data=product[:, i * PARTITIONS : i * PARTITIONS + width],
            engine=nisa.engine.tensor,
        )
        tile = nl.ndarray((width, tokens), dtype=nl.bfloat16, buffer=nl.sbuf)
        nisa.tensor_copy(dst=tile, src=flat)
        turned.append(tile)
    at_once = 4 * COLUMNS
    for column in range(0, part, at_once):
        width = min(at_once, part - column)
        columns_of(out, turned, down, first + column, width)


def columns_of(out, turned, down, column, width):
    """Up to 2048 columns of the output, in four of the eight banks of PSUM."""
    tokens = out.shape[0]
    totals = []
    for n in range(0, width, COLUMNS):
        size = min(COLUMNS, width - n)
        totals.append(nl.ndarray((tokens, size), dtype=nl.float32, buffer=nl.psum))
    for i in range(len(turned)):
        rows = turned[i].shape[0]
        tile = nl.ndarray((rows, width), dtype=down.dtype, buffer=nl.sbuf)
        row = i * PARTITIONS
        nisa.dma_copy(dst=tile, src=down[row : row + rows, column : column + width])
        for n in range(len(totals)):
            size = totals[n].shape[1]
            nisa.nc_matmul(
                dst=totals[n],
                stationary=turned[i],
                moving=tile[:, n * COLUMNS : n * COLUMNS + size],
            )
    result = nl.ndarray((tokens, width), dtype=out.dtype, buffer=nl.sbuf)
    for n in range(len(totals)):
        size = totals[n].shape[1]
        nisa.tensor_copy(dst=result[:, n * COLUMNS : n * COLUMNS + size], src=totals[n])
    nisa.dma_copy(dst=out[:, column : column + width], src=result)
