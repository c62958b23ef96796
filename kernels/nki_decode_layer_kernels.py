"""Kernel of a decode step's layers: attention and experts in one launch, the residual on chip.

It puts the stages of `nki_decode_qkv_kernels`, `nki_decode_attention_kernels` and
`nki_decode_moe_kernels` in order; what is its own is when weights are loaded. How the sums over
tensor-parallel ranks are made is passed in, because collectives are not in every release.
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
    element_bytes,
    inner_dtype,
)
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
from kernels.nki_patterns import identity

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
    return elements * element_bytes(w_qkv.dtype)


def plan_loads(layer_bytes, expert_bytes):
    """(whether weights come in before their turn, bytes per partition left for experts).

    If so, the next layer's take the place of this one's as soon as that is free, with two experts
    besides, one computed, one on its way. Otherwise each load waits for its turn, and besides the
    experts there are two of them and the weights of keys and values at once.
    """
    if layer_bytes + 2 * expert_bytes <= WEIGHT_ROOM:
        return True, WEIGHT_ROOM - layer_bytes
    room = WEIGHT_ROOM - 3 * LOAD_BYTES
    assert expert_bytes <= room, (
        f"an expert's weights must take at most {room} bytes per partition, received "
        f"{expert_bytes}; share the experts' width among more ranks"
    )
    return False, room


def load_projection(weights, layer, heads, kv_heads, head_dim, ahead, paced):
    """What a layer begins with: (input norm, (query tiles, key and value tile)).

    On their way before their turn if `ahead`; see `bring_in` for `paced`.
    """
    input_norm, w_qkv = weights[0], weights[1]
    norm_tile = load_whole(input_norm[layer], paced)
    if ahead:
        return norm_tile, load_qkv(w_qkv[layer], heads, kv_heads, head_dim, paced)
    return norm_tile, (None, load_kv_weight(w_qkv[layer], heads, kv_heads, head_dim))


def load_rest(weights, caches, layer, ahead, paced):
    """What it needs from there to its experts: (caches, output tiles, post norm, router)."""
    _input_norm, _w_qkv, w_o, post_norm, w_router = weights
    k_cache, v_cache = caches
    kv_heads = k_cache.shape[1]
    first, count = share_kv(kv_heads)
    cache_tiles = []
    for head in range(count):
        cache_tiles.append(load_cache(k_cache, v_cache, layer * kv_heads + first + head, paced))
    output_tiles = None
    if ahead:
        width = column_partitions(w_o.shape[3])
        output_tiles = prefetch_linear(w_o[layer], output_part(w_o[layer]), width, paced)
    columns, outputs = w_router.shape[2], w_router.shape[3]
    router_tile = load_linear(w_router[layer], 0, columns, 0, outputs, paced)
    return cache_tiles, output_tiles, load_whole(post_norm[layer], paced), router_tile


def hold_back(part):
    """GpSimd reads a column of a tile [P, J, T]: the loads that it triggers later wait for that."""
    column = nl.ndarray((part.shape[0], 1), dtype=part.dtype, buffer=nl.sbuf)
    nisa.tensor_copy(dst=column, src=part[:, 0, 0:1], engine=nisa.engine.gpsimd)


# The two halves of a layer.


def sum_parts(part, inner, over_ranks, group, together, name):
    """The sum of all cores' and ranks' parts [P, J, T] fp32, rounded to `inner` between them.

    `name` is this sum's own, for what it allocates in HBM. If `together` and nothing is rounded in
    between, the sum over the ranks takes the cores' parts as they are.
    """
    if over_ranks != None and inner == nl.float32 and together:
        return over_ranks(part, group, name, True)
    part = exchange_and_add(part)
    if inner != nl.float32:
        part = evacuate(part, inner)
    if over_ranks != None:
        part = over_ranks(part, group, name, False)
    return part


def attention_block(
    total, weights, projection, rest, constants, news, layer, heads, kv_heads, inner
):
    """[P, J, T] fp32: this core's part of the attention block's output for total [P, J, T].

    weights (w_qkv, w_o) of the layer in HBM; `projection` from `load_projection`, `rest` from
    `load_rest`; constants (norms, heads', attention's); `news` (keys [D, L, kv, T], values
    [T, L, kv, D]) receives the new ones.
    """
    norm_tile, qkv_tiles = projection
    cache_tiles, output_tiles = rest[0], rest[1]
    norms, of_heads, of_attention = constants
    normed = rmsnorm_columns(total, norm_tile, norms, inner, norm_tile.dtype)
    heads_tile, rows = make_heads(
        normed, weights[0], qkv_tiles, of_heads, norms, layer, heads, kv_heads, inner
    )
    count = heads_tile.shape[1]
    attended = attend_groups(heads_tile, rows, cache_tiles, of_attention, inner)
    keys, values = news
    nisa.tensor_copy(dst=keys[:, layer, :, :], src=heads_tile[:, count - keys.shape[2] : count, :])
    nisa.tensor_copy(dst=values[:, layer, :, :], src=rows)
    return project_output(weights[1], output_tiles, attended)


def experts_block(total, tiles, norms, identity_tile, weights, buffers, layer, inner, side_by_side):
    """[P, J, T] fp32: this core's part of the experts' output for total [P, J, T].

    `tiles` (post norm, router); weights (w_gate_up [L E, P, J, 2 I], w_down [L E, P', J', H]) in
    HBM; `identity_tile` fp32.
    """
    post_tile, router_tile = tiles
    normed = rmsnorm_columns(total, post_tile, norms, inner, post_tile.dtype)
    shares, experts = route_columns(normed, router_tile, inner, layer * router_tile.shape[2])
    shares, experts = broadcast_choices(shares, experts, identity_tile, norms[0])
    w_gate_up, w_down = weights
    return experts_columns(normed, shares, experts, w_gate_up, w_down, buffers, inner, side_by_side)


def expert_rows(weight):
    """Experts' weights [L, E, P, J, N] in HBM as [L E, P, J, N]."""
    layers, experts, lines, columns, outputs = weight.shape
    return weight.reshape((layers * experts, lines, columns, outputs))


def decoder_layers(total, weights, experts, caches, constants, news, heads, settings):
    """The last layer's total [P, J, T] in dtype `inner`, from the first one's input.

    weights (input norm, w_qkv, w_o, post norm, w_router) and experts (w_gate_up, w_down) of all
    layers in HBM; `constants` as for `attention_block`; settings (inner, over_ranks, group,
    (prefetch, buffers, side_by_side, together)), of which `together` is `sum_parts`'s.
    """
    inner, over_ranks, group, tuning = settings
    prefetch, most_buffers, side_by_side, together = tuning
    w_qkv, w_o, w_router = weights[1], weights[2], weights[4]
    layers, kv_heads = caches[0].shape[0], caches[0].shape[1]
    rows = (expert_rows(experts[0]), expert_rows(experts[1]))
    expert_elements = rows[0].shape[2] * rows[0].shape[3] + rows[1].shape[2] * rows[1].shape[3]
    fits, room = plan_loads(
        attention_bytes(w_qkv, w_o, w_router, caches[0], heads),
        expert_elements * element_bytes(w_o.dtype),
    )
    ahead = fits and prefetch != "none"
    paced = ahead and prefetch == "paced"
    loads = total.shape[2] * share(CHOSEN)[1]
    buffers = expert_buffers(rows[0], rows[1], loads, most_buffers, room)
    head_dim = caches[0].shape[2]
    projection = load_projection(weights, 0, heads, kv_heads, head_dim, ahead, False)
    rest = load_rest(weights, caches, 0, ahead, False)
    for layer in range(layers):
        following = layer + 1
        pair = (w_qkv[layer], w_o[layer])
        part = attention_block(
            total, pair, projection, rest, constants, news, layer, heads, kv_heads, inner
        )
        projection = None  # their places are free for the next layer's
        rest = (None, None, rest[2], rest[3])
        if paced:
            hold_back(part)
        part = sum_parts(part, inner, over_ranks, group, together, f"attention_{layer}")
        if ahead and following < layers:
            projection = load_projection(
                weights, following, heads, kv_heads, head_dim, ahead, paced
            )
        total = add_columns(total, part, inner)
        part = experts_block(
            total,
            (rest[2], rest[3]),
            constants[0],
            constants[2][2],
            rows,
            buffers,
            layer,
            inner,
            side_by_side,
        )
        rest = None
        if paced:
            hold_back(part)
        part = sum_parts(part, inner, over_ranks, group, together, f"experts_{layer}")
        if following < layers:
            if not ahead:
                projection = load_projection(
                    weights, following, heads, kv_heads, head_dim, ahead, False
                )
            rest = load_rest(weights, caches, following, ahead, paced)
        total = add_columns(total, part, inner)
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
    w_down); settings (eps, rounding, over_ranks, group, tuning), of which over_ranks sums a tile
    over the ranks of `group`, or is None, and tuning is that of `decoder_layers`.
    """
    eps, rounding, over_ranks, group, tuning = settings
    check_stack_arguments(kernel, x, attention, experts, caches, position, tables, eps)
    inner = inner_dtype(kernel, rounding, x.dtype)
    assert tuning[0] == "none" or tuning[0] == "early" or tuning[0] == "paced", (
        f'{kernel}: prefetch must be "none", "early" or "paced", received {tuning[0]}'
    )
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
        head_constants(q_norm, k_norm, tables[0], tables[1], heads, kv_heads, identity_tile, inner),
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
        (inner, over_ranks, group, tuning),
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
    prefetch="paced",
    buffers=4,
    side_by_side=4,
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
                 prefetch    string "none", "early" or "paced": see Engine plan
                 buffers       Python int: experts on their way or in use at once
                 side_by_side  Python int: of these, experts whose gate and up come before down
    Returns:     hidden [T, H]  dtype of x  shared HBM, k_cache, v_cache
    Tiling:      the stages' own; between them columns [P, J, T] stay on chip. Two cores: as in the
                 stages, with two exchanges of sums per layer; the residual is on both.
    Engine plan: DMA: weights up to the router's take the place of the last layer's as soon as that
                 is free, where SBUF holds them beside two experts: the projection's behind
                 attention, the others' behind the experts. "paced": GpSimd triggers them, after the
                 part that is to be summed is there, so that they move while cores and ranks
                 exchange sums, when HBM has nothing else to do; "early": they may get in the way
                 of the experts and of sums. Up to 4 experts are under way. The caches are written
                 last, by one DMA each and, if two cores read the same head, behind a barrier.
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
        (eps, rounding, None, None, (prefetch, buffers, side_by_side, True)),
    )
