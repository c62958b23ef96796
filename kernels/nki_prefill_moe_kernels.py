"""Mixture of experts of a prompt: router, and experts on tokens grouped by expert."""

import nki
import nki.isa as nisa
import nki.language as nl

from kernels.nki_common import (
    PARTITIONS,
    check_dtype,
    check_row_length,
    check_shape,
    element_bytes,
    inner_dtype,
)
from kernels.nki_custom_rmsnorm import load_eps, load_weight, reciprocal_rms, scale_rows
from kernels.nki_decode_common import BANK
from kernels.nki_matmul_stages import rows_to_columns, transpose_pieces
from kernels.nki_moe_kernels import (
    CHOSEN,
    check_expert_arguments,
    check_router_arguments,
    choose_experts,
    load_chosen,
    router_logits,
    weighted_sum,
)
from kernels.nki_patterns import filled, identity, index_column, index_row
from kernels.nki_token_grouping import (
    block_slots,
    group_tokens,
    load_length,
    most_blocks,
    real_tokens,
    round_down_quotient,
)

SUM_COLUMNS = 1024  # columns of all 8 experts held at once when they are summed: 32 KiB in fp32
WEIGHT_BYTES = 163840  # per partition, for experts' weights: what the rest leaves of 212984
EXPERTS_LIMIT = 128  # experts lie on partitions while they are counted


def norm_rows(total, rstd, weight_tile, rounding, dtype):
    """[lines, H] tile of `dtype`: total * rstd * weight, rounded once or after every product."""
    normed = nl.ndarray(total.shape, dtype=dtype, buffer=nl.sbuf)
    if rounding == "fused":
        nisa.scalar_tensor_tensor(
            dst=normed,
            data=total,
            op0=nl.multiply,
            operand0=rstd,
            op1=nl.multiply,
            operand1=weight_tile[0 : total.shape[0], :],
        )
    else:
        scale_rows(normed, total, rstd, weight_tile, 1)
    return normed


def add_rows(x, residual, first, lines, inner):
    """[lines, H] tile of `inner`: rows from `first` on of x + residual, both [S, H] in HBM."""
    hidden = x.shape[1]
    x_tile = nl.ndarray((lines, hidden), dtype=x.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=x_tile, src=x[first : first + lines, :])
    residual_tile = nl.ndarray((lines, hidden), dtype=x.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=residual_tile, src=residual[first : first + lines, :])
    total = nl.ndarray((lines, hidden), dtype=inner, buffer=nl.sbuf)
    nisa.tensor_tensor(dst=total, data1=x_tile, data2=residual_tile, op=nl.add)
    return total


def store_rows(destination, first, tile):
    """Rows of [S, H] in HBM from `first` on = tile, rounded to the destination's dtype on chip."""
    lines, width = tile.shape
    rounded = tile
    if tile.dtype != destination.dtype:
        rounded = nl.ndarray((lines, width), dtype=destination.dtype, buffer=nl.sbuf)
        nisa.tensor_copy(dst=rounded, src=tile)
    nisa.dma_copy(dst=destination[first : first + lines, :], src=rounded)


def tiles_per_core(kernel, tokens):
    """The fewest tiles of up to 128 tokens per core that hold all tokens."""
    cores = nl.num_programs(0)
    assert tokens >= cores, (
        f"{kernel}: {cores} cores need at least as many tokens, received shape ({tokens}, ...); "
        f"launch it on one core"
    )
    return (tokens + cores * PARTITIONS - 1) // (cores * PARTITIONS)


def token_range(tokens, tiles, number):
    """(first, stop): this core's tile `number`, when all tokens are cut into equal tiles."""
    tile = nl.program_id(0) * tiles + number
    total = nl.num_programs(0) * tiles
    return tokens * tile // total, tokens * (tile + 1) // total


@nki.jit
def nki_router_prefill_kernel(x, residual, norm_weight, w_router, eps, rounding="fused"):
    """Residual addition, RMSNorm and choice of 8 of up to 512 experts, for any number of tokens.

    Math:        total = x + residual; normed = total / sqrt(mean(total^2) + eps) * norm_weight
                 l = normed W^T; experts[t, :] = the 8 largest of l[t, :], descending
                 weights[t, k] = exp(l[t, e_k]) / sum_k exp(l[t, e_k])
    Dimensions:  S tokens, H hidden, E experts, P = partitions(H) = H / J
    Args:        x            [S, H]     float32 or bfloat16  HBM
                 residual     [S, H]     dtype of x           HBM
                 norm_weight  [H]        dtype of x           HBM
                 w_router     [P, J, E]  dtype of x           HBM; input j P + p at (p, j)
                 eps          Python float > 0
                 rounding     string "fused" or "stepwise"
    Returns:     (normed [S, H], total [S, H] dtype of x, weights [S, 8] float32,
                 experts [S, 8] uint32)  shared HBM
    Tiling:      up to 128 tokens per tile, one per partition: the fewest tiles, the same number on
                 both cores, whose sizes differ by one token at the most
    Engine plan: DMA: norm weight (broadcast) and router once; per tile two loads, four stores. VE:
                 addition, one fused product (fused) or two (stepwise), evacuations, max8,
                 find_index8. ACT: square with fused sum, rsqrt, exp. PE: J transposes and J
                 products of [P, 128] by [P, E], summed in one PSUM bank.
    Bound:       HBM: 4 S H elements moved; VE next, with 3 passes over S H / 128 elements
    Numerics:    fused: total, logits and shares stay fp32, normed is rounded once. stepwise: all of
                 them are rounded to the dtype of x, normed after each of its two products. The
                 product's operands have that dtype; its sum is fp32. Equal logits: lowest index.
    Refuses:     other ranks, empty tensors, other dtypes, fewer than 8 or more than 512 experts,
                 H > 6144, eps <= 0, another rounding
    """
    name = "nki_router_prefill_kernel"
    check_router_arguments(name, x, residual, w_router, eps)
    check_row_length(name, x.shape[1])
    check_shape(name, "norm_weight", norm_weight, (x.shape[1],))
    check_dtype(name, "norm_weight", norm_weight, x.dtype)
    tokens, hidden = x.shape
    inner = inner_dtype(name, rounding, x.dtype)

    normed_out = nl.ndarray((tokens, hidden), dtype=x.dtype, buffer=nl.shared_hbm)
    total_out = nl.ndarray((tokens, hidden), dtype=x.dtype, buffer=nl.shared_hbm)
    weights_out = nl.ndarray((tokens, CHOSEN), dtype=nl.float32, buffer=nl.shared_hbm)
    experts_out = nl.ndarray((tokens, CHOSEN), dtype=nl.uint32, buffer=nl.shared_hbm)
    router_tile = nl.ndarray(w_router.shape, dtype=x.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=router_tile, src=w_router)
    weight_tile = load_weight(norm_weight, PARTITIONS, hidden, 1)
    eps_column = load_eps(eps, PARTITIONS)
    identity_tile = identity(PARTITIONS, x.dtype)
    tiles = tiles_per_core(name, tokens)
    for number in range(tiles):
        first, stop = token_range(tokens, tiles, number)
        lines = stop - first
        total = add_rows(x, residual, first, lines, inner)
        store_rows(total_out, first, total)
        rstd = reciprocal_rms(total, eps_column, 1, 1)
        normed = norm_rows(total, rstd, weight_tile, rounding, x.dtype)
        store_rows(normed_out, first, normed)
        columns = rows_to_columns(normed, w_router.shape[0], identity_tile)
        shares, found = choose_experts(router_logits(columns, router_tile), inner)
        nisa.dma_copy(dst=weights_out[first:stop, :], src=shares)
        nisa.dma_copy(dst=experts_out[first:stop, :], src=found)
    return normed_out, total_out, weights_out, experts_out


def make_buffer(x, w_gate_up, w_down, slots):
    """Tiles for all that a block needs: (rows, columns, gate and up, down, pairs, expert).

    The rows start as zeros: a gather leaves alone those of empty slots, which hold what was there.
    """
    hidden, lines = x.shape[1], w_gate_up.shape[1]
    rows = nl.ndarray((slots, hidden), dtype=x.dtype, buffer=nl.sbuf)
    nisa.memset(dst=rows, value=0.0)
    columns = nl.ndarray((lines, hidden // lines, slots), dtype=x.dtype, buffer=nl.sbuf)
    gate_up = nl.ndarray(w_gate_up.shape[1:4], dtype=x.dtype, buffer=nl.sbuf)
    down = nl.ndarray(w_down.shape[1:4], dtype=x.dtype, buffer=nl.sbuf)
    pairs = nl.ndarray((slots, 1), dtype=nl.int32, buffer=nl.sbuf)
    expert = nl.ndarray((1, 1), dtype=nl.int32, buffer=nl.sbuf)
    return rows, columns, gate_up, down, pairs, expert


def select_block(table, numbers, number):
    """(pairs [B, 1], expert [B, 1]) fp32 of block `number` [B, 1], the same on all partitions.

    Of `table` [B, 2, blocks], the column is picked out by a one-hot row: `numbers` [B, blocks]
    counts from 0. No address depends on a value, so no DMA is waited for.
    """
    slots, _kinds, columns = table.shape
    hot = nl.ndarray((slots, columns), dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_scalar(dst=hot, data=numbers, op0=nl.equal, operand0=number)
    picked = nl.ndarray((slots, 2 * columns), dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_tensor(
        dst=picked,
        data1=table,
        data2=hot.ap(pattern=[[columns, slots], [0, 2], [1, columns]], offset=0),
        op=nl.multiply,
    )
    pairs = nl.ndarray((slots, 1), dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_reduce(dst=pairs, op=nl.add, data=picked[:, 0:columns], axis=1)
    expert = nl.ndarray((slots, 1), dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_reduce(dst=expert, op=nl.add, data=picked[:, columns : 2 * columns], axis=1)
    return pairs, expert


def fetch_rows(buffer, table, numbers, number, x):
    """Choose block `number` and start to gather its tokens' rows, and go on to this core's next."""
    rows, _columns, _gate_up, _down, pairs, expert = buffer
    slots, hidden = rows.shape
    pairs_found, expert_found = select_block(table, numbers, number)
    token = nl.ndarray((slots, 1), dtype=nl.int32, buffer=nl.sbuf)
    round_down_quotient(token, pairs_found, CHOSEN)
    nisa.dma_copy(
        dst=rows,
        src=x.ap(
            pattern=[[hidden, slots], [1, hidden]],
            offset=0,
            vector_offset=token,
            indirect_dim=0,
        ),
        oob_mode=nisa.oob_mode.skip,
    )
    nisa.tensor_copy(dst=expert, src=expert_found[0:1, :])
    nisa.tensor_copy(dst=pairs, src=pairs_found)
    nisa.tensor_scalar(dst=number, data=number, op0=nl.add, operand0=float(nl.num_programs(0)))


def fetch_weights(buffer, w_gate_up, w_down):
    """Start to load the weights of the expert of a block whose rows have been fetched."""
    _rows, _columns, gate_up, down, _pairs, expert = buffer
    load_chosen(gate_up, w_gate_up, expert)
    load_chosen(down, w_down, expert)


def turn_rows(buffer, identity_tile):
    """A block's rows as columns."""
    transpose_pieces(buffer[1], 0, 0, buffer[0], identity_tile)


def activated_rows(columns, gate_up, rounding):
    """[B, I] in the dtype of the operands: silu(gate) * up of columns [P, J, B].

    gate_up [P, J, 2 I]; at most 256 of gate's columns and as many of up's share a PSUM bank.
    """
    count, pieces, slots = columns.shape
    width = gate_up.shape[2] // 2
    cuts = (2 * width + BANK - 1) // BANK
    step = (width + cuts - 1) // cuts
    activated = nl.ndarray((slots, width), dtype=columns.dtype, buffer=nl.sbuf)
    for first in range(0, width, step):
        part = min(step, width - first)
        product = nl.ndarray((slots, 2, part), dtype=nl.float32, buffer=nl.psum)
        for piece in range(pieces):
            nisa.nc_matmul(
                dst=product,
                stationary=columns[:, piece, :],
                moving=gate_up.ap(
                    pattern=[[pieces * 2 * width, count], [width, 2], [1, part]],
                    offset=piece * 2 * width + first,
                ),
            )
        projected = product
        inner = nl.float32
        if rounding == "stepwise":
            inner = columns.dtype
            projected = nl.ndarray((slots, 2, part), dtype=inner, buffer=nl.sbuf)
            nisa.tensor_copy(dst=projected, src=product)
        gate = nl.ndarray((slots, part), dtype=inner, buffer=nl.sbuf)
        nisa.activation(dst=gate, op=nl.silu, data=projected[:, 0, :])
        nisa.tensor_tensor(
            dst=activated[:, first : first + part],
            data1=gate,
            data2=projected[:, 1, :],
            op=nl.multiply,
        )
    return activated


def multiply_rows(dst, columns, weight):
    """dst [B, N] = columns [P, J, B] by weight [P, J, N]; the columns are stationary.

    VE and ACT evacuate by turns: one alone would take nearly as long as the products.
    """
    _count, pieces, slots = columns.shape
    length = weight.shape[2]
    for first in range(0, length, BANK):
        last = min(first + BANK, length)
        product = nl.ndarray((slots, last - first), dtype=nl.float32, buffer=nl.psum)
        for piece in range(pieces):
            nisa.nc_matmul(
                dst=product,
                stationary=columns[:, piece, :],
                moving=weight[:, piece, first:last],
            )
        turn = first // BANK % 2
        nisa.tensor_copy(
            dst=dst[:, first:last],
            src=product,
            engine=nisa.engine.vector if turn == 0 else nisa.engine.scalar,
        )


def finish_block(activated, down, pairs, outputs, identity_tile):
    """Rows of `outputs` [8 S, H] at a block's `pairs` = activated [B, I] by down."""
    slots, hidden = activated.shape[0], outputs.shape[1]
    result = nl.ndarray((slots, hidden), dtype=outputs.dtype, buffer=nl.sbuf)
    multiply_rows(result, rows_to_columns(activated, down.shape[0], identity_tile), down)
    nisa.dma_copy(
        dst=outputs.ap(
            pattern=[[hidden, slots], [1, hidden]],
            offset=0,
            vector_offset=pairs,
            indirect_dim=0,
        ),
        src=result,
        oob_mode=nisa.oob_mode.skip,
    )


def run_blocks(outputs, table, rounds, x, w_gate_up, w_down, buffers, rounding):
    """All rounds of blocks: core c takes blocks c, c + cores, ...

    Before a block is computed, weights of the block `buffers` - 1 later and rows of the one after
    that are asked for, across rounds as well: those fetched beyond the end have the last expert and
    no pairs. The next block's rows are turned while ACT and VE activate this one's products, so
    that PE has something to do. A scatter reads its pairs from a copy: it waits behind loads of
    weights, and VE would wait for it before it could write a later block's pairs in their place.

    `while` on a register is the dynamic loop that every release has; `rounds` [1, 1] counts down
    to 0.
    """
    slots, _kinds, columns = table.shape
    number = nl.ndarray((slots, 1), dtype=nl.float32, buffer=nl.sbuf)
    nisa.memset(dst=number, value=float(nl.program_id(0)))
    numbers = index_row(slots, columns, 0)
    identity_tile = identity(slots, x.dtype)
    tiles = []
    for _buffer in range(buffers):
        tiles.append(make_buffer(x, w_gate_up, w_down, slots))
    for ahead in range(buffers):
        fetch_rows(tiles[ahead], table, numbers, number, x)
        if ahead < buffers - 1:
            fetch_weights(tiles[ahead], w_gate_up, w_down)
    turn_rows(tiles[0], identity_tile)
    left = nisa.register_alloc()
    nisa.register_load(dst=left, src=rounds)
    while left:
        for turn in range(buffers):
            _rows, turned, gate_up, down, pairs, _expert = tiles[turn]
            own_pairs = nl.ndarray((slots, 1), dtype=pairs.dtype, buffer=nl.sbuf)
            nisa.tensor_copy(dst=own_pairs, src=pairs)
            fetch_weights(tiles[(turn + buffers - 1) % buffers], w_gate_up, w_down)
            fetch_rows(tiles[turn], table, numbers, number, x)
            activated = activated_rows(turned, gate_up, rounding)
            turn_rows(tiles[(turn + 1) % buffers], identity_tile)
            finish_block(activated, down, own_pairs, outputs, identity_tile)
        nisa.tensor_scalar(dst=rounds, data=rounds, op0=nl.subtract, operand0=1.0)
        nisa.register_load(dst=left, src=rounds)


def sum_experts(out, outputs, weights, length_column, rounding):
    """out [S, H] = sum over k of weights[:, k] * outputs [8 S, H]; zero past the prompt's end.

    Each core sums one half of the columns of all tokens. The rows of a token's 8 pairs are gathered
    into zeros, which GpSimd has written meanwhile; those of padding, which nobody has written, are
    skipped.
    """
    tokens, hidden = out.shape
    share = hidden // nl.num_programs(0)
    left = share * nl.program_id(0)
    by_token = outputs.reshape((tokens, CHOSEN * hidden))
    for first in range(0, tokens, PARTITIONS):
        lines = min(PARTITIONS, tokens - first)
        real = real_tokens(first, lines, length_column)
        source = nl.ndarray((lines, 1), dtype=nl.int32, buffer=nl.sbuf)
        nisa.tensor_scalar(
            dst=source,
            data=index_column(lines, first - tokens),
            op0=nl.multiply,
            operand0=real,
            op1=nl.add,
            operand1=float(tokens),
        )
        weight_tile = nl.ndarray((lines, CHOSEN), dtype=nl.float32, buffer=nl.sbuf)
        nisa.dma_copy(dst=weight_tile, src=weights[first : first + lines, :])
        for column in range(0, share, SUM_COLUMNS):
            columns = min(SUM_COLUMNS, share - column)
            rows = nl.ndarray((lines, CHOSEN * columns), dtype=outputs.dtype, buffer=nl.sbuf)
            nisa.memset(dst=rows, value=0.0, engine=nisa.engine.gpsimd)
            nisa.dma_copy(
                dst=rows,
                src=by_token.ap(
                    pattern=[[CHOSEN * hidden, lines], [hidden, CHOSEN], [1, columns]],
                    offset=left + column,
                    vector_offset=source,
                    indirect_dim=0,
                ),
                oob_mode=nisa.oob_mode.skip,
            )
            total = weighted_rows(rows, weight_tile, columns, out.dtype, rounding)
            nisa.dma_copy(
                dst=out[first : first + lines, left + column : left + column + columns],
                src=total,
            )


def weighted_rows(rows, weight_tile, columns, dtype, rounding):
    """[lines, columns] of `dtype`: `weighted_sum`; stepwise, of products rounded to `dtype`."""
    if rounding == "fused":
        return weighted_sum(rows, weight_tile, columns, dtype)
    for rank in range(CHOSEN):
        part = rows[:, rank * columns : (rank + 1) * columns]
        nisa.tensor_scalar(
            dst=part, data=part, op0=nl.multiply, operand0=weight_tile[:, rank : rank + 1]
        )
    return weighted_sum(rows, filled(rows.shape[0], CHOSEN, 1.0, nl.float32), columns, dtype)


@nki.jit
def nki_experts_prefill_kernel(
    x, weights, experts, length, w_gate_up, w_down, rounding="fused", buffers=2
):
    """SwiGLU of 8 of up to 128 experts per token of a prompt, for up to about 2000 tokens.

    Math:        y[t, :] = sum_k weights[t, k] (silu(x_t Wg_e^T) * (x_t Wu_e^T)) Wd_e^T,
                 e = experts[t, k], for t < length; y[t, :] = 0 for the padding after it
    Dimensions:  S tokens, H hidden, E experts, I an expert's width, K = 8 chosen, B slots of a
                 block, P = partitions(H) = H / J, P' = partitions(I) = I / J'
    Args:        x          [S, H]            float32 or bfloat16   HBM
                 weights    [S, 8]            float32               HBM
                 experts    [S, 8]            uint32  HBM; 8 different ones per row
                 length     [1, 1]            int32  HBM
                 w_gate_up  [E, P, J, 2 I]    dtype of x            HBM; gate before up
                 w_down     [E, P', J', H]    dtype of x            HBM
                 rounding   string "fused" or "stepwise"
                 buffers    Python int: blocks on their way or in use at once
    Returns:     [S, H]  dtype of x  shared HBM
    Tiling:      pairs (token, rank) grouped by expert into blocks of B = 16, 32 or 64 slots (see
                 nki_token_grouping): their number follows the routing, and a loop on a register
                 runs over those there are. Core c takes blocks c, c + cores, ...; both make equal
                 trips, of as many blocks as buffers, the last ones empty if need be.
    Engine plan: grouping: VE one-hot rows, PE triangular sums, once. Per block, DMA: the expert's
                 weights by dynamic address (two DMAs, one long run per partition) one block ahead
                 of the compute, the tokens' rows by indirect DMA two blocks ahead. PE: J products
                 of [P, B] by [P, 2 I], the next block's J transposes meanwhile, J' transposes and
                 J' H / 512 products of [P', B] by [P', 512].
                 ACT: silu, half of the evacuations. VE: the other half, the product, the choice of
                 the next block. DMA: rows of results scattered to their pairs. At the end, VE: the
                 weighted sum.
    Bound:       HBM: the weights of every expert with a token once (twice where it has more than
                 B), and 16 S H fp32 elements written and read between blocks and sum
    Numerics:    sums in fp32. fused: activated products alone are rounded to the dtype of x, as
                 operands; outputs of experts wait in fp32, and the weighted sum is rounded once.
                 stepwise: gate and up, silu, activated products, outputs and their weighted
                 products are rounded to the dtype of x. The sum runs over k = 0..7: no result
                 depends on the grouping, and no two blocks write one row.
    Refuses:     other ranks, empty tensors, other dtypes and layouts, more than 128 experts, an odd
                 H on two cores, prompts with more than 512 blocks, another rounding
    """
    name = "nki_experts_prefill_kernel"
    check_expert_arguments(name, x, weights, experts, w_gate_up, w_down)
    check_shape(name, "length", length, (1, 1))
    check_dtype(name, "length", length, nl.int32)
    tokens, hidden = x.shape
    count = w_gate_up.shape[0]
    cores = nl.num_programs(0)
    assert count <= EXPERTS_LIMIT, (
        f"{name}: at most {EXPERTS_LIMIT} experts lie on partitions, received {count}"
    )
    assert hidden % cores == 0, (
        f"{name}: {cores} cores share the columns of the result, received {hidden} of them"
    )
    slots = block_slots(tokens, count)
    per_block = w_gate_up.shape[2] * w_gate_up.shape[3] + w_down.shape[2] * hidden
    buffers = max(1, min(buffers, WEIGHT_BYTES // (per_block * element_bytes(x.dtype))))
    assert most_blocks(tokens, count, slots) + 2 * buffers * cores <= BANK, (
        f"{name}: the table of blocks must fit one PSUM bank ({BANK} columns), received "
        f"{tokens} tokens; split the prompt"
    )

    out = nl.ndarray((tokens, hidden), dtype=x.dtype, buffer=nl.shared_hbm)
    inner = inner_dtype(name, rounding, x.dtype)
    outputs = nl.ndarray((CHOSEN * tokens, hidden), dtype=inner, buffer=nl.shared_hbm)
    length_column = load_length(length)
    table, rounds = group_tokens(experts, length_column, count, slots, buffers * cores)
    run_blocks(outputs, table, rounds, x, w_gate_up, w_down, buffers, rounding)
    if cores > 1:
        nisa.core_barrier(data=outputs, cores=(0, 1))
    sum_experts(out, outputs, weights, length_column, rounding)
    return out
