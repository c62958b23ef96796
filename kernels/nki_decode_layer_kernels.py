"""Kernel of a decode step's layers: attention and experts in one launch, the residual on chip.

It puts the stages of `nki_decode_qkv_kernels`, `nki_decode_attention_kernels` and
`nki_decode_moe_kernels` in order; what is its own is when weights are loaded. How the sums over
tensor-parallel ranks are made is passed in, because collectives are not in every release.
"""

import nki
import nki.isa as nisa
import nki.language as nl

from kernels.nki_common import PARTITIONS, check_dtype, check_float, check_rank, check_shape
from kernels.nki_decode_attention_kernels import (
    attend_groups,
    attention_constants,
    check_cache,
    load_cache,
    load_position,
    output_part,
    project_output,
    write_cache,
)
from kernels.nki_decode_common import (
    BANK,
    LOAD_BYTES,
    add_columns,
    check_eps,
    check_tokens,
    column_partitions,
    evacuate,
    exchange_and_add,
    identity,
    inner_dtype,
    load_columns,
    load_linear,
    load_whole,
    norm_constants,
    prefetch_linear,
    rmsnorm_columns,
    share,
    store_columns,
)
from kernels.nki_decode_moe_kernels import (
    broadcast_choices,
    expert_buffers,
    experts_columns,
    route_columns,
)
from kernels.nki_decode_qkv_kernels import (
    check_heads,
    check_tables,
    head_constants,
    load_kv_weight,
    load_qkv,
    make_heads,
    share_contraction,
    share_kv,
)
from kernels.nki_moe_kernels import CHOSEN
from kernels.nki_patterns import bytes_of

# Bytes per partition for weights and caches, of the 212984 that the smallest core with two physical
# ones offers; the rest holds constants, activations and the stack's new keys and values.
WEIGHT_ROOM = 180224


# When weights are loaded.


def attention_bytes(w_qkv, w_o, w_router, k_cache, heads):
    """Bytes per partition of what one layer needs before its experts, on one core."""
    _layers, kv_heads, head_dim, capacity = k_cache.shape
    columns = w_qkv.shape[2]
    kv_count = share_kv(kv_heads)[1]
    steps = share_contraction(kv_heads, columns)[1]
    queries = share(heads)[1]
    blocks = capacity // column_partitions(capacity)
    elements = columns * queries * head_dim + steps * 2 * kv_count * head_dim
    elements = elements + queries * w_o.shape[3] + columns * (w_router.shape[3] + 2)
    elements = elements + kv_count * (capacity + blocks * head_dim)
    return elements * bytes_of(w_qkv.dtype)


def plan_loads(layer_bytes, expert_bytes):
    """(layers whose weights are on chip at once, bytes per partition left for experts).

    2: the next layer's weights come in while a layer attends; 1: while it routes, in the place of
    its own; both with two experts besides, one computed, one on its way. 0: each load in its
    turn, and besides the experts two of them and the weights of keys and values at once.
    """
    if 2 * layer_bytes + 2 * expert_bytes <= WEIGHT_ROOM:
        return 2, WEIGHT_ROOM - 2 * layer_bytes
    if layer_bytes + 2 * expert_bytes <= WEIGHT_ROOM:
        return 1, WEIGHT_ROOM - layer_bytes
    room = WEIGHT_ROOM - 3 * LOAD_BYTES
    assert expert_bytes <= room, (
        f"an expert's weights must take at most {room} bytes per partition, received "
        f"{expert_bytes}; share the experts' width among more ranks"
    )
    return 0, room


def load_layer(weights, caches, layer, heads, ahead):
    """What one layer needs before its experts: tiles, on their way before their turn if `ahead`.

    (input norm, (query tiles, key and value tile), cache tiles, output tiles, post norm, router).
    """
    input_norm, w_qkv, w_o, post_norm, w_router = weights
    k_cache, v_cache = caches
    kv_heads, head_dim = k_cache.shape[1], k_cache.shape[2]
    first, count = share_kv(kv_heads)
    norm_tile = load_whole(input_norm[layer])
    if ahead:
        qkv_tiles = load_qkv(w_qkv[layer], heads, kv_heads, head_dim)
    else:
        qkv_tiles = (None, load_kv_weight(w_qkv[layer], heads, kv_heads, head_dim))
    cache_tiles = []
    for head in range(count):
        cache_tiles.append(load_cache(k_cache, v_cache, layer * kv_heads + first + head))
    output_tiles = None
    if ahead:
        width = column_partitions(w_o.shape[3])
        output_tiles = prefetch_linear(w_o[layer], output_part(w_o[layer]), width)
    router_tile = load_linear(w_router[layer], 0, w_router.shape[2], 0, w_router.shape[3])
    return (
        norm_tile,
        qkv_tiles,
        cache_tiles,
        output_tiles,
        load_whole(post_norm[layer]),
        router_tile,
    )


# The two halves of a layer.


def sum_parts(part, inner, over_ranks, group, name):
    """The sum of all cores' and ranks' parts [P, J, T] fp32, rounded to `inner` between them.

    `name` is this sum's own, for what it allocates in HBM.
    """
    part = exchange_and_add(part)
    if inner != nl.float32:
        part = evacuate(part, inner)
    if over_ranks != None:
        part = over_ranks(part, group, name)
    return part


def attention_block(total, weights, tiles, constants, news, layer, heads, kv_heads, inner):
    """[P, J, T] fp32: this core's part of the attention block's output for total [P, J, T].

    weights (w_qkv, w_o) of the layer in HBM; `tiles` from `load_layer`; constants (norms, heads',
    attention's); `news` (keys [D, L, kv, T], values [T, L, kv, D]) receives the new ones.
    """
    norm_tile, qkv_tiles, cache_tiles, output_tiles = tiles[0], tiles[1], tiles[2], tiles[3]
    norms, of_heads, of_attention = constants
    dtype = norm_tile.dtype
    normed = rmsnorm_columns(total, norm_tile, norms, inner, dtype)
    heads_tile, rows = make_heads(
        normed, weights[0], qkv_tiles, of_heads, norms, layer, heads, kv_heads, inner
    )
    count = heads_tile.shape[1]
    keys, values = news
    nisa.tensor_copy(dst=keys[:, layer, :, :], src=heads_tile[:, count - keys.shape[2] : count, :])
    nisa.tensor_copy(dst=values[:, layer, :, :], src=rows)
    attended = attend_groups(heads_tile, rows, cache_tiles, of_attention, inner)
    return project_output(weights[1], output_tiles, attended)


def experts_block(total, tiles, norms, identity_tile, w_gate_up, w_down, buffers, layer, inner):
    """[P, J, T] fp32: this core's part of the experts' output for total [P, J, T].

    w_gate_up [L E, P, J, 2 I] and w_down [L E, P', J', H] in HBM; `identity_tile` fp32.
    """
    post_tile, router_tile = tiles[4], tiles[5]
    normed = rmsnorm_columns(total, post_tile, norms, inner, post_tile.dtype)
    shares, experts = route_columns(normed, router_tile, inner)
    shares, experts = broadcast_choices(shares, experts, identity_tile)
    if layer > 0:
        nisa.tensor_scalar(
            dst=experts,
            data=experts,
            op0=nl.add,
            operand0=float(layer * router_tile.shape[2]),
        )
    return experts_columns(normed, shares, experts, w_gate_up, w_down, buffers, inner)


def decoder_layers(
    total, weights, experts, caches, constants, news, heads, inner, over_ranks, group
):
    """The last layer's total [P, J, T] in dtype `inner`, from the first one's input.

    weights (input norm, w_qkv, w_o, post norm, w_router) and experts (w_gate_up, w_down) of all
    layers in HBM; `constants` as for `attention_block`.
    """
    _input_norm, w_qkv, w_o, _post_norm, w_router = weights
    w_gate_up, w_down = experts
    layers, kv_heads = caches[0].shape[0], caches[0].shape[1]
    many = layers * w_gate_up.shape[1]
    gate_up = w_gate_up.reshape((many, w_gate_up.shape[2], w_gate_up.shape[3], w_gate_up.shape[4]))
    down = w_down.reshape((many, w_down.shape[2], w_down.shape[3], w_down.shape[4]))
    expert_elements = gate_up.shape[2] * gate_up.shape[3] + down.shape[2] * down.shape[3]
    at_once, room = plan_loads(
        attention_bytes(w_qkv, w_o, w_router, caches[0], heads),
        expert_elements * bytes_of(w_down.dtype),
    )
    buffers = expert_buffers(gate_up, down, total.shape[2] * share(CHOSEN)[1], room)
    identity_tile = constants[2][2]
    tiles = load_layer(weights, caches, 0, heads, at_once > 0)
    following = None
    for layer in range(layers):
        last = layer == layers - 1
        if at_once == 2 and not last:
            following = load_layer(weights, caches, layer + 1, heads, True)
        pair = (w_qkv[layer], w_o[layer])
        part = attention_block(total, pair, tiles, constants, news, layer, heads, kv_heads, inner)
        part = sum_parts(part, inner, over_ranks, group, f"attention_{layer}")
        total = add_columns(total, part, inner)
        router_tiles = (None, None, None, None, tiles[4], tiles[5])
        tiles = None
        if at_once == 1 and not last:
            following = load_layer(weights, caches, layer + 1, heads, True)
        part = experts_block(
            total, router_tiles, constants[0], identity_tile, gate_up, down, buffers, layer, inner
        )
        part = sum_parts(part, inner, over_ranks, group, f"experts_{layer}")
        total = add_columns(total, part, inner)
        if at_once == 0 and not last:
            following = load_layer(weights, caches, layer + 1, heads, False)
        tiles = following
        following = None
    return total


def check_stack_arguments(kernel, x, attention, experts, caches, position, tables, eps):
    """Refuse layers that do not belong together, or that the stages do not compute."""
    input_norm, w_qkv, q_norm, k_norm, w_o = attention
    post_norm, w_router, w_gate_up, w_down = experts
    check_rank(kernel, "x", x, ("tokens", "hidden"))
    check_float(kernel, "x", x)
    check_eps(kernel, eps)
    tokens, hidden = x.shape
    check_tokens(kernel, tokens, hidden)
    lines = column_partitions(hidden)
    columns = hidden // lines
    k_cache = caches[0]
    check_rank(kernel, "k_cache", k_cache, ("layers", "kv_heads", "head_dim", "capacity"))
    layers, kv_heads, head_dim, _capacity = k_cache.shape
    check_shape(kernel, "input_norm", input_norm, (layers, lines, columns))
    check_shape(kernel, "post_norm", post_norm, (layers, lines, columns))
    check_rank(kernel, "w_o", w_o, ("layers", "head_dim", "heads", "hidden"))
    heads = w_o.shape[2]
    check_shape(kernel, "w_o", w_o, (layers, head_dim, heads, hidden))
    check_heads(kernel, heads, kv_heads, head_dim)
    outputs = (heads + 2 * kv_heads) * head_dim
    check_shape(kernel, "w_qkv", w_qkv, (layers, lines, columns, outputs))
    check_shape(kernel, "q_norm", q_norm, (layers, head_dim))
    check_shape(kernel, "k_norm", k_norm, (layers, head_dim))
    check_rank(kernel, "w_router", w_router, ("layers", "partitions", "columns", "experts"))
    count = w_router.shape[3]
    check_shape(kernel, "w_router", w_router, (layers, lines, columns, count))
    check_rank(
        kernel, "w_gate_up", w_gate_up, ("layers", "experts", "partitions", "columns", "2 I")
    )
    width = w_gate_up.shape[4] // 2
    check_shape(kernel, "w_gate_up", w_gate_up, (layers, count, lines, columns, 2 * width))
    down_lines = column_partitions(width)
    check_shape(kernel, "w_down", w_down, (layers, count, down_lines, width // down_lines, hidden))
    check_dtype(kernel, "input_norm", input_norm, x.dtype)
    check_dtype(kernel, "w_qkv", w_qkv, x.dtype)
    check_dtype(kernel, "q_norm", q_norm, x.dtype)
    check_dtype(kernel, "k_norm", k_norm, x.dtype)
    check_dtype(kernel, "w_o", w_o, x.dtype)
    check_dtype(kernel, "post_norm", post_norm, x.dtype)
    check_dtype(kernel, "w_router", w_router, x.dtype)
    check_dtype(kernel, "w_gate_up", w_gate_up, x.dtype)
    check_dtype(kernel, "w_down", w_down, x.dtype)
    check_cache(kernel, k_cache, caches[1], position, tokens, heads // kv_heads, x.dtype)
    assert CHOSEN <= count and count <= BANK and layers <= PARTITIONS, (
        f"{kernel}: {CHOSEN} to {BANK} experts and at most {PARTITIONS} layers, received {count} "
        f"and {layers}; launch it more than once"
    )
    check_tables(kernel, tables, (tokens, head_dim), x.dtype)


def decoder_stack(kernel, x, attention, experts, caches, position, tables, settings):
    """(hidden, k_cache, v_cache): all layers, from HBM to HBM; what the kernels consist of.

    attention (input_norm, w_qkv, q_norm, k_norm, w_o); experts (post_norm, w_router, w_gate_up,
    w_down); settings (eps, rounding, over_ranks, group), of which over_ranks sums a tile over the
    ranks of `group`, or is None.
    """
    eps, rounding, over_ranks, group = settings
    check_stack_arguments(kernel, x, attention, experts, caches, position, tables, eps)
    inner = inner_dtype(kernel, rounding, x.dtype)
    input_norm, w_qkv, q_norm, k_norm, w_o = attention
    post_norm, w_router, w_gate_up, w_down = experts
    k_cache, v_cache = caches
    tokens, hidden = x.shape
    layers, kv_heads, head_dim, capacity = k_cache.shape
    heads = w_o.shape[2]
    kv_count = share_kv(kv_heads)[1]

    identity_tile = identity(PARTITIONS, x.dtype)
    total = load_columns(x, identity_tile)
    lines = column_partitions(capacity)
    position_tile = load_position(position, lines)
    constants = (
        norm_constants(eps),
        head_constants(q_norm, k_norm, tables[0], tables[1], identity_tile, inner),
        attention_constants(
            position_tile, capacity // lines, tokens, share(heads)[1] // kv_count, x.dtype, inner
        ),
    )
    news = (
        nl.ndarray((head_dim, layers, kv_count, tokens), dtype=x.dtype, buffer=nl.sbuf),
        nl.ndarray((tokens, layers, kv_count, head_dim), dtype=x.dtype, buffer=nl.sbuf),
    )
    weights = (input_norm, w_qkv, w_o, post_norm, w_router)
    total = decoder_layers(
        total,
        weights,
        (w_gate_up, w_down),
        caches,
        constants,
        news,
        heads,
        inner,
        over_ranks,
        group,
    )
    out = nl.ndarray((tokens, hidden), dtype=x.dtype, buffer=nl.shared_hbm)
    store_columns(out, evacuate(total, x.dtype), identity_tile)
    write_cache(k_cache, v_cache, news[0], news[1], position_tile, kv_heads)
    return out, k_cache, v_cache


@nki.jit
def nki_decoder_stack_kernel(
    x,
    input_norm,
    w_qkv,
    q_norm,
    k_norm,
    w_o,
    post_norm,
    w_router,
    w_gate_up,
    w_down,
    k_cache,
    v_cache,
    position,
    cos,
    sin,
    eps,
    rounding="fused",
):
    """1 to 128 decoder layers of 1 to 8 tokens in one launch, on one tensor-parallel rank.

    Math:        for every layer: x += output_projection(attention(qkv(x))),
                 x += experts(router(x)), as the kernels of these names compute them
    Dimensions:  L layers, T tokens, H hidden = P J, D head_dim, heads, kv_heads, C capacity,
                 E experts, I = P' J' their width
    Args:        x           [T, H]                 float32 or bfloat16  HBM
                 input_norm  [L, P, J]              dtype of x           HBM
                 w_qkv       [L, P, J, (heads + 2 kv_heads) D]  dtype of x  HBM
                 q_norm      [L, D]                 dtype of x           HBM
                 k_norm      [L, D]                 dtype of x           HBM
                 w_o         [L, D, heads, H]       dtype of x           HBM
                 post_norm   [L, P, J]              dtype of x           HBM
                 w_router    [L, P, J, E]           dtype of x           HBM
                 w_gate_up   [L, E, P, J, 2 I]      dtype of x           HBM; gate before up
                 w_down      [L, E, P', J', H]      dtype of x           HBM
                 k_cache     [L, kv_heads, D, C]    dtype of x           HBM, written in place
                 v_cache     [L, kv_heads, C, D]    dtype of x           HBM, written in place
                 position    [1, 1]                 int32                HBM; position + T <= C
                 cos         [T, D]                 float32 or dtype of x  HBM
                 sin         [T, D]                 dtype of cos         HBM
                 eps         Python float > 0
                 rounding    string "fused" or "stepwise"
    Returns:     hidden [T, H]  dtype of x  shared HBM, k_cache, v_cache
    Tiling:      the stages' own; between them columns [P, J, T] stay on chip. Two cores: as in the
                 stages, with two exchanges of sums per layer; the residual is on both.
    Engine plan: DMA: while a layer attends, the next one's weights up to the router's come in
                 (while it routes, or in their turn, where SBUF does not hold two layers'); experts
                 are double buffered. The caches of all layers are read early and written last, by
                 one DMA each and, if two cores read the same head, behind a barrier.
    Bound:       HBM: per layer H (heads + 2 kv_heads) D + heads D H + H E + 8 T 3 H I elements of
                 weights and 2 kv_heads C D of the caches
    Numerics:    the stages'. "fused": the residual and the sums over cores and ranks stay fp32, one
                 rounding at the end; "stepwise": each of them is rounded to the dtype of x
    Refuses:     other ranks, shapes and dtypes, heads that do not divide over groups or cores, a
                 capacity that does not spread over partitions, less than 8 or more than 512
                 experts, more columns than a PSUM bank has, eps <= 0, another rounding
    """
    return decoder_stack(
        "nki_decoder_stack_kernel",
        x,
        (input_norm, w_qkv, q_norm, k_norm, w_o),
        (post_norm, w_router, w_gate_up, w_down),
        (k_cache, v_cache),
        position,
        (cos, sin),
        (eps, rounding, None, None),
    )
