"""Kernels of attention in decode: T new queries over the cache, and the output projection.

T tokens of one sequence, 1 to 8. The scores of a group of query heads lie with the positions of
the keys on partitions, position p J + j at (p, j): every lane works, the shares of the values are
what the tensor engine contracts over, and the result comes out as columns of heads. The new keys
and values take part from where they are; the cache is read before they exist, and written last.
"""

import nki
import nki.isa as nisa
import nki.language as nl

from kernels.nki_common import (
    PARTITIONS,
    check_dtype,
    check_float,
    check_rank,
    check_shape,
    inner_dtype,
)
from kernels.nki_decode_common import (
    BANK,
    bring_in,
    check_tokens,
    column_partitions,
    evacuate,
    exchange_and_add,
    prefetch_linear,
    project_linear,
    share,
    store_columns,
    transpose,
)
from kernels.nki_decode_qkv_kernels import check_heads, share_kv, share_stored
from kernels.nki_patterns import filled, identity

MASKED = -1e30  # added to the score of a position that is not seen: its exponential is 0


# What all heads and layers share.


def load_position(position, lines):
    """[P, 1] int32 tile: the scalar on every partition."""
    tile = nl.ndarray((lines, 1), dtype=position.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=tile, src=position.ap(pattern=[[0, lines], [1, 1]], offset=0))
    return tile


def cache_mask(position_tile, blocks):
    """[P, J] fp32 tile: MASKED where the cache's position p J + j is not before the new tokens."""
    lines = position_tile.shape[0]
    start = nl.ndarray((lines, 1), dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_copy(dst=start, src=position_tile)
    mask = nl.ndarray((lines, blocks), dtype=nl.float32, buffer=nl.sbuf)
    nisa.iota(dst=mask, pattern=[[1, blocks]], offset=0, channel_multiplier=blocks)
    nisa.tensor_scalar(
        dst=mask,
        data=mask,
        op0=nl.greater_equal,
        operand0=start,
        op1=nl.multiply,
        operand1=MASKED,
    )
    return mask


def causal_mask(tokens, group):
    """[T, group, T] fp32 tile: MASKED where a new key (partition) comes after a query (last)."""
    mask = nl.ndarray((tokens, group, tokens), dtype=nl.float32, buffer=nl.sbuf)
    nisa.memset(dst=mask, value=0.0)
    nisa.affine_select(
        dst=mask,
        pattern=[[0, group], [1, tokens]],
        offset=0,
        channel_multiplier=-1,
        on_true_tile=mask,
        on_false_value=MASKED,
        cmp_op=nl.greater_equal,
    )
    return mask


def attention_constants(position_tile, blocks, tokens, group, dtype, inner):
    """(cache mask, causal mask, fp32 identity, ones in the dtype of what sums go over)."""
    summed = dtype if inner == nl.float32 else nl.float32
    return (
        cache_mask(position_tile, blocks),
        causal_mask(tokens, group),
        identity(PARTITIONS, nl.float32),
        filled(PARTITIONS, PARTITIONS, 1.0, summed),
    )


# One group of query heads over its key head.


def load_cache(k_cache, v_cache, head, paced=False):
    """(keys [D, C], values [P, J, D]) tiles of one head of [.., D, C] and [.., C, D] caches.

    `head` counts over all leading dimensions. Both come in by one run per partition; see
    `bring_in`.
    """
    rank = len(k_cache.shape)
    width, capacity = k_cache.shape[rank - 2], k_cache.shape[rank - 1]
    lines = column_partitions(capacity)
    blocks = capacity // lines
    first = head * width * capacity
    keys = nl.ndarray((width, capacity), dtype=k_cache.dtype, buffer=nl.sbuf)
    bring_in(keys, k_cache.ap(pattern=[[capacity, width], [1, capacity]], offset=first), paced)
    values = nl.ndarray((lines, blocks, width), dtype=v_cache.dtype, buffer=nl.sbuf)
    pattern = [[blocks * width, lines], [width, blocks], [1, width]]
    bring_in(values, v_cache.ap(pattern=pattern, offset=first), paced)
    return keys, values


def scale_and_mask(scores, products, mask, scale, inner):
    """scores = products * scale + mask, all [P, n, N]; fp32, and the first two round to `inner`."""
    if inner == nl.float32:
        nisa.scalar_tensor_tensor(
            dst=scores,
            data=products,
            op0=nl.multiply,
            operand0=scale,
            op1=nl.add,
            operand1=mask,
        )
        return
    rounded = evacuate(products, inner)
    nisa.tensor_scalar(dst=rounded, data=rounded, op0=nl.multiply, operand0=scale)
    nisa.tensor_tensor(dst=scores, data1=rounded, data2=mask, op=nl.add)


def masked_scores(queries, keys, new_keys, constants, inner):
    """[P, J + 1, N] fp32 scores of the cache's positions, and of the T new ones in block J.

    queries [D, group, T], N of them; keys [D, C]; new_keys [D, T]. In block J the partitions from T
    on are masked.
    """
    seen, causal = constants[0], constants[1]
    lines, blocks = seen.shape
    width, group, tokens = queries.shape
    count = group * tokens
    scale = float(width) ** -0.5
    cached = nl.ndarray((lines, blocks, count), dtype=nl.float32, buffer=nl.psum)
    for block in range(blocks):
        nisa.nc_matmul(
            dst=cached[:, block, :],
            stationary=keys.ap(pattern=[[blocks * lines, width], [blocks, lines]], offset=block),
            moving=queries,
        )
    new = nl.ndarray((tokens, 1, count), dtype=nl.float32, buffer=nl.psum)
    nisa.nc_matmul(dst=new, stationary=new_keys, moving=queries)
    scores = nl.ndarray((lines, blocks + 1, count), dtype=nl.float32, buffer=nl.sbuf)
    nisa.memset(dst=scores[:, blocks : blocks + 1, :], value=MASKED, engine=nisa.engine.gpsimd)
    scale_and_mask(
        scores[:, 0:blocks, :],
        cached,
        seen.ap(pattern=[[blocks, lines], [1, blocks], [0, count]], offset=0),
        scale,
        inner,
    )
    scale_and_mask(scores[0:tokens, blocks : blocks + 1, :], new, causal, scale, inner)
    return scores


def negative_maximum(scores, identity_tile):
    """[P, N] fp32 PSUM: on every partition, minus the maximum of [P, n, N] over the other two.

    Over n by halves, which may overlap; over the partitions as rows between two transposes.
    """
    lines, blocks, count = scores.shape
    largest = scores
    while blocks > 1:
        half = (blocks + 1) // 2
        reduced = nl.ndarray((lines, half, count), dtype=nl.float32, buffer=nl.sbuf)
        nisa.tensor_tensor(
            dst=reduced,
            data1=largest[:, 0:half, :],
            data2=largest[:, blocks - half : blocks, :],
            op=nl.maximum,
        )
        largest = reduced
        blocks = half
    rows = transpose(largest, identity_tile)
    column = nl.ndarray((count, 1), dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_reduce(dst=column, op=nl.maximum, data=rows, axis=1, negate=True)
    return transpose(column.ap(pattern=[[1, count], [0, lines]], offset=0), identity_tile)


def sum_over_positions(weights, ones, lines):
    """[lines, N] fp32 PSUM: on every partition, the sum of [P, n, N] over the other two."""
    total = nl.ndarray((lines, weights.shape[2]), dtype=nl.float32, buffer=nl.psum)
    for block in range(weights.shape[1]):
        nisa.nc_matmul(
            dst=total,
            stationary=ones[0 : weights.shape[0], 0:lines],
            moving=weights[:, block, :],
        )
    return total


def reciprocals(sums):
    """[P, N] fp32: 1 / s of a tile in PSUM."""
    inverse = nl.ndarray(tuple(sums.shape), dtype=nl.float32, buffer=nl.sbuf)
    nisa.reciprocal(dst=inverse, data=sums)
    return inverse


def weighted_values(weights, values, new_values):
    """[D, N] fp32 PSUM: values [P, J, D] and the new [T, D], weighted by [P, J + 1, N]."""
    blocks, width = values.shape[1], values.shape[2]
    tokens = new_values.shape[0]
    total = nl.ndarray((width, weights.shape[2]), dtype=nl.float32, buffer=nl.psum)
    for block in range(blocks):
        nisa.nc_matmul(dst=total, stationary=values[:, block, :], moving=weights[:, block, :])
    nisa.nc_matmul(dst=total, stationary=new_values, moving=weights[0:tokens, blocks, :])
    return total


def attend(attended, queries, cache_tiles, new_keys, new_values, constants, inner):
    """attended = softmax of the queries' scores, times the values; [D, group, T] tiles.

    cache_tiles from `load_cache`; new_keys [D, T]; new_values [T, D]; constants from
    `attention_constants`.
    """
    dtype = queries.dtype
    keys, values = cache_tiles
    ones = constants[3]
    scores = masked_scores(queries, keys, new_keys, constants, inner)
    lines, blocks, count = scores.shape
    repeated = [[count, lines], [0, blocks], [1, count]]
    shift = negative_maximum(scores, constants[2])
    nisa.tensor_tensor(
        dst=scores, data1=scores, data2=shift.ap(pattern=repeated, offset=0), op=nl.add
    )
    weights = nl.ndarray((lines, blocks, count), dtype=ones.dtype, buffer=nl.sbuf)
    nisa.activation(dst=weights, op=nl.exp, data=scores)
    if inner == nl.float32:
        inverse = reciprocals(sum_over_positions(weights, ones, values.shape[2]))
        total = weighted_values(weights, values, new_values)
        nisa.tensor_tensor(dst=attended, data1=total, data2=inverse, op=nl.multiply)
        return
    inverse = reciprocals(sum_over_positions(weights, ones, lines))
    shares = nl.ndarray((lines, blocks, count), dtype=dtype, buffer=nl.sbuf)
    nisa.tensor_tensor(
        dst=shares, data1=weights, data2=inverse.ap(pattern=repeated, offset=0), op=nl.multiply
    )
    nisa.tensor_copy(dst=attended, src=weighted_values(shares, values, new_values))


def attend_groups(heads_tile, rows, caches, constants, inner):
    """[D, q, T] tile: this core's query heads over its key heads.

    heads_tile [D, q + kv, T] holds queries, then new keys; rows [T, kv, D] new values; caches: the
    tiles of `load_cache`, one pair per key head.
    """
    width, count, tokens = heads_tile.shape
    kv_count = len(caches)
    queries = count - kv_count
    group = queries // kv_count
    attended = nl.ndarray((width, queries, tokens), dtype=heads_tile.dtype, buffer=nl.sbuf)
    for head in range(kv_count):
        first = head * group
        attend(
            attended[:, first : first + group, :],
            heads_tile[:, first : first + group, :],
            caches[head],
            heads_tile[:, queries + head, :],
            rows[:, head, :],
            constants,
            inner,
        )
    return attended


# The cache's new columns.


def write_cache(k_cache, v_cache, keys, values, position_tile, kv_heads):
    """Put new keys and values of all layers in the cache at `position`, each core its part.

    k_cache [.., D, C], v_cache [.., C, D] of L kv heads; keys [D, L, kv', T] and values
    [T, L, kv', D] tiles with this core's heads. Two cores that read the same head wait for each
    other before they write.
    """
    width, layers, count, tokens = keys.shape
    rank = len(k_cache.shape)
    capacity = k_cache.shape[rank - 1]
    head = width * capacity
    first_head = share_kv(kv_heads)[0]
    start, stored = share_stored(kv_heads, width)
    if kv_heads == 1 and nl.num_programs(0) > 1:
        nisa.core_barrier(data=k_cache, cores=(0, 1))
        nisa.core_barrier(data=v_cache, cores=(0, 1))
    where = position_tile[0:1, 0:1]
    per_partition = layers * count * tokens
    nisa.dma_copy(
        dst=k_cache.ap(
            pattern=[
                [capacity, stored],
                [kv_heads * head, layers],
                [head, count],
                [1, tokens],
            ],
            offset=first_head * head + start * capacity,
            scalar_offset=where,
            indirect_dim=rank - 1,
        ),
        src=keys.ap(
            pattern=[
                [per_partition, stored],
                [count * tokens, layers],
                [tokens, count],
                [1, tokens],
            ],
            offset=start * per_partition,
        ),
    )
    nisa.dma_copy(
        dst=v_cache.ap(
            pattern=[
                [width, tokens],
                [kv_heads * head, layers],
                [head, count],
                [1, stored],
            ],
            offset=first_head * head + start,
            scalar_offset=where,
            indirect_dim=rank - 2,
        ),
        src=values[:, :, :, start : start + stored],
    )


def check_cache(kernel, k_cache, v_cache, position, tokens, group, dtype):
    """Refuse caches [.., kv, D, C] and [.., kv, C, D] that are not of a kind, or do not fit."""
    shape = tuple(k_cache.shape)
    rank = len(shape)
    width, capacity = shape[rank - 2], shape[rank - 1]
    check_dtype(kernel, "k_cache", k_cache, dtype)
    if rank == 4:
        check_shape(kernel, "v_cache", v_cache, (shape[0], shape[1], capacity, width))
    else:
        check_shape(kernel, "v_cache", v_cache, (shape[0], capacity, width))
    check_dtype(kernel, "v_cache", v_cache, dtype)
    check_shape(kernel, "position", position, (1, 1))
    check_dtype(kernel, "position", position, nl.int32)
    lines = column_partitions(capacity)
    blocks = capacity // lines
    assert tokens <= lines and blocks * group * tokens <= BANK, (
        f"{kernel}: the cache's capacity must spread evenly over partitions, {tokens} or more, and "
        f"give each at most {BANK} scores, received {capacity} positions ({lines} x {blocks}) of "
        f"{group} heads; allocate it with a multiple of {PARTITIONS}"
    )
    assert group * tokens <= PARTITIONS, (
        f"{kernel}: at most {PARTITIONS} queries share a key head, received {group} heads x "
        f"{tokens} tokens; pass fewer tokens"
    )


def check_attention_arguments(kernel, q, k, v, k_cache, v_cache, position):
    """Refuse what the attention kernel does not compute."""
    check_rank(kernel, "q", q, ("head_dim", "heads", "tokens"))
    check_float(kernel, "q", q)
    head_dim, heads, tokens = q.shape
    check_rank(kernel, "k_cache", k_cache, ("kv_heads", "head_dim", "capacity"))
    kv_heads, width, _capacity = k_cache.shape
    assert width == head_dim, (
        f"{kernel}: k_cache must be [kv_heads, {head_dim}, capacity] to match q, received "
        f"{tuple(k_cache.shape)}; the cache keeps keys transposed"
    )
    check_heads(kernel, heads, kv_heads, head_dim)
    check_shape(kernel, "k", k, (head_dim, kv_heads, tokens))
    check_dtype(kernel, "k", k, q.dtype)
    check_shape(kernel, "v", v, (tokens, kv_heads, head_dim))
    check_dtype(kernel, "v", v, q.dtype)
    check_cache(kernel, k_cache, v_cache, position, tokens, heads // kv_heads, q.dtype)


@nki.jit
def nki_attention_decode_kernel(
    q, k, v, k_cache, v_cache, position, rounding="fused", update_cache=True
):
    """Attention of 1 to 8 new tokens over the cache and each other, and the cache's update.

    Math:        s[h, t, c] = q[:, h, t] . key[c] / sqrt(D), c <= position + t
                 attended[:, h, t] = sum_c softmax_c(s[h, t, c]) value[c]
                 key, value: the cache before `position`, k and v from there on
    Dimensions:  T tokens, D head_dim, heads in groups per key head, C = P J capacity
    Args:        q             [D, heads, T]     float32 or bfloat16  HBM
                 k             [D, kv_heads, T]  dtype of q           HBM
                 v             [T, kv_heads, D]  dtype of q           HBM
                 k_cache       [kv_heads, D, C]  dtype of q           HBM, written in place
                 v_cache       [kv_heads, C, D]  dtype of q           HBM, written in place
                 position      [1, 1]            int32                HBM; position + T <= C, which
                               nothing checks
                 rounding      string "fused" or "stepwise"
                 update_cache  Python bool: whether to write the caches
    Returns:     attended [D, heads, T]  dtype of q  shared HBM, k_cache, v_cache; attended alone
                 if the update is left to the caller
    Tiling:      one group of heads at a time; scores as [P, J + 1, group x T], position p J + j at
                 (p, j), so that keys and values are one run per partition each; the last block
                 holds the new tokens. Two cores: each half of the heads, and of the key heads; one
                 key head is read by both, and each writes half of its D.
    Engine plan: DMA: the caches, which wait for nothing; the new columns last, at a dynamic offset.
                 PE: scores with keys stationary, two transposes around the maximum, sums with ones,
                 values stationary. VE: scale and mask in one pass, maxima, shift. ACT: exp.
                 GpSimd: the masks, once. Two cores that read one head: a barrier before the writes.
    Bound:       HBM: 2 kv_heads C D elements of the caches; fixed costs of some 30 instructions
    Numerics:    scores, maximum and sum in fp32. "fused": exponentials (at most 1) are rounded to
                 the dtype of q, an operand; their weighted sum is divided in fp32. "stepwise":
                 scores round before and after the scale, shares after the division. A position
                 that is not seen weighs exactly 0; what lies there must be finite.
    Refuses:     other ranks, shapes and dtypes, heads that do not divide over groups or cores, a
                 capacity that does not spread over partitions, another rounding
    """
    name = "nki_attention_decode_kernel"
    check_attention_arguments(name, q, k, v, k_cache, v_cache, position)
    inner = inner_dtype(name, rounding, q.dtype)
    head_dim, heads, tokens = q.shape
    kv_heads, _width, capacity = k_cache.shape
    first, count = share(heads)
    first_kv, kv_count = share_kv(kv_heads)
    lines = column_partitions(capacity)

    caches = []
    for head in range(kv_count):
        caches.append(load_cache(k_cache, v_cache, first_kv + head))
    heads_tile = nl.ndarray((head_dim, count + kv_count, tokens), dtype=q.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=heads_tile[:, 0:count, :], src=q[:, first : first + count, :])
    nisa.dma_copy(
        dst=heads_tile[:, count : count + kv_count, :],
        src=k[:, first_kv : first_kv + kv_count, :],
    )
    rows = nl.ndarray((tokens, kv_count, head_dim), dtype=q.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=rows, src=v[:, first_kv : first_kv + kv_count, :])
    position_tile = load_position(position, lines)
    constants = attention_constants(
        position_tile, capacity // lines, tokens, count // kv_count, q.dtype, inner
    )

    attended = nl.ndarray((head_dim, heads, tokens), dtype=q.dtype, buffer=nl.shared_hbm)
    tile = attend_groups(heads_tile, rows, caches, constants, inner)
    nisa.dma_copy(dst=attended[:, first : first + count, :], src=tile)
    if not update_cache:
        return attended
    keys = nl.ndarray((head_dim, 1, kv_count, tokens), dtype=q.dtype, buffer=nl.sbuf)
    nisa.tensor_copy(dst=keys, src=heads_tile[:, count : count + kv_count, :])
    values = rows.reshape((tokens, 1, kv_count, head_dim))
    write_cache(k_cache, v_cache, keys, values, position_tile, kv_heads)
    return attended, k_cache, v_cache


# The output projection.


def output_part(w_o):
    """This core's part of w_o, its heads: (first column, columns, first output, outputs)."""
    first, count = share(w_o.shape[1])
    return first, count, 0, w_o.shape[2]


def project_output(w_o, tiles, attended):
    """[P, J, T] fp32 tile: this core's heads [D, q, T] by their part of w_o; one of the summands.

    `tiles` are what `prefetch_linear` gave for `output_part`.
    """
    width = column_partitions(w_o.shape[2])
    return evacuate(project_linear(w_o, tiles, output_part(w_o), attended, width), nl.float32)


@nki.jit
def nki_output_projection_decode_kernel(attended, w_o):
    """The attention block's output projection of 1 to 8 tokens: one rank's part of the sum.

    Math:        y[t, :] = sum_h attended[:, h, t] w_o[:, h, :]
    Dimensions:  T tokens, D head_dim, heads, H hidden = P J
    Args:        attended  [D, heads, T]  float32 or bfloat16  HBM
                 w_o       [D, heads, H]  dtype of attended    HBM
    Returns:     [T, H]  dtype of attended  shared HBM
    Tiling:      a head is one step of the contraction; outputs in tiles of P, 32 KiB of weights per
                 partition at a time. Two cores: each contracts half of the heads, one run of memory
                 per partition, and they add each other's sums.
    Engine plan: DMA: the weights, which wait for nothing, and the heads. PE: J x heads products
                 with the weight stationary, one transpose back to rows. VE: evacuation, the other
                 core's part. sendrecv: [P, J, T] fp32.
    Bound:       HBM: heads D H elements, each read once, by one core
    Numerics:    products and sums in fp32, over the cores too; one rounding to the dtype
    Refuses:     other ranks, shapes and dtypes, heads that do not divide over the cores, more
                 columns than a PSUM bank has
    """
    name = "nki_output_projection_decode_kernel"
    check_rank(name, "attended", attended, ("head_dim", "heads", "tokens"))
    check_float(name, "attended", attended)
    head_dim, heads, tokens = attended.shape
    check_rank(name, "w_o", w_o, ("head_dim", "heads", "hidden"))
    hidden = w_o.shape[2]
    check_shape(name, "w_o", w_o, (head_dim, heads, hidden))
    check_dtype(name, "w_o", w_o, attended.dtype)
    check_heads(name, heads, 1, head_dim)
    check_tokens(name, tokens, hidden)

    first, count = share(heads)
    tiles = prefetch_linear(w_o, output_part(w_o), column_partitions(hidden))
    heads_tile = nl.ndarray((head_dim, count, tokens), dtype=attended.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=heads_tile, src=attended[:, first : first + count, :])
    identity_tile = identity(PARTITIONS, attended.dtype)

    product = exchange_and_add(project_output(w_o, tiles, heads_tile))
    out = nl.ndarray((tokens, hidden), dtype=attended.dtype, buffer=nl.shared_hbm)
    store_columns(out, evacuate(product, attended.dtype), identity_tile)
    return out
