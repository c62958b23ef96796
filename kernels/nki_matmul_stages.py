"""Stages on the tensor engine: transposes by an identity, and rows projected by packed weights."""

import nki.isa as nisa
import nki.language as nl

from kernels.nki_common import element_bytes

BANK_BYTES = 2048  # of PSUM per partition: what one instruction may write, 512 fp32
BANK_COLUMNS = 512  # fp32 sums in a bank
# Outputs that are accumulated side by side, 3 banks: so many again may be in flight, and 2 of the 8
# banks are left for transposes.
COLUMNS_AT_ONCE = 3 * BANK_COLUMNS
# Of a weight on a partition at once. The largest of Qwen3-30B-A3B on 4 ranks (queries, keys and
# values in bfloat16) fits whole, and two such parts leave room on the smallest core.
WEIGHT_BYTES = 40960
WEIGHT_LOADS = 4  # DMAs per weight: the first matmuls begin when a quarter of it is there
# All tokens of a prompt as columns, on a partition: 4 times what the hidden states of the largest
# bucket take in bfloat16. Rows, two parts of a weight and a part's results have room beside it.
COLUMNS_BYTES = 81920


def check_prompt(kernel, tokens, depth, dtype):
    """Refuse more tokens than lie on chip as columns [P, depth, tokens]."""
    most = COLUMNS_BYTES // (depth * element_bytes(dtype))
    assert tokens <= most, (
        f"{kernel}: at most {most} tokens of this width fit in SBUF, received {tokens}; split the "
        f"prompt before the call"
    )


def transpose_pieces(dst, piece, first, source, eye, room=1):
    """dst[:, piece + i, first : first + rows] = transpose of columns i * W .. of source, for all i.

    dst [W, pieces, tokens], source [rows, n * W] of one dtype, eye an identity of at least `rows`.
    As many transposes as a PSUM bank holds are evacuated by one instruction; as if there were
    `room` rows at least, so that cores whose tiles differ by a row run the same instructions.
    """
    width = dst.shape[0]
    rows, length = source.shape
    pieces = length // width
    at_once = BANK_BYTES // (max(rows, room) * element_bytes(source.dtype))
    for start in range(0, pieces, at_once):
        stop = min(start + at_once, pieces)
        turned = nl.ndarray((width, stop - start, rows), dtype=source.dtype, buffer=nl.psum)
        for number in range(start, stop):
            nisa.nc_matmul(
                dst=turned[:, number - start, :],
                stationary=source[:, number * width : (number + 1) * width],
                moving=eye[0:rows, 0:rows],
                is_transpose=True,
            )
        nisa.tensor_copy(dst=dst[:, piece + start : piece + stop, first : first + rows], src=turned)


def rows_to_columns(rows, count, eye):
    """[P, J, B] columns of `rows` [B, N], N = J P: element j P + p at (p, j). `count` is P."""
    lines, length = rows.shape
    columns = nl.ndarray((count, length // count, lines), dtype=rows.dtype, buffer=nl.sbuf)
    transpose_pieces(columns, 0, 0, rows, eye)
    return columns


def load_heads(heads, first, count):
    """[D, count, S] tile: `count` heads from `first` of [heads, D, S] in HBM, tokens as columns."""
    _heads, head_dim, tokens = heads.shape
    tile = nl.ndarray((head_dim, count, tokens), dtype=heads.dtype, buffer=nl.sbuf)
    pattern = [[tokens, head_dim], [head_dim * tokens, count], [1, tokens]]
    nisa.dma_copy(dst=tile, src=heads.ap(pattern=pattern, offset=first * head_dim * tokens))
    return tile


def store_heads(out, head, element, token, columns):
    """out [heads, D, S] from `head`, `element` and `token` on = columns [elements, n, tokens]."""
    _heads, head_dim, prompt = out.shape
    elements, count, tokens = columns.shape
    pattern = [[prompt, elements], [head_dim * prompt, count], [1, tokens]]
    offset = (head * head_dim + element) * prompt + token
    nisa.dma_copy(dst=out.ap(pattern=pattern, offset=offset), src=columns)


def outputs_at_once(outputs, unit, weight):
    """How many of `outputs` columns of weight [P, J, N] are on chip together, in whole `unit`s.

    The parts are equal but for the last, so that none is left with little to do.
    """
    room = WEIGHT_BYTES // (weight.shape[1] * element_bytes(weight.dtype))
    limit = max(min(room, COLUMNS_AT_ONCE) // unit, 1)
    units = (outputs + unit - 1) // unit
    parts = (units + limit - 1) // limit
    return (units + parts - 1) // parts * unit


def cut_ranges(ranges, first, stop):
    """The part first .. stop of a list of ranges (first, stop) that follow one another: a list."""
    parts = []
    covered = 0
    for number in range(len(ranges)):
        begin, end = ranges[number]
        here = max(begin, begin + first - covered)
        there = min(end, begin + stop - covered)
        if here < there:
            parts.append((here, there))
        covered = covered + end - begin
    return parts


def load_outputs(weight, ranges, loads=WEIGHT_LOADS):
    """[P, J, n] tile: columns of a packed weight [P, J, N] in HBM.

    `ranges` is a list of those wanted: (first, stop), one behind the other on the tile, each
    brought in by `loads` DMAs.
    """
    partitions, depth, _outputs = weight.shape
    count = 0
    for number in range(len(ranges)):
        begin, end = ranges[number]
        count = count + end - begin
    tile = nl.ndarray((partitions, depth, count), dtype=weight.dtype, buffer=nl.sbuf)
    step = (depth + loads - 1) // loads
    for start in range(0, depth, step):
        stop = min(start + step, depth)
        place = 0
        for number in range(len(ranges)):
            begin, end = ranges[number]
            nisa.dma_copy(
                dst=tile[:, start:stop, place : place + end - begin],
                src=weight[:, start:stop, begin:end],
            )
            place = place + end - begin
    return tile


def project_rows(columns, first, tokens, weights):
    """PSUM tiles [tokens, up to 512] fp32, left to right: tokens from `first` times weights.

    columns [P, J, all tokens] and weights [P, J, N] of one dtype. J is the outer loop, so that the
    matmuls follow the weights as they come in and a block of tokens is loaded once for all N.
    """
    depth = weights.shape[1]
    outputs = weights.shape[2]
    sums = []
    for start in range(0, outputs, BANK_COLUMNS):
        width = min(BANK_COLUMNS, outputs - start)
        sums.append(nl.ndarray((tokens, width), dtype=nl.float32, buffer=nl.psum))
    for j in range(depth):
        for number in range(len(sums)):
            start = number * BANK_COLUMNS
            stop = start + sums[number].shape[1]
            nisa.nc_matmul(
                dst=sums[number],
                stationary=columns[:, j, first : first + tokens],
                moving=weights[:, j, start:stop],
            )
    return sums


def evacuate_rows(dst, sums, first):
    """dst [tokens, n] = columns first .. first + n of the tiles of `project_rows`, rounded once."""
    length = dst.shape[1]
    for number in range(len(sums)):
        start = number * BANK_COLUMNS
        stop = start + sums[number].shape[1]
        begin = max(start, first)
        end = min(stop, first + length)
        if begin < end:
            nisa.tensor_copy(
                dst=dst[:, begin - first : end - first],
                src=sums[number][:, begin - start : end - start],
            )
