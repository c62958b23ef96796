"""Projections of a prompt: RMSNorm with queries, keys and values, and the output projection."""

import nki
import nki.isa as nisa
import nki.language as nl

from kernels.nki_attention_kernels import load_signed_sin, load_table, rotate
from kernels.nki_common import (
    PARTITIONS,
    check_dtype,
    check_float,
    check_rank,
    check_shape,
    core_share,
    element_bytes,
    inner_dtype,
)
from kernels.nki_custom_rmsnorm import (
    check_norm_arguments,
    load_eps,
    load_weight,
    norm_rows,
    reciprocal_rms,
    scale_rows,
)
from kernels.nki_matmul_stages import (
    check_prompt,
    cut_ranges,
    evacuate_rows,
    load_heads,
    load_outputs,
    outputs_at_once,
    project_rows,
    store_heads,
    transpose_pieces,
)
from kernels.nki_patterns import identity

ROW_BYTES = 8192  # longest row of hidden states: six of them, two tiles in flight, are 96 KiB


def check_packed(kernel, name, weight, size, dtype):
    """Refuse a weight that is not packed for a contraction over `size` elements."""
    check_rank(kernel, name, weight, ("partitions", "columns", "outputs"))
    partitions, depth, _outputs = weight.shape
    assert partitions <= PARTITIONS and partitions * depth == size, (
        f"{kernel}: {name} must be packed as [P, J, outputs] with P J = {size} and P <= "
        f"{PARTITIONS}, received shape {tuple(weight.shape)}; use kernels.layouts.pack_linear"
    )
    check_dtype(kernel, name, weight, dtype)


def check_heads(kernel, outputs, head_dim, kv_heads):
    """Refuse widths that are not whole heads: some of queries for each of keys and values."""
    heads = outputs // head_dim - 2 * kv_heads
    assert head_dim % 2 == 0 and head_dim <= PARTITIONS and outputs % head_dim == 0, (
        f"{kernel}: heads must have an even head_dim of at most {PARTITIONS} that divides the "
        f"outputs, received {head_dim} for {outputs} outputs; q_norm has the length of a head"
    )
    assert kv_heads >= 1 and heads >= 1 and heads % kv_heads == 0, (
        f"{kernel}: query heads must be a multiple of kv_heads, received {heads} and {kv_heads}; "
        f"w_qkv holds queries, keys and values"
    )


def check_qkv_arguments(
    kernel, x, residual, norm_weight, w_qkv, q_norm, k_norm, cos, sin, eps, kv_heads, inner
):
    """Refuse what the kernel does not project: see its docstring."""
    check_norm_arguments(kernel, x, norm_weight, eps)
    tokens, hidden = x.shape
    if residual != None:
        check_shape(kernel, "residual", residual, (tokens, hidden))
        check_dtype(kernel, "residual", residual, x.dtype)
    check_packed(kernel, "w_qkv", w_qkv, hidden, x.dtype)
    check_rank(kernel, "q_norm", q_norm, ("head_dim",))
    head_dim = q_norm.shape[0]
    check_dtype(kernel, "q_norm", q_norm, x.dtype)
    check_shape(kernel, "k_norm", k_norm, (head_dim,))
    check_dtype(kernel, "k_norm", k_norm, x.dtype)
    check_heads(kernel, w_qkv.shape[2], head_dim, kv_heads)
    check_shape(kernel, "cos", cos, (tokens, head_dim))
    check_shape(kernel, "sin", sin, (tokens, head_dim))
    assert cos.dtype == x.dtype or (cos.dtype == nl.float32 and inner == nl.float32), (
        f"{kernel}: cos must have the dtype of x ({x.dtype}), or float32 if rounding is 'fused', "
        f"received {cos.dtype}; cast it before the call"
    )
    check_dtype(kernel, "sin", sin, cos.dtype)
    size = element_bytes(x.dtype)
    assert hidden * size <= ROW_BYTES, (
        f"{kernel}: rows may have at most {ROW_BYTES} B, received {hidden} elements of {size} B; "
        f"longer rows do not fit in SBUF with their intermediates"
    )
    check_prompt(kernel, tokens, w_qkv.shape[1], x.dtype)


def load_sum(source, first, count, inner):
    """[count, H] tile: rows of x, plus those of the residual if there is one.

    source is (x, residual, total, share): the sum has the dtype `inner`, and its columns in the
    range `share` go to `total` in the dtype of x.
    """
    x, residual, total, share = source
    hidden = x.shape[1]
    tile = nl.ndarray((count, hidden), dtype=x.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=tile, src=x[first : first + count, :])
    if residual == None:
        return tile
    other = nl.ndarray((count, hidden), dtype=x.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=other, src=residual[first : first + count, :])
    summed = nl.ndarray((count, hidden), dtype=inner, buffer=nl.sbuf)
    nisa.tensor_tensor(dst=summed, data1=tile, data2=other, op=nl.add)
    start, stop = share
    stored = summed
    if inner != x.dtype:
        stored = nl.ndarray((count, hidden), dtype=x.dtype, buffer=nl.sbuf)
        nisa.tensor_copy(dst=stored[:, start:stop], src=summed[:, start:stop])
    nisa.dma_copy(dst=total[first : first + count, start:stop], src=stored[:, start:stop])
    return summed


def normed_columns(source, norm_tile, eps_column, first, count, partitions, eye, inner):
    """[P, J, count] tile: normed rows from `first` as columns; source as in load_sum."""
    rows = load_sum(source, first, count, inner)
    hidden = rows.shape[1]
    normed = nl.ndarray((count, hidden), dtype=source[0].dtype, buffer=nl.sbuf)
    norm_rows(normed, rows, norm_tile, eps_column, inner)
    depth = hidden // partitions
    columns = nl.ndarray((partitions, depth, count), dtype=normed.dtype, buffer=nl.sbuf)
    transpose_pieces(columns, 0, 0, normed, eye, room=eye.shape[0])
    return columns


def repeat_weight(dst, weight, count):
    """dst [lines, count * width] = a weight [width] in HBM, `count` times on every partition."""
    lines = dst.shape[0]
    width = weight.shape[0]
    tile = load_weight(weight, lines, width, 1)
    pattern = [[width, lines], [0, count], [1, width]]
    nisa.tensor_copy(dst=dst, src=tile.ap(pattern=pattern, offset=0))


def load_head_norms(q_norm, k_norm, queries, keys, lines):
    """[lines, (queries + keys) D] tile: the norm weight of every head, on every partition."""
    width = q_norm.shape[0]
    tile = nl.ndarray((lines, (queries + keys) * width), dtype=q_norm.dtype, buffer=nl.sbuf)
    middle = queries * width
    if queries > 0:
        repeat_weight(tile[:, 0:middle], q_norm, queries)
    if keys > 0:
        repeat_weight(tile[:, middle : middle + keys * width], k_norm, keys)
    return tile


def turn_heads(columns, place, sums, head_norms, cos, sin, eps_column, first, eye, inner):
    """columns [D, heads, tokens] from `place` on: norm and RoPE of the first heads of `sums`.

    The tokens of `sums` are those from `first` on in the tables.
    """
    count = sums[0].shape[0]
    head_dim = columns.shape[0]
    heads = columns.shape[1]
    cos_tile = load_table(cos, first, count, 1)
    sin_tile = load_signed_sin(sin, first, count, 1)
    rows = nl.ndarray((count, heads * head_dim), dtype=inner, buffer=nl.sbuf)
    evacuate_rows(rows, sums, 0)
    rstd = reciprocal_rms(rows, eps_column, heads, 1)
    scale_rows(rows, rows, rstd, head_norms, heads)
    turned = nl.ndarray((count, heads * head_dim), dtype=columns.dtype, buffer=nl.sbuf)
    rotate(turned, rows, cos_tile, sin_tile, heads)
    transpose_pieces(columns, 0, place, turned, eye, room=eye.shape[0])


def store_values(v, column, sums, begin, count, first, tokens):
    """v [kv heads, S, D] at tokens `first` .. = `count` columns of `sums` from `begin`.

    They are whole heads or a part of one; `column` counts v's, of all its heads, up to the first.
    """
    _heads, prompt, head_dim = v.shape
    rows = nl.ndarray((tokens, count), dtype=v.dtype, buffer=nl.sbuf)
    evacuate_rows(rows, sums, begin)
    width = min(count, head_dim)
    pattern = [[head_dim, tokens], [prompt * head_dim, count // width], [1, width]]
    head = column // head_dim
    offset = (head * prompt + first) * head_dim + column - head * head_dim
    nisa.dma_copy(dst=v.ap(pattern=pattern, offset=offset), src=rows)


def divides_heads(tokens, hidden, heads, kv_heads):
    """Whether the cores divide the heads of all tokens; otherwise each has all heads of its tokens.

    With one tile of tokens: two shorter ones would take as long, and would need all weights each.
    Where heads do not divide equally, the cores would not run the same instructions.
    """
    cores = nl.num_programs(0)
    equal = heads % cores == 0 and (kv_heads == 1 or kv_heads % cores == 0) and hidden % cores == 0
    return cores > 1 and tokens <= PARTITIONS and equal


def token_share(kernel, tokens, divided):
    """(first, stop, size): this core's tokens, all if heads are `divided`, and those of a tile.

    Every core has as many tiles as the others, of the same size: even, because tiles in PSUM begin
    at multiples of 4 bytes.
    """
    cores = 1 if divided else nl.num_programs(0)
    assert tokens >= cores, (
        f"{kernel}: {cores} cores divide heads equally or have a token each, received {tokens} "
        f"token and heads that do not divide; launch it on one core"
    )
    most = (tokens + cores - 1) // cores
    tiles = (most + PARTITIONS - 1) // PARTITIONS
    size = (most + tiles - 1) // tiles
    first, stop = (0, tokens) if divided else core_share(tokens)
    return first, stop, size + size % 2


def column_shares(heads, kv_heads, head_dim, divided):
    """Ranges of columns of w_qkv, of queries, of keys and of values: all, or this core's share.

    A single key head is every core's, since its norm and RoPE take it whole; values can be cut.
    """
    first_key = heads * head_dim
    first_value = first_key + kv_heads * head_dim
    if not divided:
        return (0, first_key), (first_key, first_value), (first_value, 2 * first_value - first_key)
    begin, end = core_share(heads)
    queries = (begin * head_dim, end * head_dim)
    begin, end = core_share(kv_heads) if kv_heads > 1 else (0, 1)
    keys = (first_key + begin * head_dim, first_key + end * head_dim)
    begin, end = core_share(kv_heads * head_dim)
    return queries, keys, (first_value + begin, first_value + end)


@nki.jit
def nki_qkv_prefill_kernel(
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
    """Residual addition, RMSNorm, QKV, norms of the heads and RoPE of up to 2560 tokens.

    Math:        t = x + residual, or x; n = RMSNorm(t) * norm_weight; [q, k, v] = n @ W
                 q, k = RoPE(RMSNorm of each head * q_norm or k_norm), see nki_rope_kernel
    Dimensions:  S tokens, H hidden, D head_dim (even, <= 128), N = (heads + 2 kv heads) D
                 H = J P: element j P + p of a row at column j of partition p, P = 128
    Args:        x            [S, H]     float32 or bfloat16  HBM
                 residual     [S, H]     dtype of x           HBM, or None
                 norm_weight  [H]        dtype of x           HBM
                 w_qkv        [P, J, N]  dtype of x           HBM, queries, keys, values
                 q_norm       [D]        dtype of x           HBM
                 k_norm       [D]        dtype of x           HBM
                 cos          [S, D]     dtype of x           HBM, or float32 if fused
                 sin          [S, D]     dtype of cos         HBM
                 eps          Python float > 0
                 kv_heads     Python int
                 rounding     Python string, "fused" or "stepwise"
    Returns:     (q [heads, D, S], k [kv heads, D, S], v [kv heads, S, D]) and, with a residual,
                 t [S, H]; dtype of x  shared HBM
    Tiling:      equal tiles of up to 128 tokens: their rows are normed, transposed in J pieces of
                 [128, P] to [P, J, 128] and kept. w_qkv comes in parts of whole heads, up to 40 KiB
                 per partition and 1536 columns, by 4 DMAs each (10 heads of 128 in bfloat16 are one
                 part: runs of 10 KiB); a part is read once and meets all tokens. A matmul has 128
                 tokens as stationary and up to 512 outputs as moving operand.
                 Cores, up to 128 tokens: equal shares of query heads, of key heads and of columns
                 of values, by 12 DMAs. A single key head is turned on both and stored by halves.
                 Each reads x and residual whole and N / 2 columns of weights, D / 2 more for a
                 single key head, norms all tokens and stores half of every row of t.
                 Over 128 tokens, or where heads do not divide: half of the tokens, and all heads.
                 Each reads S / 2 rows of x and residual and N columns: with 8 query heads and 1 kv
                 head of 128, H = 2048, a quarter more than by heads for 256 tokens and 3 % less for
                 640, but it norms half of the tokens. Both run the same instructions.
    Engine plan: PE: J transposes and J N / 512 matmuls per tile, one transpose per head. ACT:
                 squares with fused sums, rsqrt. VE: additions, scales, RoPE, PSUM to SBUF. GpSimd:
                 the identity. The next tile is normed between a tile's matmuls and its heads, so
                 that PE and VE need not wait for each other.
    Bound:       VE, by about 4 H + 7 D (a core's heads + kv heads) elements per partition and tile,
                 or HBM, by H N elements of weights, by tokens once per core: the two are close up
                 to 256 tokens, then it is VE
    Numerics:    fused: everything fp32 but the normed rows, which are an operand, and the results.
                 stepwise: every operation's result is rounded to the dtype of x, as in
                 transformers' Qwen3MoeDecoderLayer. Products are summed in fp32 in the hardware's
                 order.
    Refuses:     other ranks, empty tensors, other dtypes, tensors of other layers, an odd D or one
                 over 128, heads that are no multiple of kv_heads, rows of more than 8 KiB, more
                 tokens than fit (J S elements in 80 KiB), eps <= 0, another rounding; on two cores
                 one token whose heads do not divide
    """
    name = "nki_qkv_prefill_kernel"
    inner = inner_dtype(name, rounding, x.dtype)
    check_qkv_arguments(
        name, x, residual, norm_weight, w_qkv, q_norm, k_norm, cos, sin, eps, kv_heads, inner
    )
    tokens, hidden = x.shape
    head_dim = q_norm.shape[0]
    heads = w_qkv.shape[2] // head_dim - 2 * kv_heads
    divided = divides_heads(tokens, hidden, heads, kv_heads)
    begin, end, size = token_share(name, tokens, divided)
    queries, keys, values = column_shares(heads, kv_heads, head_dim, divided)
    share = core_share(hidden) if divided else (0, hidden)
    elements = core_share(head_dim) if divided and kv_heads == 1 else (0, head_dim)

    q = nl.ndarray((heads, head_dim, tokens), dtype=x.dtype, buffer=nl.shared_hbm)
    k = nl.ndarray((kv_heads, head_dim, tokens), dtype=x.dtype, buffer=nl.shared_hbm)
    v = nl.ndarray((kv_heads, tokens, head_dim), dtype=x.dtype, buffer=nl.shared_hbm)
    total = x
    if residual != None:
        total = nl.ndarray((tokens, hidden), dtype=x.dtype, buffer=nl.shared_hbm)
    norm_tile = load_weight(norm_weight, size, hidden, 1)
    eps_column = load_eps(eps, size)
    eye = identity(size, x.dtype)
    partitions = w_qkv.shape[0]
    source = (x, residual, total, share)
    count = min(size, end - begin)
    normed = [
        normed_columns(source, norm_tile, eps_column, begin, count, partitions, eye, inner)
    ]  # one per tile of tokens, made when the tile before it has been projected for the first time
    first_key = queries[1] - queries[0]
    first_value = first_key + keys[1] - keys[0]
    outputs = first_value + values[1] - values[0]
    owned = [queries, keys, values] if divided else [(0, outputs)]
    part = outputs_at_once(outputs, head_dim, w_qkv)
    for start in range(0, outputs, part):
        stop = min(start + part, outputs)
        asking = max(min(stop, first_key) - start, 0) // head_dim
        turning = max(min(stop, first_value) - start, 0) // head_dim
        weights = load_outputs(w_qkv, cut_ranges(owned, start, stop))
        if turning > 0:
            head_norms = load_head_norms(q_norm, k_norm, asking, turning - asking, size)
            columns = nl.ndarray((head_dim, turning, end - begin), dtype=x.dtype, buffer=nl.sbuf)
        for first in range(begin, end, size):
            place = first - begin
            count = min(size, end - first)
            sums = project_rows(normed[place // size], 0, count, weights)
            ahead = first + size
            if ahead < end and len(normed) == (ahead - begin) // size:
                more = min(size, end - ahead)
                normed.append(
                    normed_columns(
                        source, norm_tile, eps_column, ahead, more, partitions, eye, inner
                    )
                )
            if turning > 0:
                turn_heads(
                    columns, place, sums, head_norms, cos, sin, eps_column, first, eye, inner
                )
            turned = turning * head_dim
            if start + turned < stop:
                value = values[0] + max(start - first_value, 0) - (heads + kv_heads) * head_dim
                store_values(v, value, sums, turned, stop - start - turned, first, count)
        if asking > 0:
            query = (queries[0] + start) // head_dim
            store_heads(q, query, 0, begin, columns[:, 0:asking, :])
        if turning > asking:
            key = (keys[0] + max(start - first_key, 0)) // head_dim - heads
            from_element, to_element = elements
            held = columns[from_element:to_element, asking:turning, :]
            store_heads(k, key, from_element, begin, held)
    if residual == None:
        return q, k, v
    return q, k, v, total


@nki.jit
def nki_output_projection_prefill_kernel(attended, w_o, loads=8):
    """Output projection of the attended heads of up to 5120 tokens: this rank's part of the sum.

    Math:        y[s, n] = sum over d, h of attended[h, d, s] * w_o[d, h, n]
    Dimensions:  S tokens, heads, D head_dim (<= 128), H hidden
    Args:        attended  [heads, D, S]  float32 or bfloat16  HBM
                 w_o       [D, heads, H]  dtype of attended    HBM, element (d, h, n) is that of
                           output n and input h D + d: pack_linear(weight, D) of kernels.layouts
                 loads     Python int: DMAs per part of the weight
    Returns:     [S, H]  dtype of attended  shared HBM
    Tiling:      attended lies as it comes, [D, heads, S]: D is contracted on the partitions, heads
                 in PSUM. w_o comes in equal parts of up to 40 KiB per partition and 1536 columns,
                 each read once and met by all tokens, 128 at a time as stationary operand, with
                 up to 512 outputs as moving operand. The last tile holds the tokens left over.
                 Cores: consecutive shares of H, so that each reads half of the weight.
    Engine plan: DMA: attended once, `loads` per part of weight, one store per tile and part. PE:
                 heads x H / 512 matmuls per tile. VE: one pass from PSUM to SBUF.
    Bound:       up to 128 tokens HBM, by heads D H elements of the weight; then PE with
                 S heads D H / 16384 columns of 128 x 128 products
    Numerics:    fp32 sums in the hardware's order, one rounding to the dtype of attended
    Refuses:     other ranks, empty tensors, other dtypes, a weight of other heads, D over 128, more
                 tokens than fit (heads S elements in 80 KiB)
    """
    name = "nki_output_projection_prefill_kernel"
    check_rank(name, "attended", attended, ("heads", "head_dim", "tokens"))
    check_float(name, "attended", attended)
    heads, head_dim, tokens = attended.shape
    check_rank(name, "w_o", w_o, ("head_dim", "heads", "hidden"))
    hidden = w_o.shape[2]
    check_shape(name, "w_o", w_o, (head_dim, heads, hidden))
    check_dtype(name, "w_o", w_o, attended.dtype)
    assert head_dim <= PARTITIONS, (
        f"{name}: head_dim may be at most {PARTITIONS}, received {head_dim}; it is contracted on "
        f"the partitions"
    )
    check_prompt(name, tokens, heads, attended.dtype)

    out = nl.ndarray((tokens, hidden), dtype=attended.dtype, buffer=nl.shared_hbm)
    begin, end = core_share(hidden)
    columns = load_heads(attended, 0, heads)
    part = outputs_at_once(end - begin, 1, w_o)
    for start in range(begin, end, part):
        stop = min(start + part, end)
        weights = load_outputs(w_o, [(start, stop)], loads)
        for first in range(0, tokens, PARTITIONS):
            count = min(PARTITIONS, tokens - first)
            sums = project_rows(columns, first, count, weights)
            rows = nl.ndarray((count, stop - start), dtype=attended.dtype, buffer=nl.sbuf)
            evacuate_rows(rows, sums, 0)
            nisa.dma_copy(dst=out[first : first + count, start:stop], src=rows)
    return out
