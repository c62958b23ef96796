"""Router softmax, top-8 selection, weighted aggregation; stages that both phases' MoE shares."""

import nki
import nki.isa as nisa
import nki.language as nl

from kernels.nki_common import (
    PARTITIONS,
    check_dtype,
    check_float,
    check_rank,
    check_row_length,
    check_shape,
    spread,
)
from kernels.nki_decode_common import BANK
from kernels.nki_kernels import softmax_rows

CHOSEN = 8  # experts per token: what max8 finds in one instruction, and what Qwen3 uses
SHORTEST_CUT = 64  # elements: the vector engine's fixed cost, so shorter cuts save no time
# Columns of all 8 experts that one partition holds at once. In fp32, with partial sum and result
# and two tiles in flight, 160 KiB of the 176 KiB that the smallest core offers.
BLOCK_ELEMENTS = 2048


def find_largest(tile):
    """The 8 largest of each row of [lines, E], descending, and their indices.

    Returns [lines, 8] fp32 and [lines, 8] uint32. Equal values: the lowest index comes first.
    """
    lines = tile.shape[0]
    largest = nl.ndarray((lines, CHOSEN), dtype=nl.float32, buffer=nl.sbuf)
    nisa.max8(dst=largest, src=tile)
    found = nl.ndarray((lines, CHOSEN), dtype=nl.uint32, buffer=nl.sbuf)
    nisa.nc_find_index8(dst=found, data=tile, vals=largest)
    return largest, found


def router_logits(columns, router_tile):
    """[T, E] fp32 PSUM: columns [P, J, T] by router_tile [P, J, E]; the tokens are stationary."""
    _lines, count, tokens = columns.shape
    logits = nl.ndarray((tokens, router_tile.shape[2]), dtype=nl.float32, buffer=nl.psum)
    for step in range(count):
        nisa.nc_matmul(dst=logits, stationary=columns[:, step, :], moving=router_tile[:, step, :])
    return logits


def choose_experts(logits, inner, first_expert=0):
    """The 8 experts of each row of logits [lines, E] in PSUM, and their shares.

    Shares are the softmax over all experts, renormalised over the chosen: the softmax over the
    chosen alone. Logits and shares are rounded to `inner`; returns shares [lines, 8] fp32 and
    experts [lines, 8] uint32, counted from `first_expert`. The experts come first, because loads
    wait for them and not for the shares.
    """
    lines, experts = logits.shape
    rounded = nl.ndarray((lines, experts), dtype=inner, buffer=nl.sbuf)
    nisa.tensor_copy(dst=rounded, src=logits)
    largest, found = find_largest(rounded)
    if first_expert > 0:
        nisa.tensor_scalar(dst=found, data=found, op0=nl.add, operand0=float(first_expert))
    negative_max = nl.ndarray((lines, 1), dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_scalar(dst=negative_max, data=largest[:, 0:1], op0=nl.multiply, operand0=-1.0)
    exponentials = nl.ndarray((lines, CHOSEN), dtype=nl.float32, buffer=nl.sbuf)
    total = nl.ndarray((lines, 1), dtype=nl.float32, buffer=nl.sbuf)
    nisa.activation(
        dst=exponentials,
        op=nl.exp,
        data=largest,
        bias=negative_max,
        reduce_op=nl.add,
        reduce_res=total,
        reduce_cmd=nisa.reduce_cmd.reset_reduce,
    )
    inverse = nl.ndarray((lines, 1), dtype=nl.float32, buffer=nl.sbuf)
    nisa.reciprocal(dst=inverse, data=total)
    shares = nl.ndarray((lines, CHOSEN), dtype=inner, buffer=nl.sbuf)
    nisa.tensor_scalar(dst=shares, data=exponentials, op0=nl.multiply, operand0=inverse)
    if inner == nl.float32:
        return shares, found
    widened = nl.ndarray((lines, CHOSEN), dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_copy(dst=widened, src=shares)
    return widened, found


def load_chosen(tile, weights, expert):
    """Bring one weight of one expert in, by a DMA with one run per partition.

    `tile` [P, J, N] of weights [E, P, J, N] in HBM; `expert` [1, 1] int32 or uint32 in SBUF, which
    the DMA reads itself.
    """
    lines, columns, width = tile.shape
    run = columns * width
    nisa.dma_copy(
        dst=tile,
        src=weights.ap(
            pattern=[[run, lines], [width, columns], [1, width]],
            offset=0,
            scalar_offset=expert,
            indirect_dim=0,
        ),
    )


def check_expert_weights(kernel, x, w_gate_up, w_down):
    """Refuse weights that do not belong to x [T, H] or to each other."""
    check_rank(kernel, "w_gate_up", w_gate_up, ("experts", "partitions", "columns", "2 width"))
    check_rank(kernel, "w_down", w_down, ("experts", "partitions", "columns", "hidden"))
    check_dtype(kernel, "w_gate_up", w_gate_up, x.dtype)
    check_dtype(kernel, "w_down", w_down, x.dtype)
    experts, lines, columns, width = w_gate_up.shape
    hidden = x.shape[1]
    assert lines * columns == hidden and lines <= PARTITIONS, (
        f"{kernel}: w_gate_up must have shape (E, P, J, 2 I) with P J = {hidden} and P <= 128, "
        f"received {tuple(w_gate_up.shape)}; pack it with layouts.pack_linear"
    )
    down_lines, down_columns = w_down.shape[1:3]
    assert 2 * down_lines * down_columns == width and down_lines <= PARTITIONS, (
        f"{kernel}: w_down must have shape (E, P, J, H) with P J = {width // 2} and P <= 128, "
        f"received {tuple(w_down.shape)}; pack it with layouts.pack_linear"
    )
    check_shape(kernel, "w_down", w_down, (experts, down_lines, down_columns, hidden))


def check_router_arguments(kernel, x, residual, w_router, eps):
    """Refuse what the routers of both phases do not compute."""
    check_rank(kernel, "x", x, ("tokens", "hidden"))
    check_float(kernel, "x", x)
    check_shape(kernel, "residual", residual, tuple(x.shape))
    check_dtype(kernel, "residual", residual, x.dtype)
    check_rank(kernel, "w_router", w_router, ("partitions", "columns", "experts"))
    check_dtype(kernel, "w_router", w_router, x.dtype)
    lines, columns, experts = w_router.shape
    assert lines * columns == x.shape[1] and lines <= PARTITIONS, (
        f"{kernel}: w_router must have shape (P, J, E) with P J = {x.shape[1]} and P <= 128, "
        f"received {tuple(w_router.shape)}; pack it with layouts.pack_linear"
    )
    assert CHOSEN <= experts and experts <= BANK, (
        f"{kernel}: {CHOSEN} to {BANK} experts are possible, received {experts}"
    )
    assert isinstance(eps, float) and eps > 0.0, (
        f"{kernel}: eps must be a positive Python float, received {eps}"
    )


def check_expert_arguments(kernel, x, weights, experts, w_gate_up, w_down):
    """Refuse what the experts of both phases do not compute."""
    check_rank(kernel, "x", x, ("tokens", "hidden"))
    check_float(kernel, "x", x)
    check_shape(kernel, "weights", weights, (x.shape[0], CHOSEN))
    check_dtype(kernel, "weights", weights, nl.float32)
    check_shape(kernel, "experts", experts, (x.shape[0], CHOSEN))
    check_dtype(kernel, "experts", experts, nl.uint32)
    check_expert_weights(kernel, x, w_gate_up, w_down)


@nki.jit
def nki_router_softmax_kernel(logits):
    """Router probabilities in float32 over up to 6144 experts.

    Math:        p[t, e] = exp(l[t, e] - max_e l[t, e]) / sum_e exp(l[t, e] - max_e l[t, e])
    Dimensions:  T tokens, E experts, P = 128 partitions
    Args:        logits  [T, E]  float32 or bfloat16  HBM
    Returns:     [T, E]  float32  shared HBM
    Tiling:      128 tokens per tile, one per partition; the last tile holds the tokens left over
    Engine plan: DMA: one load and one store per tile. VE: row maximum, already negated. ACT: exp
                 with the maximum as bias and the sum fused. VE: reciprocal, one multiplication.
    Bound:       fixed costs: one token is 4 instructions between two DMAs of 512 B (E = 128)
    Numerics:    fp32 throughout, whatever the dtype of the logits, and never rounded below: routing
                 on rounded probabilities would make ties that torch.topk does not see
    Refuses:     other ranks, empty tensors, other dtypes, E > 6144
    """
    check_rank("nki_router_softmax_kernel", "logits", logits, ("tokens", "experts"))
    check_float("nki_router_softmax_kernel", "logits", logits)
    tokens, experts = logits.shape
    check_row_length("nki_router_softmax_kernel", experts)
    out = nl.ndarray((tokens, experts), dtype=nl.float32, buffer=nl.shared_hbm)
    softmax_rows(logits, out)
    return out


@nki.jit
def nki_top8_kernel(probabilities):
    """The 8 most probable of 8 to 6144 experts per token, with weights renormalised to sum 1.

    Math:        i[t, 0..7] = experts of the 8 largest p[t, :], descending
                 w[t, k] = p[t, i[t, k]] / sum_j p[t, i[t, j]]
    Dimensions:  T tokens, E experts, K = 8 chosen, P = 128 partitions
    Args:        probabilities  [T, E]  float32  HBM; the 8 largest of a row must not sum to 0
    Returns:     (weights [T, 8] float32, indices [T, 8] uint32)  shared HBM
    Tiling:      128 tokens per tile, one per partition; the last tile holds the tokens left over
    Engine plan: DMA: one load and two stores per tile. VE: max8, find_index8 (stored while the
                 weights are computed), sum of 8, reciprocal, one multiplication.
    Bound:       fixed costs: one token is 5 instructions between DMAs of at most 512 B (E = 128)
    Numerics:    comparisons and weights in fp32. Equal probabilities: the lowest index comes first,
                 because find_index8 gives equal values their successive positions in ascending
                 order; torch.topk promises no order there. The weights are p * (1 / sum).
    Refuses:     other ranks, empty tensors, a dtype other than float32 (rounding makes ties), fewer
                 than 8 experts, E > 6144
    """
    check_rank("nki_top8_kernel", "probabilities", probabilities, ("tokens", "experts"))
    check_dtype("nki_top8_kernel", "probabilities", probabilities, nl.float32)
    tokens, experts = probabilities.shape
    assert experts >= CHOSEN, (
        f"nki_top8_kernel: at least {CHOSEN} experts are needed, received {experts}; "
        f"choose all of them without a kernel"
    )
    check_row_length("nki_top8_kernel", experts)

    weights = nl.ndarray((tokens, CHOSEN), dtype=nl.float32, buffer=nl.shared_hbm)
    indices = nl.ndarray((tokens, CHOSEN), dtype=nl.uint32, buffer=nl.shared_hbm)
    for start in range(0, tokens, PARTITIONS):
        stop = min(start + PARTITIONS, tokens)
        lines = stop - start
        tile = nl.ndarray((lines, experts), dtype=nl.float32, buffer=nl.sbuf)
        nisa.dma_copy(dst=tile, src=probabilities[start:stop, :])
        largest, found = find_largest(tile)
        nisa.dma_copy(dst=indices[start:stop, :], src=found)
        total = nl.ndarray((lines, 1), dtype=nl.float32, buffer=nl.sbuf)
        nisa.tensor_reduce(dst=total, op=nl.add, data=largest, axis=1)
        inverse = nl.ndarray((lines, 1), dtype=nl.float32, buffer=nl.sbuf)
        nisa.reciprocal(dst=inverse, data=total)
        scaled = nl.ndarray((lines, CHOSEN), dtype=nl.float32, buffer=nl.sbuf)
        nisa.tensor_scalar(dst=scaled, data=largest, op0=nl.multiply, operand0=inverse)
        nisa.dma_copy(dst=weights[start:stop, :], src=scaled)
    return weights, indices


def weighted_sum(outputs, weight_tile, columns, dtype):
    """[P, columns] tile of `dtype`: the sum over k of outputs[:, k, :] * weight_tile[:, k].

    `outputs` is [P, 8 * columns], `weight_tile` [P, 8] fp32. k ascends in an fp32 tile; the last
    step writes the result's dtype, which is its only rounding below fp32.
    """
    lines = outputs.shape[0]
    partial = nl.ndarray((lines, columns), dtype=nl.float32, buffer=nl.sbuf)
    result = nl.ndarray((lines, columns), dtype=dtype, buffer=nl.sbuf)
    nisa.tensor_scalar(
        dst=partial, data=outputs[:, 0:columns], op0=nl.multiply, operand0=weight_tile[:, 0:1]
    )
    for k in range(1, CHOSEN):
        nisa.scalar_tensor_tensor(
            dst=result if k == CHOSEN - 1 else partial,
            data=outputs[:, k * columns : (k + 1) * columns],
            op0=nl.multiply,
            operand0=weight_tile[:, k : k + 1],
            op1=nl.add,
            operand1=partial,
        )
    return result


@nki.jit
def nki_expert_aggregation_kernel(expert_outputs, weights):
    """Sum of the 8 chosen experts' outputs, weighted, for any number of tokens and any width.

    Math:        y[t, :] = sum_k weights[t, k] * expert_outputs[t, k, :]
    Dimensions:  T tokens, K = 8 experts in rank order, H hidden elements, P = 128 partitions
    Args:        expert_outputs  [T, 8, H]  float32 or bfloat16  HBM
                 weights         [T, 8]     float32              HBM
    Returns:     [T, H]  dtype of expert_outputs  shared HBM
    Tiling:      128 tokens per tile, one per partition, up to 2048 columns of all 8 experts at a
                 time. Fewer than 128 tokens: each H is cut over 2^i partitions into pieces of at
                 least 64 elements (one token, H = 2048: 32 partitions), the weights broadcast to
                 them. The last tile holds the tokens left over.
    Engine plan: DMA: one load of all 8 experts, one of the weights and one store per tile. VE: one
                 multiplication and 7 fused multiply-adds, whose last writes the result.
    Bound:       VE: 8 passes over T H / 128 elements; HBM: 9 T H elements moved
    Numerics:    fp32 products and sums in the order k = 0..7, one rounding to the dtype of
                 expert_outputs: bit-exact against the oracle. (transformers rounds after every
                 expert in bf16; this is the more exact order of the same sum.)
    Refuses:     other ranks, empty tensors, other dtypes, other than 8 experts, weights of another
                 shape or dtype
    """
    name = "nki_expert_aggregation_kernel"
    check_rank(name, "expert_outputs", expert_outputs, ("tokens", "experts", "hidden"))
    check_float(name, "expert_outputs", expert_outputs)
    tokens, chosen, hidden = expert_outputs.shape
    assert chosen == CHOSEN, (
        f"{name}: expert_outputs must hold {CHOSEN} experts per token, received {chosen}; "
        f"pass the outputs of the chosen experts, in the order of their weights"
    )
    check_shape(name, "weights", weights, (tokens, CHOSEN))
    check_dtype(name, "weights", weights, nl.float32)
    cut = spread(min(tokens, PARTITIONS), hidden, SHORTEST_CUT)
    width = hidden // cut
    tokens_per_tile = PARTITIONS // cut

    out = nl.ndarray((tokens, hidden), dtype=expert_outputs.dtype, buffer=nl.shared_hbm)
    for first in range(0, tokens, tokens_per_tile):
        count = min(tokens_per_tile, tokens - first)
        lines = count * cut
        weight_tile = nl.ndarray((lines, CHOSEN), dtype=nl.float32, buffer=nl.sbuf)
        broadcast = [[CHOSEN, count], [0, cut], [1, CHOSEN]]
        nisa.dma_copy(dst=weight_tile, src=weights.ap(pattern=broadcast, offset=first * CHOSEN))
        for column in range(0, width, BLOCK_ELEMENTS):
            columns = min(BLOCK_ELEMENTS, width - column)
            block = [[CHOSEN * hidden, count], [width, cut], [hidden, CHOSEN], [1, columns]]
            tile = nl.ndarray((lines, CHOSEN * columns), dtype=out.dtype, buffer=nl.sbuf)
            nisa.dma_copy(
                dst=tile,
                src=expert_outputs.ap(pattern=block, offset=first * CHOSEN * hidden + column),
            )
            result = weighted_sum(tile, weight_tile, columns, out.dtype)
            nisa.dma_copy(
                dst=out.ap(pattern=[[width, lines], [1, columns]], offset=first * hidden + column),
                src=result,
            )
    return out
