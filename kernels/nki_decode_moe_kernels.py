"""Mixture of experts of decode: router, and the chosen experts alone, on columns of few tokens."""

import nki
import nki.isa as nisa
import nki.language as nl

from kernels.nki_common import PARTITIONS, element_bytes, inner_dtype
from kernels.nki_decode_common import (
    add_columns,
    check_columns,
    check_tokens,
    evacuate,
    exchange_and_add,
    load_columns,
    load_linear,
    norm_constants,
    project_columns,
    rmsnorm_columns,
    share,
    store_columns,
)
from kernels.nki_moe_kernels import (
    CHOSEN,
    check_expert_arguments,
    check_router_arguments,
    choose_experts,
    load_chosen,
    router_logits,
)
from kernels.nki_patterns import filled, identity

WEIGHT_BYTES = 163840  # per partition, for experts' weights: what the rest leaves of 212984


def route_columns(normed, router_tile, inner, first_expert=0):
    """(shares [T, 8] fp32, experts [T, 8] uint32) of normed columns [P, J, T].

    router_tile [P, J, E] and `normed` have one dtype; logits and shares are rounded to `inner`;
    experts count from `first_expert`.
    """
    return choose_experts(router_logits(normed, router_tile), inner, first_expert)


def broadcast_choices(shares, experts, identity_tile, ones):
    """(shares [128, 8 T] fp32, experts [1, 8 T] uint32) of [T, 8] each: token t, rank k at 8 t + k.

    A factor stands on all partitions and an address on the first: a product with ones takes them
    there. Of several tokens, each one's row is first put in a place of its own, with zeros around
    it, by the fp32 `identity_tile`; experts' numbers are exact in it. One token's experts are
    already where they are needed. `ones` is [>= T, 128] fp32.
    """
    tokens = shares.shape[0]
    ones = ones[0:tokens, :]
    if tokens == 1:
        product = nl.ndarray((PARTITIONS, CHOSEN), dtype=nl.float32, buffer=nl.psum)
        nisa.nc_matmul(dst=product, stationary=ones, moving=shares)
        return evacuate(product, nl.float32), experts
    both = nl.ndarray((tokens, 2, CHOSEN), dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_copy(dst=both[:, 0, :], src=shares)
    nisa.tensor_copy(dst=both[:, 1, :], src=experts)
    placed = nl.ndarray((tokens, 2, tokens, CHOSEN), dtype=nl.float32, buffer=nl.sbuf)
    for kind in range(2):
        nisa.tensor_tensor(
            dst=placed[:, kind, :, :],
            data1=both.ap(
                pattern=[[2 * CHOSEN, tokens], [0, tokens], [1, CHOSEN]], offset=kind * CHOSEN
            ),
            data2=identity_tile.ap(
                pattern=[[identity_tile.shape[1], tokens], [1, tokens], [0, CHOSEN]], offset=0
            ),
            op=nl.multiply,
        )
    product = nl.ndarray((PARTITIONS, 2, tokens * CHOSEN), dtype=nl.float32, buffer=nl.psum)
    nisa.nc_matmul(dst=product, stationary=ones, moving=placed)
    spread = nl.ndarray((PARTITIONS, tokens * CHOSEN), dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_copy(dst=spread, src=product[:, 0, :])
    addresses = nl.ndarray((1, tokens * CHOSEN), dtype=nl.uint32, buffer=nl.sbuf)
    nisa.tensor_copy(dst=addresses, src=product[0:1, 1, :])
    return spread, addresses


def expert_buffers(w_gate_up, w_down, loads, most, room):
    """Tiles (gate and up [P, J, 2 I], down [P', J', H]) for up to `most` experts, as many as fit.

    At most `loads`, and no more than `room` bytes per partition; one at least.
    """
    gate_up_shape = w_gate_up.shape[1:4]
    down_shape = w_down.shape[1:4]
    elements = gate_up_shape[1] * gate_up_shape[2] + down_shape[1] * down_shape[2]
    fitting = max(1, room // (elements * element_bytes(w_down.dtype)))
    buffers = []
    for _buffer in range(min(min(loads, most), fitting)):
        gate_up = nl.ndarray(gate_up_shape, dtype=w_gate_up.dtype, buffer=nl.sbuf)
        down = nl.ndarray(down_shape, dtype=w_down.dtype, buffer=nl.sbuf)
        buffers.append((gate_up, down))
    return buffers


def activate_columns(normed, gate_up, factor, lines, inner):
    """[P', J'] in the dtype of `normed`: silu(gate) * up of one token's columns [P, J, 1].

    gate_up [P, J, 2 I]; `lines` is P'. If `inner` is float32, the share `factor` [P', 1] goes into
    the product, which is rounded once; else gate, up, silu and the product are rounded to `inner`,
    and the share is left to the caller.
    """
    projected = project_columns(gate_up, normed, 0, lines)
    count = projected.shape[1] // 2
    if inner != nl.float32:
        projected = evacuate(projected, inner)
    gate = nl.ndarray((lines, count, 1), dtype=inner, buffer=nl.sbuf)
    nisa.activation(dst=gate, op=nl.silu, data=projected[:, 0:count, :])
    activated = nl.ndarray((lines, count, 1), dtype=normed.dtype, buffer=nl.sbuf)
    if inner == nl.float32:
        nisa.scalar_tensor_tensor(
            dst=activated,
            data=gate,
            op0=nl.multiply,
            operand0=factor,
            op1=nl.multiply,
            operand1=projected[:, count : 2 * count, :],
        )
    else:
        nisa.tensor_tensor(
            dst=activated,
            data1=gate,
            data2=projected[:, count : 2 * count, :],
            op=nl.multiply,
        )
    return activated


def accumulate_columns(product, activated, down, token):
    """Add to PSUM `product` [P, J, T], at `token`, activated [P', J', 1] by down [P', J', H]."""
    width, count, _tokens = product.shape
    for block in range(count):
        for step in range(down.shape[1]):
            nisa.nc_matmul(
                dst=product[:, block, token : token + 1],
                stationary=down[:, step, block * width : (block + 1) * width],
                moving=activated[:, step, :],
            )


def add_rounded(total, product, factor, token, inner):
    """total[:, :, token] (fp32) += product [P, J, 1] * factor [P, 1], both factors' product and
    the product itself rounded to `inner` first.
    """
    rounded = evacuate(product, inner)
    nisa.tensor_scalar(dst=rounded, data=rounded, op0=nl.multiply, operand0=factor)
    place = total[:, :, token : token + 1]
    nisa.tensor_tensor(dst=place, data1=place, data2=rounded, op=nl.add)


def load_turn(tile, weights, experts, pairs, turn):
    """Start to load a weight of the expert of pair number `turn`, unless there is none."""
    if turn < len(pairs):
        load_chosen(tile, weights, experts[:, pairs[turn] : pairs[turn] + 1])


def load_ahead(buffers, w_gate_up, w_down, experts, pairs, side_by_side):
    """Start to load the first pairs' experts into `buffers`, in the order in which they are used.

    experts [1, 8 T] in SBUF; of every `side_by_side` pairs all of gate and up before down.
    """
    for first in range(0, len(buffers), side_by_side):
        stop = min(first + side_by_side, len(buffers))
        for turn in range(first, stop):
            load_turn(buffers[turn][0], w_gate_up, experts, pairs, turn)
        for turn in range(first, stop):
            load_turn(buffers[turn][1], w_down, experts, pairs, turn)


def experts_columns(normed, shares, experts, w_gate_up, w_down, buffers, inner, side_by_side):
    """[P, J, T] fp32 columns: this core's experts of all tokens, weighted and summed.

    normed [P, J, T]; shares [128, 8 T] fp32 and experts [1, 8 T] from `broadcast_choices`; weights
    [E, P, J, 2 I] and [E, P', J', H] in HBM; `buffers` from `expert_buffers`. A core takes one half
    of every token's ranks: what `exchange_and_add` adds up.

    As many experts as there are buffers are on their way before the first one is computed; each
    buffer is filled again as soon as it has been used. Of `side_by_side` experts at once gate and
    up come first, then down: behind the last byte that arrives only the product with it is left to
    do. Fused, PSUM sums over the experts.
    """
    lines, count, tokens = normed.shape
    fused = inner == nl.float32
    first_rank, ranks = share(CHOSEN)
    total = nl.ndarray((lines, count, tokens), dtype=nl.float32, buffer=nl.sbuf)
    if fused:
        product = nl.ndarray((lines, count, tokens), dtype=nl.float32, buffer=nl.psum)
    else:
        nisa.memset(dst=total, value=0.0)
    pairs = []
    for token in range(tokens):
        for rank in range(ranks):
            pairs.append(CHOSEN * token + first_rank + rank)
    at_once = min(side_by_side, len(buffers))
    load_ahead(buffers, w_gate_up, w_down, experts, pairs, at_once)
    for first in range(0, len(pairs), at_once):
        stop = min(first + at_once, len(pairs))
        activated = []
        for turn in range(first, stop):
            pair = pairs[turn]
            token = turn // ranks
            gate_up, down = buffers[turn % len(buffers)]
            factor = shares[0 : down.shape[0], pair : pair + 1]
            activated.append(
                activate_columns(
                    normed[:, :, token : token + 1], gate_up, factor, down.shape[0], inner
                )
            )
            load_turn(gate_up, w_gate_up, experts, pairs, turn + len(buffers))
        for turn in range(first, stop):
            pair = pairs[turn]
            token = turn // ranks
            down = buffers[turn % len(buffers)][1]
            if fused:
                accumulate_columns(product, activated[turn - first], down, token)
            else:
                part = project_columns(down, activated[turn - first], 0, lines)
                add_rounded(total, part, shares[0:lines, pair : pair + 1], token, inner)
            load_turn(down, w_down, experts, pairs, turn + len(buffers))
    if fused:
        nisa.tensor_copy(dst=total, src=product)
    return total


@nki.jit
def nki_router_decode_kernel(x, residual, norm_weight, w_router, eps, rounding="fused"):
    """Residual addition, RMSNorm and choice of 8 of up to 512 experts, for 1 to 8 tokens.

    Math:        total = x + residual; normed = total / sqrt(mean(total^2) + eps) * norm_weight
                 l = normed W^T; experts[t, :] = the 8 largest of l[t, :], descending
                 weights[t, k] = exp(l[t, e_k]) / sum_k exp(l[t, e_k])
    Dimensions:  T tokens, H hidden, E experts, P = partitions(H) = H / J
    Args:        x            [T, H]     float32 or bfloat16  HBM
                 residual     [T, H]     dtype of x           HBM
                 norm_weight  [P, J]     dtype of x           HBM; element j P + p at (p, j)
                 w_router     [P, J, E]  dtype of x           HBM; input j P + p at (p, j)
                 eps          Python float > 0
                 rounding     string "fused" or "stepwise"
    Returns:     (normed [T, H], total [T, H] dtype of x, weights [T, 8] float32,
                 experts [T, 8] uint32)  shared HBM
    Tiling:      hidden states as columns [P, J, T]; logits as rows [T, E] of one PSUM bank. Both
                 cores compute all of it, and each stores one half of every result.
    Engine plan: DMA: the router's weights first, in one run per partition; x and residual as rows
                 of P elements. PE: transposes to columns, the sum over partitions, J products of
                 [P, T] by [P, E]. ACT: squares with fused sums, rsqrt, exp. VE: addition, the
                 norm's products, max8, find_index8, shares.
    Bound:       HBM: H E elements of weights (0.5 MB: 1.5 us); fixed costs of the chain of small
                 instructions above it
    Numerics:    fused: total, logits and shares stay fp32, normed is rounded once. stepwise: all of
                 them are rounded to the dtype of x, normed after each of its two products. The
                 product's operands have that dtype; its sum is fp32. Equal logits: lowest index.
    Refuses:     other ranks, empty tensors, other dtypes and layouts, fewer than 8 or more than 512
                 experts, more tokens than one PSUM bank takes, eps <= 0, another rounding
    """
    name = "nki_router_decode_kernel"
    check_router_arguments(name, x, residual, w_router, eps)
    tokens, hidden = x.shape
    check_columns(name, "norm_weight", norm_weight, hidden, x.dtype)
    check_tokens(name, tokens, hidden)
    inner = inner_dtype(name, rounding, x.dtype)
    normed_out = nl.ndarray((tokens, hidden), dtype=x.dtype, buffer=nl.shared_hbm)
    total_out = nl.ndarray((tokens, hidden), dtype=x.dtype, buffer=nl.shared_hbm)
    weights_out = nl.ndarray((tokens, CHOSEN), dtype=nl.float32, buffer=nl.shared_hbm)
    experts_out = nl.ndarray((tokens, CHOSEN), dtype=nl.uint32, buffer=nl.shared_hbm)

    router_tile = load_linear(w_router, 0, w_router.shape[1], 0, w_router.shape[2])
    weight_tile = nl.ndarray(tuple(norm_weight.shape), dtype=x.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=weight_tile, src=norm_weight)
    identity_tile = identity(PARTITIONS, x.dtype)
    x_columns = load_columns(x, identity_tile)
    total = add_columns(x_columns, load_columns(residual, identity_tile), inner)
    normed = rmsnorm_columns(total, weight_tile, norm_constants(eps), inner, x.dtype)
    shares, experts = route_columns(normed, router_tile, inner)
    first, count = share(CHOSEN)
    nisa.dma_copy(dst=weights_out[:, first : first + count], src=shares[:, first : first + count])
    nisa.dma_copy(dst=experts_out[:, first : first + count], src=experts[:, first : first + count])
    store_columns(normed_out, normed, identity_tile)
    store_columns(total_out, evacuate(total, x.dtype), identity_tile)
    return normed_out, total_out, weights_out, experts_out


@nki.jit
def nki_experts_decode_kernel(
    x, weights, experts, w_gate_up, w_down, rounding="fused", buffers=4, side_by_side=4
):
    """SwiGLU of the 8 chosen experts per token, weighted and summed, for 1 to 8 tokens.

    Math:        y[t, :] = sum_k weights[t, k] (silu(x_t Wg_e^T) * (x_t Wu_e^T)) Wd_e^T,
                 e = experts[t, k]
    Dimensions:  T tokens, H hidden, E experts, I an expert's width, K = 8 chosen,
                 P = partitions(H) = H / J, P' = partitions(I) = I / J'
    Args:        x          [T, H]            float32 or bfloat16  HBM
                 weights    [T, 8]            float32              HBM
                 experts    [T, 8]            uint32               HBM; each below E
                 w_gate_up  [E, P, J, 2 I]    dtype of x           HBM; gate before up
                 w_down     [E, P', J', H]    dtype of x           HBM
                 rounding   string "fused" or "stepwise"
                 buffers       Python int: experts on their way or in use at once
                 side_by_side  Python int: of these, experts whose gate and up come before down
    Returns:     [T, H]  dtype of x  shared HBM
    Tiling:      one expert of one token at a time: gate and up as columns [P', 2 J'], their product
                 as [P', J'], the result as columns [P, J]. A core takes one half of the ranks of
                 every token; one exchange of [P, J T] in fp32 adds the halves.
    Engine plan: DMA: an expert's weights by two DMAs at an address that they read from the chosen
                 expert's number, one long run per partition, up to 4 experts ahead, gates and ups
                 first, so that only the product with down follows the last byte. PE: 2 J J'
                 products of [P, P'] by [P, 1], then J J' of [P', P] by [P', 1], weights stationary,
                 the outputs of all experts summed in one PSUM bank. ACT: silu. VE: one product
                 of gate, up and share per expert.
    Bound:       HBM: 8 T 3 H I elements of weights (TP 4: 19 MB per token); PE next, with 96 J' / 2
                 pairs of load and product per expert of 48 ns
    Numerics:    sums in fp32. fused: the activated product times its share is rounded to the dtype
                 of x once, as operand, and experts are summed in PSUM. stepwise: gate and up, silu,
                 their product, an expert's output and its weighted output are rounded to the dtype
                 of x. The order of the sum over experts is the ranks' within a core.
    Refuses:     other ranks, empty tensors, other dtypes and layouts, other than 8 experts per
                 token, more tokens than one PSUM bank takes, another rounding
    """
    name = "nki_experts_decode_kernel"
    check_expert_arguments(name, x, weights, experts, w_gate_up, w_down)
    tokens, hidden = x.shape
    check_tokens(name, tokens, hidden)
    inner = inner_dtype(name, rounding, x.dtype)
    out = nl.ndarray((tokens, hidden), dtype=x.dtype, buffer=nl.shared_hbm)

    share_rows = nl.ndarray((tokens, CHOSEN), dtype=nl.float32, buffer=nl.sbuf)
    nisa.dma_copy(dst=share_rows, src=weights)
    expert_rows = nl.ndarray((tokens, CHOSEN), dtype=nl.uint32, buffer=nl.sbuf)
    nisa.dma_copy(dst=expert_rows, src=experts)
    shares, addresses = broadcast_choices(
        share_rows,
        expert_rows,
        identity(tokens, nl.float32),
        filled(tokens, PARTITIONS, 1.0, nl.float32),
    )
    loads = tokens * share(CHOSEN)[1]
    tiles = expert_buffers(w_gate_up, w_down, loads, buffers, WEIGHT_BYTES)
    identity_tile = identity(PARTITIONS, x.dtype)
    columns = load_columns(x, identity_tile)
    total = experts_columns(
        columns, shares, addresses, w_gate_up, w_down, tiles, inner, side_by_side
    )
    total = exchange_and_add(total)
    store_columns(out, evacuate(total, x.dtype), identity_tile)
    return out
