"""LM head of decode: final norm, logits and the greedy choice of the next token."""

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
from kernels.nki_decode_common import (
    add_columns,
    check_columns,
    check_tokens,
    evacuate,
    load_columns,
    norm_constants,
    project_columns,
    rmsnorm_columns,
    share,
    transpose,
)
from kernels.nki_moe_kernels import CHOSEN, find_largest
from kernels.nki_patterns import identity, index_column

LOWEST = -3.0e38  # below every finite logit, and finite in bfloat16
BEHIND = 8388608.0  # 2^23: added to an index it stays exact in fp32, and is larger than any index
TILES_LIMIT = 16384  # what max8 searches at once


def chunk_vocabulary(columns, dtype, chunk_bytes):
    """Entries of the vocabulary per chunk of weights: whole tiles of 128, at least one."""
    return max(1, chunk_bytes // (columns * element_bytes(dtype) * PARTITIONS)) * PARTITIONS


def vocabulary_logits(normed, w_head, first, count, inner, chunk_bytes, most_buffers):
    """[128, T, tiles] of `inner`: logits of entries first .. first + count of the vocabulary.

    normed [P, J, T]; w_head [P, J, V] in HBM. Entry first + 128 i + p lies at (p, :, i); what is
    beyond the last entry, and what fills up 8 tiles for max8, is LOWEST. Weights come in chunks
    of `chunk_bytes` per partition, which depend on nothing, `most_buffers` of them at once; a chunk
    is multiplied tile by tile into one PSUM bank.
    """
    lines, columns, tokens = normed.shape
    tiles = (count + PARTITIONS - 1) // PARTITIONS
    logits = nl.ndarray((PARTITIONS, tokens, max(tiles, CHOSEN)), dtype=inner, buffer=nl.sbuf)
    nisa.memset(dst=logits, value=LOWEST)
    chunk = min(chunk_vocabulary(columns, w_head.dtype, chunk_bytes), tiles * PARTITIONS)
    buffers = []
    for _buffer in range(most_buffers):
        buffers.append(nl.ndarray((lines, columns, chunk), dtype=w_head.dtype, buffer=nl.sbuf))
    for begin in range(0, count, chunk):
        size = min(chunk, count - begin)
        weight = buffers[begin // chunk % most_buffers]
        nisa.dma_copy(
            dst=weight[:, :, 0:size], src=w_head[:, :, first + begin : first + begin + size]
        )
        whole = size // PARTITIONS * PARTITIONS
        if whole > 0:
            put_logits(logits, weight, 0, whole, PARTITIONS, normed, begin // PARTITIONS)
        if size > whole:
            tile = (begin + whole) // PARTITIONS
            put_logits(logits, weight, whole, size - whole, size - whole, normed, tile)
    return logits


def put_logits(logits, weight, left, size, width, normed, tile):
    """logits [128, T, tiles] from `tile` on: normed by `size` columns of weight from `left` on.

    `width` entries of the vocabulary, 128 or the few that are left, are a tile.
    """
    _partitions, tokens, tiles = logits.shape
    count = size // width
    product = project_columns(weight[:, :, left : left + size], normed, 0, width)
    nisa.tensor_copy(
        dst=logits.ap(pattern=[[tokens * tiles, width], [1, count], [tiles, tokens]], offset=tile),
        src=product,
    )


def store_logits(out, logits, first, count, identity_tile):
    """Entries first .. first + count of out [T, V] = logits [128, T, tiles].

    128 tiles of a token are transposed at a time, so that rows of 128 entries are written. The
    tile that the vocabulary does not fill is written alone, the rows of all tokens at once.
    """
    tokens = logits.shape[1]
    vocabulary = out.shape[1]
    whole = count // PARTITIONS
    rest = count - whole * PARTITIONS
    for token in range(tokens):
        for tile in range(0, whole, PARTITIONS):
            some = min(PARTITIONS, whole - tile)
            rows = evacuate(
                transpose(logits[:, token, tile : tile + some], identity_tile), out.dtype
            )
            place = token * vocabulary + first + tile * PARTITIONS
            nisa.dma_copy(
                dst=out.ap(pattern=[[PARTITIONS, some], [1, PARTITIONS]], offset=place), src=rows
            )
    if rest > 0:
        rows = evacuate(transpose(logits[0:rest, :, whole], identity_tile), out.dtype)
        start = first + whole * PARTITIONS
        nisa.dma_copy(dst=out[:, start : start + rest], src=rows)


def largest_per_partition(logits, first):
    """(value [128, T], place [128, T]) fp32: the largest logit on a partition, and its entry.

    Among equals the lowest tile, and thus the lowest entry of the vocabulary on that partition.
    """
    _partitions, tokens, _tiles = logits.shape
    value = nl.ndarray((PARTITIONS, tokens), dtype=nl.float32, buffer=nl.sbuf)
    place = nl.ndarray((PARTITIONS, tokens), dtype=nl.float32, buffer=nl.sbuf)
    start = index_column(PARTITIONS, first)
    for token in range(tokens):
        largest, found = find_largest(logits[:, token, :])
        nisa.tensor_copy(dst=value[:, token : token + 1], src=largest[:, 0:1])
        nisa.tensor_scalar(
            dst=place[:, token : token + 1],
            data=found[:, 0:1],
            op0=nl.multiply,
            operand0=float(PARTITIONS),
            op1=nl.add,
            operand1=start,
        )
    return value, place


def first_of_largest(value, place):
    """(value [T, 1], place [T, 1]) fp32: the largest of each row, and of its places the lowest.

    value, place [T, N]. Places of smaller values are put behind all others.
    """
    tokens, width = value.shape
    largest = nl.ndarray((tokens, 1), dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_reduce(dst=largest, op=nl.maximum, data=value, axis=1)
    behind = nl.ndarray((tokens, width), dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_scalar(
        dst=behind,
        data=value,
        op0=nl.less,
        operand0=largest,
        op1=nl.multiply,
        operand1=BEHIND,
    )
    nisa.tensor_tensor(dst=behind, data1=behind, data2=place, op=nl.add)
    lowest = nl.ndarray((tokens, 1), dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_reduce(dst=lowest, op=nl.minimum, data=behind, axis=1)
    return largest, lowest


def greedy_choice(logits, first):
    """(largest logit [T, 1], its entry [T, 1]) fp32, the first among equals, of both cores' parts.

    logits [128, T, tiles] of this core, whose entries start at `first`. Over the tiles, then over
    the partitions by two transposes, then over the cores, which both end with the same.
    """
    value, place = largest_per_partition(logits, first)
    identity_tile = identity(PARTITIONS, nl.float32)
    rows = evacuate(transpose(value, identity_tile), nl.float32)
    places = evacuate(transpose(place, identity_tile), nl.float32)
    largest, lowest = first_of_largest(rows, places)
    if nl.num_programs(0) == 1:
        return largest, lowest
    other = 1 - nl.program_id(0)
    tokens = rows.shape[0]
    mine = nl.ndarray((tokens, 2), dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_copy(dst=mine[:, 0:1], src=largest)
    nisa.tensor_copy(dst=mine[:, 1:2], src=lowest)
    both = nl.ndarray((tokens, 4), dtype=nl.float32, buffer=nl.sbuf)
    nisa.sendrecv(src=mine, dst=both[:, 2:4], send_to_rank=other, recv_from_rank=other, pipe_id=0)
    nisa.tensor_copy(dst=both[:, 0:2], src=mine)
    value_pair = both.ap(pattern=[[4, tokens], [2, 2]], offset=0)
    return first_of_largest(value_pair, both.ap(pattern=[[4, tokens], [2, 2]], offset=1))


def store_once(out, column):
    """out [T, 1] in HBM = column [T, 1] fp32, written by the first of the cores alone.

    Both run the same scatter of rows; the second core's row numbers are beyond the end, and
    skipped.
    """
    tokens = column.shape[0]
    rounded = evacuate(column, out.dtype)
    row = nl.ndarray((tokens, 1), dtype=nl.int32, buffer=nl.sbuf)
    nisa.iota(dst=row, pattern=[[1, 1]], offset=tokens * nl.program_id(0), channel_multiplier=1)
    nisa.dma_copy(
        dst=out.ap(pattern=[[1, tokens], [1, 1]], offset=0, vector_offset=row, indirect_dim=0),
        src=rounded,
        oob_mode=nisa.oob_mode.skip,
    )


@nki.jit
def nki_lm_head_kernel(
    x, residual, norm_weight, w_head, eps, rounding="fused", chunk_bytes=32768, buffers=3
):
    """Final norm, logits over any vocabulary, and the greedy choice, for 1 to 8 tokens.

    Math:        total = x + residual; normed = total / sqrt(mean(total^2) + eps) * norm_weight
                 l = normed W^T; token[t] = the first v with l[t, v] = max_v l[t, v]
    Dimensions:  T tokens, H hidden, V vocabulary, P = partitions(H) = H / J
    Args:        x            [T, H]     float32 or bfloat16  HBM
                 residual     [T, H]     dtype of x           HBM
                 norm_weight  [P, J]     dtype of x           HBM; element j P + p at (p, j)
                 w_head       [P, J, V]  dtype of x           HBM; input j P + p at (p, j)
                 eps          Python float > 0
                 rounding     string "fused" or "stepwise"
                 chunk_bytes  Python int: of a chunk of weights, on each partition
                 buffers      Python int: chunks on their way or in use at once
    Returns:     (logits [T, V] dtype of x, largest [T, 1] float32, token [T, 1] uint32)  shared HBM
    Tiling:      a core takes one half of the vocabulary, in tiles of 128 entries on the partitions
                 (the last one smaller), tile i of token t at column (t, i). Weights come in chunks
                 of whole tiles, 32 KiB per partition, in three buffers.
    Engine plan: DMA: chunks of weights, in J runs of 2 KiB per partition; logits as rows of 128.
                 PE: V / 128 times J products of [P, 128] by [P, T], weights stationary, a chunk's
                 tiles in one PSUM bank; transposes of logits to rows. VE: one evacuation per chunk,
                 max8 and find_index8 over the tiles, the choice over partitions and cores.
    Bound:       HBM: H V elements of weights (TP 4: 156 MB); PE next, with J V / 128 pairs of load
                 and product of 48 ns
    Numerics:    fused: total stays fp32, normed is rounded once, the choice is made among the fp32
                 logits, which are rounded where they are stored. stepwise: total, both products of
                 the norm and the logits are rounded to the dtype of x first. Among equal logits the
                 lowest index wins: over tiles by find_index8, over partitions and cores by the
                 smallest index 128 i + p among those with the largest value.
    Refuses:     other ranks, empty tensors, other dtypes and layouts, more tokens than one PSUM
                 bank takes, an odd vocabulary on two cores, one of more than 2^21 entries,
                 eps <= 0, another rounding
    """
    name = "nki_lm_head_kernel"
    check_lm_head_arguments(name, x, residual, norm_weight, w_head, eps)
    inner = inner_dtype(name, rounding, x.dtype)
    tokens = x.shape[0]
    vocabulary = w_head.shape[2]
    logits_out = nl.ndarray((tokens, vocabulary), dtype=x.dtype, buffer=nl.shared_hbm)
    largest_out = nl.ndarray((tokens, 1), dtype=nl.float32, buffer=nl.shared_hbm)
    token_out = nl.ndarray((tokens, 1), dtype=nl.uint32, buffer=nl.shared_hbm)

    weight_tile = nl.ndarray(tuple(norm_weight.shape), dtype=x.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=weight_tile, src=norm_weight)
    identity_tile = identity(PARTITIONS, x.dtype)
    x_columns = load_columns(x, identity_tile)
    total = add_columns(x_columns, load_columns(residual, identity_tile), inner)
    normed = rmsnorm_columns(total, weight_tile, norm_constants(eps), inner, x.dtype)
    first, count = share(vocabulary)
    logits = vocabulary_logits(normed, w_head, first, count, inner, chunk_bytes, buffers)
    largest, token = greedy_choice(logits, first)
    store_once(largest_out, largest)
    store_once(token_out, token)
    rounded = logits
    if inner != x.dtype:
        rounded = evacuate(logits, x.dtype)
    store_logits(logits_out, rounded, first, count, identity_tile)
    return logits_out, largest_out, token_out


def check_lm_head_arguments(kernel, x, residual, norm_weight, w_head, eps):
    """Refuse what the kernel does not compute."""
    check_rank(kernel, "x", x, ("tokens", "hidden"))
    check_float(kernel, "x", x)
    tokens, hidden = x.shape
    check_shape(kernel, "residual", residual, (tokens, hidden))
    check_dtype(kernel, "residual", residual, x.dtype)
    check_columns(kernel, "norm_weight", norm_weight, hidden, x.dtype)
    check_tokens(kernel, tokens, hidden)
    check_rank(kernel, "w_head", w_head, ("partitions", "columns", "vocabulary"))
    check_dtype(kernel, "w_head", w_head, x.dtype)
    lines, columns = norm_weight.shape
    vocabulary = w_head.shape[2]
    check_shape(kernel, "w_head", w_head, (lines, columns, vocabulary))
    assert vocabulary <= PARTITIONS * TILES_LIMIT, (
        f"{kernel}: at most {PARTITIONS * TILES_LIMIT} entries are searched for the largest logit, "
        f"received a vocabulary of {vocabulary}; split it over ranks"
    )
    assert isinstance(eps, float) and eps > 0.0, (
        f"{kernel}: eps must be a positive Python float, received {eps}"
    )
