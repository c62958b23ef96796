"""Kernel of a decode step's queries, keys and values: norm, projection, norms of heads, RoPE.

T tokens of one sequence, 1 to 8. Activations are columns (`nki_decode_common`), and a head is one
column of D partitions. Two cores share the query heads; they share the key and value heads too,
unless there is only one: both then work with it, and share the making and storing of it.
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
    add_columns,
    bring_in,
    check_columns,
    check_eps,
    check_tokens,
    column_partitions,
    evacuate,
    exchange_and_add,
    load_columns,
    load_linear,
    load_whole,
    norm_constants,
    prefetch_linear,
    project_into,
    project_linear,
    reciprocal_rms_of_columns,
    rmsnorm_columns,
    share,
    store_columns,
    transpose,
)
from kernels.nki_patterns import diagonals, identity

# What each core does.


def check_heads(kernel, heads, kv_heads, head_dim):
    """Refuse heads that do not form groups, or do not divide over the cores."""
    cores = nl.num_programs(0)
    assert kv_heads > 0 and heads > 0 and heads % kv_heads == 0, (
        f"{kernel}: query heads must be a multiple of key heads, received {heads} and {kv_heads}"
    )
    assert heads % cores == 0 and (kv_heads == 1 or kv_heads % cores == 0), (
        f"{kernel}: {cores} cores share the heads, received {heads} query heads and {kv_heads} "
        f"key heads; launch it on one core"
    )
    assert head_dim <= PARTITIONS and head_dim % (2 * cores) == 0, (
        f"{kernel}: head_dim must be at most {PARTITIONS} and even on every core, received "
        f"{head_dim}; its halves are rotated as pairs"
    )


def share_kv(kv_heads):
    """(first, count): key and value heads that this core works with."""
    if kv_heads == 1:
        return 0, 1
    return share(kv_heads)


def share_stored(kv_heads, head_dim):
    """(first, count): elements of each of its key and value heads that this core stores."""
    if kv_heads == 1:
        return share(head_dim)
    return 0, head_dim


def share_contraction(kv_heads, columns):
    """(first, count): columns of hidden states over which this core projects keys and values."""
    if kv_heads == 1 and columns % nl.num_programs(0) == 0:
        return share(columns)
    return 0, columns


# Queries, keys and values.


def load_kv_weight(w_qkv, heads, kv_heads, head_dim, paced=False):
    """[P, columns, 2 kv D] tile: this core's part of the key and value weights.

    By one DMA if it has all heads, which lie side by side; else by one for keys, one for values.
    """
    lines, columns, _outputs = w_qkv.shape
    first_head, count = share_kv(kv_heads)
    first, steps = share_contraction(kv_heads, columns)
    if count == kv_heads:
        return load_linear(w_qkv, first, steps, heads * head_dim, 2 * count * head_dim, paced)
    width = count * head_dim
    tile = nl.ndarray((lines, steps, 2 * width), dtype=w_qkv.dtype, buffer=nl.sbuf)
    for kind in range(2):
        start = (heads + kind * kv_heads + first_head) * head_dim
        bring_in(
            tile[:, :, kind * width : (kind + 1) * width],
            w_qkv[:, first : first + steps, start : start + width],
            paced,
        )
    return tile


def query_part(w_qkv, heads, head_dim):
    """This core's part of w_qkv for queries: (first column, columns, first output, outputs)."""
    first, count = share(heads)
    return 0, w_qkv.shape[1], first * head_dim, count * head_dim


def project_heads(w_qkv, query_tiles, kv_tile, normed, heads, kv_heads, head_dim, inner):
    """[D, q + 2 kv, T] tile of dtype `inner`: this core's queries, keys and values of columns.

    A single key head's two columns are sums over both cores, which exchange their parts while the
    queries are projected.
    """
    columns, tokens = normed.shape[1], normed.shape[2]
    count = share_kv(kv_heads)[1]
    first, steps = share_contraction(kv_heads, columns)
    kv_product = nl.ndarray((head_dim, 2 * count, tokens), dtype=nl.float32, buffer=nl.psum)
    project_into(kv_product, 0, kv_tile, normed, first)
    if steps < columns:
        kv_product = exchange_and_add(evacuate(kv_product, nl.float32))
    part = query_part(w_qkv, heads, head_dim)
    product = project_linear(w_qkv, query_tiles, part, normed, head_dim)
    queries = product.shape[1]
    projected = nl.ndarray((head_dim, queries + 2 * count, tokens), dtype=inner, buffer=nl.sbuf)
    nisa.tensor_copy(dst=projected[:, 0:queries, :], src=product)
    nisa.tensor_copy(dst=projected[:, queries : queries + 2 * count, :], src=kv_product)
    return projected


def head_weights(q_columns, k_columns, queries, keys):
    """[D, L, q + kv] tile: the norm's weight of every head of L layers, of columns [D, 1, L]."""
    head_dim, _one, layers = q_columns.shape
    tile = nl.ndarray((head_dim, layers, queries + keys), dtype=q_columns.dtype, buffer=nl.sbuf)
    nisa.tensor_copy(
        dst=tile[:, :, 0:queries],
        src=q_columns.ap(pattern=[[layers, head_dim], [1, layers], [0, queries]], offset=0),
    )
    nisa.tensor_copy(
        dst=tile[:, :, queries : queries + keys],
        src=k_columns.ap(pattern=[[layers, head_dim], [1, layers], [0, keys]], offset=0),
    )
    return tile


def norm_heads(projected, weight_tile, layer, constants, inner):
    """[D, n, T] tile of dtype `inner`: RMSNorm over D of the first n heads, weights [D, L, n]."""
    head_dim, _all, tokens = projected.shape
    layers, count = weight_tile.shape[1], weight_tile.shape[2]
    width = count * tokens
    data = projected[:, 0:count, :]
    squares = nl.ndarray((head_dim, width), dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_tensor(dst=squares, data1=data, data2=data, op=nl.multiply)
    rstd = reciprocal_rms_of_columns(squares, head_dim, constants)
    scaled = nl.ndarray((head_dim, count, tokens), dtype=inner, buffer=nl.sbuf)
    nisa.tensor_tensor(dst=scaled, data1=data, data2=rstd, op=nl.multiply)
    normed = nl.ndarray((head_dim, count, tokens), dtype=inner, buffer=nl.sbuf)
    nisa.tensor_tensor(
        dst=normed,
        data1=scaled,
        data2=weight_tile.ap(
            pattern=[[layers * count, head_dim], [1, count], [0, tokens]], offset=layer * count
        ),
        op=nl.multiply,
    )
    return normed


def load_tables(cos, sin, identity_tile):
    """(cos, sin) [D, 1, T] columns; the first half of sin is negated, as rotate_half wants it."""
    cos_columns = load_columns(cos, identity_tile)
    sin_columns = load_columns(sin, identity_tile)
    half = cos.shape[1] // 2
    nisa.tensor_scalar(
        dst=sin_columns[0:half], data=sin_columns[0:half], op0=nl.multiply, operand0=-1.0
    )
    return cos_columns, sin_columns


def rotate_columns(normed, tables, half_turn, inner, dtype):
    """[D, n, T] tile of `dtype`: RoPE of heads [D, n, T] by columns of cos and sin [D, 1, T].

    The halves of a head lie on other partitions, so a product with a permutation exchanges them,
    which is exact: `half_turn` is `diagonals(D, (D / 2, -D / 2))` in the dtype of `normed`.
    """
    head_dim, count, tokens = normed.shape
    cos_columns, sin_columns = tables
    repeated = [[tokens, head_dim], [0, count], [1, tokens]]
    turned = nl.ndarray((head_dim, count, tokens), dtype=nl.float32, buffer=nl.psum)
    nisa.nc_matmul(dst=turned, stationary=half_turn, moving=normed)
    straight = nl.ndarray((head_dim, count, tokens), dtype=inner, buffer=nl.sbuf)
    nisa.tensor_tensor(
        dst=straight,
        data1=normed,
        data2=cos_columns.ap(pattern=repeated, offset=0),
        op=nl.multiply,
    )
    crossed = nl.ndarray((head_dim, count, tokens), dtype=inner, buffer=nl.sbuf)
    nisa.tensor_tensor(
        dst=crossed,
        data1=turned,
        data2=sin_columns.ap(pattern=repeated, offset=0),
        op=nl.multiply,
    )
    return add_columns(straight, crossed, dtype)


def value_rows(projected, count, identity_tile):
    """[T, kv, D] tile in the identity's dtype: the last `count` heads of [D, n, T] as rows.

    Nobody waits for values before the scores are done, so the engines that have less to do than VE
    make them: GpSimd, which does not reach PSUM, and ACT.
    """
    head_dim, heads, tokens = projected.shape
    dtype = identity_tile.dtype
    columns = nl.ndarray((head_dim, count, tokens), dtype=dtype, buffer=nl.sbuf)
    nisa.tensor_copy(
        dst=columns, src=projected[:, heads - count : heads, :], engine=nisa.engine.gpsimd
    )
    rows = nl.ndarray((tokens, count, head_dim), dtype=dtype, buffer=nl.sbuf)
    for head in range(count):
        nisa.tensor_copy(
            dst=rows[:, head, :],
            src=transpose(columns[:, head, :], identity_tile),
            engine=nisa.engine.scalar,
        )
    return rows


def load_qkv(w_qkv, heads, kv_heads, head_dim, paced=False):
    """(query tiles, key and value tile): this core's weights, on their way before their turn."""
    kv_tile = load_kv_weight(w_qkv, heads, kv_heads, head_dim, paced)
    part = query_part(w_qkv, heads, head_dim)
    return prefetch_linear(w_qkv, part, head_dim, paced), kv_tile


def head_constants(q_norm, k_norm, cos, sin, heads, kv_heads, identity_tile, inner):
    """What this core's heads need besides their weights: norms of L layers [L, D], tables, a
    permutation.
    """
    table_identity = identity_tile
    if cos.dtype != identity_tile.dtype:
        table_identity = identity(PARTITIONS, cos.dtype)
    half = cos.shape[1] // 2
    return (
        head_weights(
            load_columns(q_norm, identity_tile),
            load_columns(k_norm, identity_tile),
            share(heads)[1],
            share_kv(kv_heads)[1],
        ),
        load_tables(cos, sin, table_identity),
        diagonals(2 * half, (half, -half), inner),
        identity_tile,
    )


def make_heads(normed, w_qkv, tiles, constants, norms, layer, heads, kv_heads, inner):
    """(queries and keys [D, q + kv, T], values [T, kv, D]) tiles of columns [P, J, T], this core's.

    All of the dtype of `normed`; w_qkv in HBM and `tiles` from `load_qkv`; `constants` from
    `head_constants`, whose norms are those of `layer`; `norms` from `norm_constants`.
    """
    weight_tile, tables, half_turn, identity_tile = constants
    head_dim = half_turn.shape[0]
    query_tiles, kv_tile = tiles
    projected = project_heads(w_qkv, query_tiles, kv_tile, normed, heads, kv_heads, head_dim, inner)
    by_norm = norm_heads(projected, weight_tile, layer, norms, inner)
    rotated = rotate_columns(by_norm, tables, half_turn, inner, normed.dtype)
    return rotated, value_rows(projected, share_kv(kv_heads)[1], identity_tile)


def check_tables(kernel, tables, shape, dtype):
    """Refuse tables of RoPE which are not (cos, sin) of one `shape`, float32 or `dtype`."""
    cos, sin = tables
    check_shape(kernel, "cos", cos, shape)
    check_shape(kernel, "sin", sin, shape)
    assert cos.dtype == nl.float32 or cos.dtype == dtype, (
        f"{kernel}: cos must be float32 or the dtype of x ({dtype}), received {cos.dtype}; "
        f"cast it before the call"
    )
    check_dtype(kernel, "sin", sin, cos.dtype)


def check_qkv_arguments(kernel, x, residual, norm_weight, w_qkv, q_norm, k_norm, cos, sin, kv):
    """Refuse what the QKV kernel does not compute."""
    check_rank(kernel, "x", x, ("tokens", "hidden"))
    check_float(kernel, "x", x)
    tokens, hidden = x.shape
    check_tokens(kernel, tokens, hidden)
    if residual != None:
        check_shape(kernel, "residual", residual, (tokens, hidden))
        check_dtype(kernel, "residual", residual, x.dtype)
    check_columns(kernel, "norm_weight", norm_weight, hidden, x.dtype)
    check_rank(kernel, "q_norm", q_norm, ("head_dim",))
    head_dim = q_norm.shape[0]
    check_dtype(kernel, "q_norm", q_norm, x.dtype)
    check_shape(kernel, "k_norm", k_norm, (head_dim,))
    check_dtype(kernel, "k_norm", k_norm, x.dtype)
    check_rank(kernel, "w_qkv", w_qkv, ("partitions", "columns", "outputs"))
    outputs = w_qkv.shape[2]
    lines = column_partitions(hidden)
    check_shape(kernel, "w_qkv", w_qkv, (lines, hidden // lines, outputs))
    check_dtype(kernel, "w_qkv", w_qkv, x.dtype)
    heads = outputs // head_dim - 2 * kv
    assert outputs % head_dim == 0 and heads > 0, (
        f"{kernel}: w_qkv must have (heads + 2 x {kv} key heads) x {head_dim} outputs, "
        f"received {outputs}; check kv_heads"
    )
    check_heads(kernel, heads, kv, head_dim)
    assert (heads + 2 * kv) * tokens <= BANK, (
        f"{kernel}: heads x tokens must fit in a PSUM bank of {BANK}, "
        f"received {heads + 2 * kv} x {tokens}; pass fewer tokens"
    )
    check_tables(kernel, (cos, sin), (tokens, head_dim), x.dtype)


def store_heads(queries, keys, values, rotated, rows, heads, kv_heads):
    """Write this core's part of q [D, heads, T], k [D, kv, T] and v [T, kv, D]."""
    head_dim, _all, tokens = rotated.shape
    first, count = share(heads)
    first_kv, kv_count = share_kv(kv_heads)
    start, width = share_stored(kv_heads, head_dim)
    nisa.dma_copy(dst=queries[:, first : first + count, :], src=rotated[:, 0:count, :])
    nisa.dma_copy(
        dst=keys[start : start + width, first_kv : first_kv + kv_count, :],
        src=rotated.ap(
            pattern=[[(count + kv_count) * tokens, width], [tokens, kv_count], [1, tokens]],
            offset=start * (count + kv_count) * tokens + count * tokens,
        ),
    )
    nisa.dma_copy(
        dst=values[:, first_kv : first_kv + kv_count, start : start + width],
        src=rows[:, :, start : start + width],
    )


@nki.jit
def nki_qkv_decode_kernel(
    x,
    residual,
    norm_weight,
    w_qkv,
    q_norm,
    k_norm,
    cos,
    sin,
    eps,
    kv_heads,
    rounding="fused",
):
    """RMSNorm, QKV projection, RMSNorm of query and key heads and RoPE, of 1 to 8 tokens.

    Math:        s = x + residual (or x); n = s / sqrt(mean(s^2) + eps) * norm_weight
                 (q, k, v) = n w_qkv, a head h being outputs h D to h D + D
                 q, k: RMSNorm over D by q_norm, k_norm, then y * cos + rotate_half(y) * sin
    Dimensions:  T tokens, H hidden = P J, D head_dim, heads, kv_heads
    Args:        x            [T, H]  float32 or bfloat16             HBM
                 residual     [T, H]  dtype of x, or None             HBM
                 norm_weight  [P, J]  dtype of x                      HBM; element j P + p at (p, j)
                 w_qkv        [P, J, (heads + 2 kv_heads) D]  dtype of x  HBM; input j P + p
                              at (p, j)
                 q_norm       [D]     dtype of x                      HBM
                 k_norm       [D]     dtype of x                      HBM
                 cos          [T, D]  float32 or dtype of x           HBM
                 sin          [T, D]  dtype of cos                    HBM
                 eps          Python float > 0
                 kv_heads     Python int
                 rounding     string "fused" or "stepwise"
    Returns:     q [D, heads, T], k [D, kv_heads, T], v [T, kv_heads, D] and, with a residual, s
                 [T, H]; dtype of x  shared HBM
    Tiling:      hidden states as columns [P, J, T]; weights [P, J, 32 KiB per partition at a time],
                 stationary in tiles of one head; a head is a column of D partitions. Two cores:
                 each half of the query heads and of the key heads. One key head: each core projects
                 half of J to the whole key and value, and they exchange these parts.
    Engine plan: DMA: x and tables as rows; the weights in loads of up to 32 KiB per partition,
                 which wait for nothing. PE: one transpose per table, the products, sums over
                 partitions as products with ones, the exchange of halves as one with a permutation.
                 ACT: squares with fused sum, rsqrt. VE: the rest. sendrecv: [D, 2, T] fp32, during
                 the projection of queries.
    Bound:       HBM: H (heads + 2 kv_heads) D elements, each read once, by one core
    Numerics:    products and sums in fp32; "fused": n is rounded to the dtype of x, an operand, and
                 so are the results, nothing else; "stepwise": every operation, as the unfused
                 model. Sums over the cores are fp32 in both.
    Refuses:     other ranks, shapes and dtypes, heads that do not divide over groups or cores, more
                 columns than a PSUM bank has, eps <= 0, another rounding
    """
    name = "nki_qkv_decode_kernel"
    check_qkv_arguments(name, x, residual, norm_weight, w_qkv, q_norm, k_norm, cos, sin, kv_heads)
    check_eps(name, eps)
    inner = inner_dtype(name, rounding, x.dtype)
    tokens, hidden = x.shape
    head_dim = q_norm.shape[0]
    heads = w_qkv.shape[2] // head_dim - 2 * kv_heads

    identity_tile = identity(PARTITIONS, x.dtype)
    columns = load_columns(x, identity_tile)
    if residual != None:
        columns = add_columns(columns, load_columns(residual, identity_tile), inner)
    weight_tile = load_whole(norm_weight)
    tiles = load_qkv(w_qkv, heads, kv_heads, head_dim)
    norms = norm_constants(eps)
    layers = (1, head_dim)
    constants = head_constants(
        q_norm.reshape(layers),
        k_norm.reshape(layers),
        cos,
        sin,
        heads,
        kv_heads,
        identity_tile,
        inner,
    )

    normed = rmsnorm_columns(columns, weight_tile, norms, inner, x.dtype)
    rotated, rows = make_heads(normed, w_qkv, tiles, constants, norms, 0, heads, kv_heads, inner)
    queries = nl.ndarray((head_dim, heads, tokens), dtype=x.dtype, buffer=nl.shared_hbm)
    keys = nl.ndarray((head_dim, kv_heads, tokens), dtype=x.dtype, buffer=nl.shared_hbm)
    values = nl.ndarray((tokens, kv_heads, head_dim), dtype=x.dtype, buffer=nl.shared_hbm)
    store_heads(queries, keys, values, rotated, rows, heads, kv_heads)
    if residual == None:
        return queries, keys, values
    total = nl.ndarray((tokens, hidden), dtype=x.dtype, buffer=nl.shared_hbm)
    store_columns(total, evacuate(columns, x.dtype), identity_tile)
    return queries, keys, values, total
