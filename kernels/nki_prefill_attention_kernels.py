"""Causal attention of a prompt over itself."""

import nki
import nki.isa as nisa
import nki.language as nl

from kernels.nki_common import (
    PARTITIONS,
    check_dtype,
    check_float,
    check_rank,
    check_shape,
    core_share,
    inner_dtype,
)
from kernels.nki_matmul_stages import (
    BANK_COLUMNS,
    check_prompt,
    load_heads,
    store_heads,
    transpose_pieces,
)
from kernels.nki_patterns import identity

# What hides a key: finite in float32 and bfloat16, so that no difference of scores is NaN, and so
# low that its exponential is 0 beside any score.
HIDDEN = -3.0e38
# Heads whose blocks are in flight together: their scores fill 4 PSUM banks, and 4 are left for
# transposes and weighted values.
HEADS_AT_ONCE = 4


def load_keys(k, kv_head):
    """[D, S] tile: the keys of a head, as moving operand."""
    _heads, head_dim, tokens = k.shape
    tile = nl.ndarray((head_dim, tokens), dtype=k.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=tile, src=k[kv_head, :, :])
    return tile


def load_values(v, kv_head):
    """[128, blocks, D] tile: value b 128 + p of a head at (p, b); the last block may be short."""
    _heads, tokens, head_dim = v.shape
    whole = tokens // PARTITIONS
    rest = tokens - whole * PARTITIONS
    blocks = whole + 1 if rest > 0 else whole
    tile = nl.ndarray((min(PARTITIONS, tokens), blocks, head_dim), dtype=v.dtype, buffer=nl.sbuf)
    start = kv_head * tokens * head_dim
    if whole > 0:
        pattern = [[head_dim, PARTITIONS], [PARTITIONS * head_dim, whole], [1, head_dim]]
        nisa.dma_copy(dst=tile[:, 0:whole, :], src=v.ap(pattern=pattern, offset=start))
    if rest > 0:
        nisa.dma_copy(dst=tile[0:rest, whole, :], src=v[kv_head, whole * PARTITIONS : tokens, :])
    return tile


def block_scores(queries, head, first, count, keys, start, width):
    """[count, width] fp32 PSUM: queries from `first` of a head times keys from `start`."""
    scores = nl.ndarray((count, width), dtype=nl.float32, buffer=nl.psum)
    nisa.nc_matmul(
        dst=scores,
        stationary=queries[:, head, first : first + count],
        moving=keys[:, start : start + width],
    )
    return scores


def hide_future(scores, heads):
    """In place, scores [n, heads * n] of n tokens among themselves: later keys are hidden."""
    count = scores.shape[0]
    nisa.affine_select(
        dst=scores,
        pattern=[[0, heads], [-1, count]],
        offset=0,
        channel_multiplier=1,
        on_true_tile=scores,
        on_false_value=HIDDEN,
        cmp_op=nl.greater_equal,
    )


def diagonal_scores(queries, first, count, keys):
    """[count, heads, count] fp32: scores of tokens among themselves, later keys hidden."""
    heads = queries.shape[1]
    scores = nl.ndarray((count, heads, count), dtype=nl.float32, buffer=nl.psum)
    for number in range(heads):
        nisa.nc_matmul(
            dst=scores[:, number, :],
            stationary=queries[:, number, first : first + count],
            moving=keys[:, first : first + count],
        )
    tile = nl.ndarray((count, heads, count), dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_copy(dst=tile, src=scores)
    hide_future(tile, heads)
    return tile


def lower_bias(scores, scale, bias):
    """[count, 1] fp32: minus the scaled maximum of the scores, and of those that `bias` is of."""
    lowest = nl.ndarray((scores.shape[0], 1), dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_reduce(dst=lowest, op=nl.maximum, data=scores, axis=1, negate=True)
    result = nl.ndarray((scores.shape[0], 1), dtype=nl.float32, buffer=nl.sbuf)
    if bias == None:
        nisa.tensor_scalar(dst=result, data=lowest, op0=nl.multiply, operand0=scale)
    else:
        nisa.tensor_scalar(
            dst=result,
            data=lowest,
            op0=nl.multiply,
            operand0=scale,
            op1=nl.minimum,
            operand1=bias,
        )
    return result


def exponentials(scores, scale, bias, dtype):
    """(exp(scale * scores + bias) of `dtype`, their sums over each row before rounding, fp32)."""
    count, width = scores.shape
    shares = nl.ndarray((count, width), dtype=dtype, buffer=nl.sbuf)
    total = nl.ndarray((count, 1), dtype=nl.float32, buffer=nl.sbuf)
    nisa.activation(
        dst=shares,
        op=nl.exp,
        data=scores,
        scale=scale,
        bias=bias,
        reduce_op=nl.add,
        reduce_res=total,
        reduce_cmd=nisa.reduce_cmd.reset_reduce,
    )
    return shares, total


def weigh_values(dst, shares, values, block, eye):
    """dst [count, D] PSUM, accumulated: shares [count, keys] times values from `block` on."""
    count, width = shares.shape
    piece = min(PARTITIONS, width)
    pieces = width // piece
    turned = nl.ndarray((piece, pieces, count), dtype=shares.dtype, buffer=nl.sbuf)
    transpose_pieces(turned, 0, 0, shares, eye)
    for number in range(pieces):
        nisa.nc_matmul(
            dst=dst,
            stationary=turned[:, number, :],
            moving=values[0:piece, block + number, :],
        )


def add_scaled(dst, factor, term):
    """In place: dst = dst * factor + term; [P, n] fp32, factor [P, 1], term in PSUM or SBUF."""
    nisa.scalar_tensor_tensor(
        dst=dst, data=dst, op0=nl.multiply, operand0=factor, op1=nl.add, operand1=term
    )


def divide_rows(rows, total, dtype):
    """[count, n] tile of `dtype`: rows / total, by the reciprocal of total [count, 1]."""
    inverse = nl.ndarray((rows.shape[0], 1), dtype=nl.float32, buffer=nl.sbuf)
    nisa.reciprocal(dst=inverse, data=total)
    result = nl.ndarray((rows.shape[0], rows.shape[1]), dtype=dtype, buffer=nl.sbuf)
    nisa.tensor_scalar(dst=result, data=rows, op0=nl.multiply, operand0=inverse)
    return result


def fold_block(scores, values, block, scale, biases, totals, rows, dtype, eye):
    """(biases, totals, rows) after one more block of keys: lists with a tile per head.

    Minus the scaled maxima and the sums of exponentials [count, 1], the weighted values [count, D],
    fp32; empty lists before the first block. Each step is carried out for all heads before the
    next: while one waits for an engine, others use it.
    """
    begun = len(rows) > 0
    lowered = []
    shares = []
    corrections = []
    sums = []
    for number in range(len(scores)):
        lowered.append(lower_bias(scores[number], scale, biases[number] if begun else None))
        share, total = exponentials(scores[number], scale, lowered[number], dtype)
        shares.append(share)
        if begun:
            correction = nl.ndarray((share.shape[0], 1), dtype=nl.float32, buffer=nl.sbuf)
            nisa.activation(
                dst=correction, op=nl.exp, data=biases[number], scale=-1.0, bias=lowered[number]
            )
            corrections.append(correction)
            add_scaled(totals[number], correction, total)
        sums.append(totals[number] if begun else total)
    weighted = []
    for number in range(len(scores)):
        size = (shares[number].shape[0], values.shape[2])
        product = nl.ndarray(size, dtype=nl.float32, buffer=nl.psum)
        weigh_values(product, shares[number], values, block, eye)
        if begun:
            add_scaled(rows[number], corrections[number], product)
            weighted.append(rows[number])
        else:
            tile = nl.ndarray(size, dtype=nl.float32, buffer=nl.sbuf)
            nisa.tensor_copy(dst=tile, src=product)
            weighted.append(tile)
    return lowered, sums, weighted


def attend_online(queries, first, count, keys, values, scale, eye):
    """List of [count, D] tiles, one per head of queries [D, heads, S]: tokens from `first` attend.

    The diagonal block comes first, so that every row has a maximum from the start.
    """
    dtype = queries.dtype
    diagonal = diagonal_scores(queries, first, count, keys)
    scores = []
    for number in range(queries.shape[1]):
        scores.append(diagonal[:, number, :])
    biases, totals, rows = fold_block(
        scores, values, first // PARTITIONS, scale, [], [], [], dtype, eye
    )
    for start in range(0, first, BANK_COLUMNS):
        width = min(BANK_COLUMNS, first - start)
        scores = []
        for number in range(queries.shape[1]):
            scores.append(block_scores(queries, number, first, count, keys, start, width))
        biases, totals, rows = fold_block(
            scores, values, start // PARTITIONS, scale, biases, totals, rows, dtype, eye
        )
    results = []
    for number in range(queries.shape[1]):
        results.append(divide_rows(rows[number], totals[number], dtype))
    return results


def attend_stepwise(queries, first, count, keys, values, scale, eye):
    """As `attend_online`, every result rounded: the shares too, so whole rows of scores stay."""
    dtype = queries.dtype
    seen = first + count
    results = []
    for number in range(queries.shape[1]):
        scores = nl.ndarray((count, seen), dtype=dtype, buffer=nl.sbuf)
        for start in range(0, seen, BANK_COLUMNS):
            width = min(BANK_COLUMNS, seen - start)
            nisa.tensor_copy(
                dst=scores[:, start : start + width],
                src=block_scores(queries, number, first, count, keys, start, width),
            )
        nisa.tensor_scalar(dst=scores, data=scores, op0=nl.multiply, operand0=scale)
        hide_future(scores[:, first:seen], 1)
        bias = lower_bias(scores, 1.0, None)
        shares, total = exponentials(scores, 1.0, bias, nl.float32)
        rows = nl.ndarray((count, values.shape[2]), dtype=nl.float32, buffer=nl.psum)
        if first > 0:
            past = divide_rows(shares[:, 0:first], total, dtype)
            weigh_values(rows, past, values, 0, eye)
        present = divide_rows(shares[:, first:seen], total, dtype)
        weigh_values(rows, present, values, first // PARTITIONS, eye)
        result = nl.ndarray((count, values.shape[2]), dtype=dtype, buffer=nl.sbuf)
        nisa.tensor_copy(dst=result, src=rows)
        results.append(result)
    return results


def check_attention_arguments(kernel, q, k, v):
    """Refuse what the kernel does not attend over: see its docstring."""
    check_rank(kernel, "q", q, ("heads", "head_dim", "tokens"))
    check_float(kernel, "q", q)
    heads, head_dim, tokens = q.shape
    check_rank(kernel, "k", k, ("kv_heads", "head_dim", "tokens"))
    kv_heads = k.shape[0]
    check_shape(kernel, "k", k, (kv_heads, head_dim, tokens))
    check_dtype(kernel, "k", k, q.dtype)
    check_shape(kernel, "v", v, (kv_heads, tokens, head_dim))
    check_dtype(kernel, "v", v, q.dtype)
    assert heads % kv_heads == 0, (
        f"{kernel}: query heads must be a multiple of kv heads, received {heads} and {kv_heads}; "
        f"pass the heads of one rank"
    )
    assert head_dim <= PARTITIONS, (
        f"{kernel}: head_dim may be at most {PARTITIONS}, received {head_dim}; it is contracted on "
        f"the partitions"
    )
    check_prompt(kernel, tokens, heads // kv_heads, q.dtype)


@nki.jit
def nki_attention_prefill_kernel(q, k, v, rounding="fused"):
    """Causal grouped-query attention of a prompt of up to 5120 tokens over itself.

    Math:        y[h, :, s] = sum over t <= s of p[s, t] v[g, t, :], g = h kv_heads // heads
                 p[s, :] = softmax over t <= s of q[h, :, s] . k[g, :, t] / sqrt(D)
    Dimensions:  S tokens, heads, kv heads, D head_dim (<= 128)
    Args:        q  [heads, D, S]     float32 or bfloat16  HBM
                 k  [kv heads, D, S]  dtype of q           HBM
                 v  [kv heads, S, D]  dtype of q           HBM
                 rounding  Python string, "fused" or "stepwise"
    Returns:     [heads, D, S]  dtype of q  shared HBM
    Tiling:      128 queries of up to 4 heads of a group at a time, one query per partition, over
                 the keys before them in blocks of 512 and over themselves, a square that alone is
                 masked; blocks of the future are never touched. Keys and values of a kv head are
                 loaded once for its group, values as [128, blocks, D] with token b 128 + p at
                 (p, b). Shares are transposed in pieces of 128 keys to be contracted with them,
                 the result to [D, S]. The last tile holds the tokens left over.
                 Cores: consecutive shares of the heads: every one costs the same, so causality
                 leaves no imbalance, and results are disjoint.
    Engine plan: PE: scores, transposes of shares and results, weighted values. ACT: exp of scores
                 straight from PSUM, with scale and maximum fused, and the sum. GpSimd: the mask.
                 VE: maxima, corrections, PSUM to SBUF. Four heads go through each step together.
    Bound:       VE and ACT: 3 passes over heads S^2 / 256 scores; PE: 3 D columns per 128 x 128
                 scores; HBM: 2 heads S D + 2 kv heads S D elements
    Numerics:    fused: online softmax. Running maximum, sum of exponentials and weighted values are
                 fp32; exponentials are rounded to the dtype of q as operands, before their division
                 by the sum. stepwise: scores, scaled scores and shares are rounded, as in
                 transformers' eager attention, the softmax between them fp32 over whole rows.
                 Padding on the right needs no mask: it comes after all real tokens, which causality
                 hides from them; the rows of padding itself are finite and mean nothing.
    Refuses:     other ranks, empty tensors, other dtypes, k and v of other heads or tokens, heads
                 that are no multiple of kv heads, D over 128, more tokens than fit (S elements of a
                 group's heads in 80 KiB), another rounding
    """
    name = "nki_attention_prefill_kernel"
    inner_dtype(name, rounding, q.dtype)
    check_attention_arguments(name, q, k, v)
    heads, head_dim, tokens = q.shape
    group = heads // k.shape[0]
    scale = head_dim**-0.5

    out = nl.ndarray((heads, head_dim, tokens), dtype=q.dtype, buffer=nl.shared_hbm)
    eye = identity(min(PARTITIONS, tokens), q.dtype)
    begin, end = core_share(heads)
    for kv_head in range(begin // group, (end + group - 1) // group):
        keys = load_keys(k, kv_head)
        values = load_values(v, kv_head)
        last = min(end, (kv_head + 1) * group)
        for head in range(max(begin, kv_head * group), last, HEADS_AT_ONCE):
            count = min(HEADS_AT_ONCE, last - head)
            queries = load_heads(q, head, count)
            attended = nl.ndarray((head_dim, count, tokens), dtype=q.dtype, buffer=nl.sbuf)
            for first in range(0, tokens, PARTITIONS):
                size = min(PARTITIONS, tokens - first)
                if rounding == "fused":
                    rows = attend_online(queries, first, size, keys, values, scale, eye)
                else:
                    rows = attend_stepwise(queries, first, size, keys, values, scale, eye)
                for number in range(count):
                    transpose_pieces(attended, number, first, rows[number], eye)
            store_heads(out, head, 0, 0, attended)
    return out
