"""Prompt tokens grouped by expert on chip: whose a block is, and which pairs it holds.

A pair is a token and one of its 8 experts, number 8 t + k. Every expert's pairs, in the order of
their tokens, fill blocks of B slots; only an expert's last block has empty slots. All arithmetic is
on small integers, which fp32 and, up to 256, bfloat16 hold exactly.
"""

import nki.isa as nisa
import nki.language as nl

from kernels.nki_common import PARTITIONS
from kernels.nki_decode_common import filled
from kernels.nki_moe_kernels import CHOSEN
from kernels.nki_patterns import index_column, index_row, order_matrix

SMALLEST_BLOCK = 16
LARGEST_BLOCK = 64


def block_slots(tokens, experts):
    """B: the smallest power of two from 16 to 64 that holds 1.2 times an expert's mean load.

    A block costs one load of an expert's weights and a time on the tensor engine that hardly
    depends on B (the slots are the stationary operand). Larger blocks load fewer experts twice;
    smaller ones multiply fewer empty slots.
    """
    slots = SMALLEST_BLOCK
    for _doubling in range(2):
        if slots < LARGEST_BLOCK and 5 * slots * experts < 6 * CHOSEN * tokens:
            slots = 2 * slots
    return slots


def most_blocks(tokens, experts, slots):
    """The most blocks that any routing of all tokens fills."""
    pairs = CHOSEN * tokens
    used = min(experts, pairs)
    return used + (pairs - used) // slots


def round_up_quotient(dst, data, divisor):
    """dst (int32) = the smallest integer >= data / divisor; `divisor` is a power of two.

    x / d + 1/2 - 1/(2 d) is never halfway between integers, and its nearest integer is that one.
    """
    half = 0.5 - 0.5 / divisor
    nisa.tensor_scalar(
        dst=dst,
        data=data,
        op0=nl.multiply,
        operand0=1.0 / divisor,
        op1=nl.add,
        operand1=half,
    )


def round_down_quotient(dst, data, divisor):
    """dst (int32) = the largest integer <= data / divisor; `divisor` is a power of two."""
    half = 0.5 / divisor - 0.5
    nisa.tensor_scalar(
        dst=dst,
        data=data,
        op0=nl.multiply,
        operand0=1.0 / divisor,
        op1=nl.add,
        operand1=half,
    )


def load_length(length):
    """[128, 1] fp32: the prompt's length on every partition."""
    loaded = nl.ndarray((PARTITIONS, 1), dtype=nl.int32, buffer=nl.sbuf)
    nisa.dma_copy(dst=loaded, src=length.ap(pattern=[[0, PARTITIONS], [1, 1]], offset=0))
    column = nl.ndarray((PARTITIONS, 1), dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_copy(dst=column, src=loaded)
    return column


def real_tokens(first, lines, length_column):
    """[lines, 1] fp32: 1 where token first + p is before the prompt's end, 0 in the padding."""
    real = nl.ndarray((lines, 1), dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_scalar(
        dst=real,
        data=index_column(lines, first),
        op0=nl.less,
        operand0=length_column[0:lines, :],
    )
    return real


def choices(experts, first, lines, real, count):
    """Choices of tokens first .. first + lines, as 0 and 1 in bfloat16.

    Returns [lines, 8, E], 1 at (t, k, e) where e is the k-th expert of t, and [lines, E], its sum
    over k. Padding chooses nothing: with e - E in place of e, its 0 equals no expert.
    """
    ids = nl.ndarray((lines, CHOSEN), dtype=experts.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=ids, src=experts[first : first + lines, :])
    shifted = nl.ndarray((lines, CHOSEN), dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_scalar(
        dst=shifted,
        data=ids,
        op0=nl.subtract,
        operand0=float(count),
        op1=nl.multiply,
        operand1=real,
    )
    chosen = nl.ndarray((lines, CHOSEN, count), dtype=nl.bfloat16, buffer=nl.sbuf)
    nisa.tensor_tensor(
        dst=chosen,
        data1=index_row(lines, count, -count).ap(
            pattern=[[count, lines], [0, CHOSEN], [1, count]], offset=0
        ),
        data2=shifted.ap(pattern=[[CHOSEN, lines], [1, CHOSEN], [0, count]], offset=0),
        op=nl.equal,
    )
    half = nl.ndarray((lines, CHOSEN // 2, count), dtype=nl.bfloat16, buffer=nl.sbuf)
    nisa.tensor_tensor(dst=half, data1=chosen[:, 0:4, :], data2=chosen[:, 4:8, :], op=nl.add)
    nisa.tensor_tensor(dst=half[:, 0:2, :], data1=half[:, 0:2, :], data2=half[:, 2:4, :], op=nl.add)
    any_rank = nl.ndarray((lines, count), dtype=nl.bfloat16, buffer=nl.sbuf)
    nisa.tensor_tensor(dst=any_rank, data1=half[:, 0, :], data2=half[:, 1, :], op=nl.add)
    return chosen, any_rank


def blocks_per_expert(any_ranks, slots):
    """[E, 128] bfloat16: the blocks that each expert's tokens fill, 128 times."""
    count = any_ranks[0].shape[1]
    total = nl.ndarray((count, 1), dtype=nl.float32, buffer=nl.psum)
    one = filled(PARTITIONS, 1, 1.0, nl.bfloat16)
    for tile in any_ranks:
        nisa.nc_matmul(dst=total, stationary=tile, moving=one[0 : tile.shape[0], :])
    rounded = nl.ndarray((count, 1), dtype=nl.int32, buffer=nl.sbuf)
    round_up_quotient(rounded, total, slots)
    column = nl.ndarray((count, 1), dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_copy(dst=column, src=rounded)
    blocks = filled(count, PARTITIONS, 1.0, nl.bfloat16)
    nisa.tensor_scalar(dst=blocks, data=blocks, op0=nl.multiply, operand0=column)
    return blocks


def slots_of_pairs(number, any_ranks, chosen, blocks, slots):
    """[lines, 8] fp32: the slot of every pair of token tile `number`.

    An expert's first slot is B times the blocks of the experts before it; a token's place after
    that is the number of earlier tokens which chose the expert. Both are matmuls with triangular
    matrices of ones, summed in one PSUM tile; the 8 of a token are picked out of its row of E.
    """
    lines, count = any_ranks[number].shape
    slot = nl.ndarray((lines, count), dtype=nl.float32, buffer=nl.psum)
    nisa.nc_matmul(
        dst=slot,
        stationary=blocks[:, 0:lines],
        moving=order_matrix(count, nl.greater, float(slots), nl.bfloat16),
    )
    everything = filled(PARTITIONS, lines, 1.0, nl.bfloat16)
    for earlier in range(number):
        nisa.nc_matmul(dst=slot, stationary=everything, moving=any_ranks[earlier])
    nisa.nc_matmul(
        dst=slot,
        stationary=order_matrix(lines, nl.greater, 1.0, nl.bfloat16),
        moving=any_ranks[number],
    )
    picked = nl.ndarray((lines, CHOSEN, count), dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_tensor(
        dst=picked,
        data1=chosen,
        data2=slot.ap(pattern=[[count, lines], [0, CHOSEN], [1, count]], offset=0),
        op=nl.multiply,
    )
    found = nl.ndarray((lines, CHOSEN), dtype=nl.float32, buffer=nl.sbuf)
    for rank in range(CHOSEN):
        nisa.tensor_reduce(
            dst=found[:, rank : rank + 1],
            op=nl.add,
            data=picked.ap(pattern=[[CHOSEN * count, lines], [1, count]], offset=rank * count),
            axis=1,
        )
    return found


def one_hot(values, count):
    """[lines, 8, count] fp32: 1 at (p, k, values[p, k])."""
    lines = values.shape[0]
    hot = nl.ndarray((lines, CHOSEN, count), dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_tensor(
        dst=hot,
        data1=index_row(lines, count, 0).ap(
            pattern=[[count, lines], [0, CHOSEN], [1, count]], offset=0
        ),
        data2=values.ap(pattern=[[CHOSEN, lines], [1, CHOSEN], [0, count]], offset=0),
        op=nl.equal,
    )
    return hot


def put_pairs(table, found, first, real, slots):
    """Add to PSUM `table` [B, blocks] the number + 1 of each pair, at its slot and block.

    A product of two one-hot matrices per rank: the stationary one marks slots and carries the
    number (0 in the padding, which thus adds nothing), the moving one marks blocks.
    """
    lines = found.shape[0]
    rounded = nl.ndarray((lines, CHOSEN), dtype=nl.int32, buffer=nl.sbuf)
    round_down_quotient(rounded, found, slots)
    block = nl.ndarray((lines, CHOSEN), dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_copy(dst=block, src=rounded)
    place = nl.ndarray((lines, CHOSEN), dtype=nl.float32, buffer=nl.sbuf)
    nisa.scalar_tensor_tensor(
        dst=place,
        data=block,
        op0=nl.multiply,
        operand0=float(-slots),
        op1=nl.add,
        operand1=found,
    )
    pair = nl.ndarray((lines, CHOSEN), dtype=nl.float32, buffer=nl.sbuf)
    nisa.iota(dst=pair, pattern=[[1, CHOSEN]], offset=CHOSEN * first + 1, channel_multiplier=CHOSEN)
    nisa.tensor_scalar(dst=pair, data=pair, op0=nl.multiply, operand0=real)
    marked = one_hot(place, slots)
    nisa.tensor_tensor(
        dst=marked,
        data1=marked,
        data2=pair.ap(pattern=[[CHOSEN, lines], [1, CHOSEN], [0, slots]], offset=0),
        op=nl.multiply,
    )
    where = one_hot(block, table.shape[1])
    for rank in range(CHOSEN):
        nisa.nc_matmul(dst=table, stationary=marked[:, rank, :], moving=where[:, rank, :])


def expert_of_blocks(blocks, slots, columns):
    """PSUM [B, columns]: on every partition, the expert of each block; E past the last one.

    That is the number of experts whose blocks end at or before it.
    """
    count = blocks.shape[0]
    end = nl.ndarray((count, 1), dtype=nl.float32, buffer=nl.psum)
    nisa.nc_matmul(
        dst=end,
        stationary=order_matrix(count, nl.greater_equal, 1.0, nl.bfloat16),
        moving=blocks[:, 0:1],
    )
    end_column = nl.ndarray((count, 1), dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_copy(dst=end_column, src=end)
    ended = nl.ndarray((count, columns), dtype=nl.bfloat16, buffer=nl.sbuf)
    nisa.tensor_scalar(
        dst=ended,
        data=index_row(count, columns, 0),
        op0=nl.greater_equal,
        operand0=end_column,
    )
    expert = nl.ndarray((slots, columns), dtype=nl.float32, buffer=nl.psum)
    nisa.nc_matmul(dst=expert, stationary=filled(count, slots, 1.0, nl.bfloat16), moving=ended)
    return expert


def block_table(table, blocks, pairs):
    """[B, 2, blocks] fp32: the pair in each slot, and on every partition the block's expert.

    Empty slots get the number `pairs`, which is one past the last pair; blocks past the last one
    get the last expert.
    """
    slots, columns = table.shape
    result = nl.ndarray((slots, 2, columns), dtype=nl.float32, buffer=nl.sbuf)
    numbers = nl.ndarray((slots, columns), dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_copy(dst=numbers, src=table)
    empty = nl.ndarray((slots, columns), dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_scalar(
        dst=empty,
        data=numbers,
        op0=nl.equal,
        operand0=0.0,
        op1=nl.multiply,
        operand1=float(pairs + 1),
    )
    nisa.scalar_tensor_tensor(
        dst=result[:, 0, :],
        data=numbers,
        op0=nl.subtract,
        operand0=1.0,
        op1=nl.add,
        operand1=empty,
    )
    nisa.tensor_scalar(
        dst=result[:, 1, :],
        data=expert_of_blocks(blocks, slots, columns),
        op0=nl.minimum,
        operand0=float(blocks.shape[0] - 1),
    )
    return result


def count_rounds(blocks, per_round):
    """[1, 1] int32: rounds of `per_round` blocks (a power of two) until all are done."""
    total = nl.ndarray((1, 1), dtype=nl.float32, buffer=nl.psum)
    nisa.nc_matmul(
        dst=total, stationary=filled(blocks.shape[0], 1, 1.0, nl.bfloat16), moving=blocks[:, 0:1]
    )
    rounds = nl.ndarray((1, 1), dtype=nl.int32, buffer=nl.sbuf)
    round_up_quotient(rounds, total, per_round)
    return rounds


def group_tokens(experts, length_column, count, slots, per_round):
    """Group a prompt's tokens by expert, in blocks of `slots`.

    experts [S, 8] uint32 in HBM. Returns the table [B, 2, blocks] of `block_table`, with room for
    a whole round of `per_round` blocks after the last, and the number of rounds [1, 1] int32.
    """
    tokens = experts.shape[0]
    columns = most_blocks(tokens, count, slots) + 2 * per_round
    reals = []
    chosens = []
    any_ranks = []
    for first in range(0, tokens, PARTITIONS):
        lines = min(PARTITIONS, tokens - first)
        real = real_tokens(first, lines, length_column)
        chosen, any_rank = choices(experts, first, lines, real, count)
        reals.append(real)
        chosens.append(chosen)
        any_ranks.append(any_rank)
    blocks = blocks_per_expert(any_ranks, slots)
    table = nl.ndarray((slots, columns), dtype=nl.float32, buffer=nl.psum)
    for number in range(len(any_ranks)):
        found = slots_of_pairs(number, any_ranks, chosens[number], blocks, slots)
        put_pairs(table, found, number * PARTITIONS, reals[number], slots)
    return block_table(table, blocks, CHOSEN * tokens), count_rounds(blocks, per_round)
