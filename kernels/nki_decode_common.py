"""Stages that the decode kernels share: columns of activations, linear weights, the two cores.

On chip the activations of T tokens are *columns* [P, J, T] (`kernels.layouts`): element j P + p of
a vector of P J lies at (p, j). That is what the tensor engine contracts over, and what it gives
when a weight is its stationary operand, so no transpose stands between two products. Every stage
takes and gives tiles; the kernels load, store, and put them in order.

On two cores each runs the same instructions on its share of the work. Which share is arithmetic on
the core's number, never a branch.
"""

import nki.isa as nisa
import nki.language as nl

from kernels.nki_common import PARTITIONS, check_dtype, check_rank, check_shape
from kernels.nki_patterns import filled

LOAD_BYTES = 32768  # per partition: the most that one load of a weight brings in
MOST_LOADS = 4  # of one weight that may lie on chip before they are needed
BANK = 512  # fp32 elements per partition of one PSUM bank: what one tile of products may hold


def column_partitions(size):
    """P of a vector of `size` elements: `kernels.layouts.partitions`, as kernels may write it."""
    for count in range(min(size, PARTITIONS), 1, -1):
        if size % count == 0:
            return count
    return 1


def check_columns(kernel, name, weight, length, dtype):
    """Refuse a weight of norm which is not [P, J] of `length` and `dtype`."""
    lines = column_partitions(length)
    check_rank(kernel, name, weight, ("partitions", "columns"))
    check_shape(kernel, name, weight, (lines, length // lines))
    check_dtype(kernel, name, weight, dtype)


def check_tokens(kernel, tokens, length):
    """Refuse more tokens, or longer ones, than one PSUM bank takes as columns."""
    count = length // column_partitions(length)
    assert count <= PARTITIONS and tokens * count <= BANK, (
        f"{kernel}: {tokens} tokens of {length} elements are too many columns for one PSUM bank, "
        f"received {tokens * count}, at most {BANK}; pass fewer tokens"
    )


def check_eps(kernel, eps):
    """Refuse a useless eps."""
    assert isinstance(eps, float) and eps > 0.0, (
        f"{kernel}: eps must be a positive Python float, received {eps}; rsqrt of zeros is infinite"
    )


# Columns from HBM and back.


def transpose(tile, identity_tile):
    """[F, P] PSUM: the exact transpose of a [P, F] tile; F may be several dimensions."""
    lines = tile.shape[0]
    width = 1
    for axis in range(1, len(tile.shape)):
        width = width * tile.shape[axis]
    transposed = nl.ndarray((width, lines), dtype=tile.dtype, buffer=nl.psum)
    nisa.nc_matmul(
        dst=transposed,
        stationary=tile,
        moving=identity_tile[0:lines, 0:lines],
        is_transpose=True,
    )
    return transposed


def load_columns(x, identity_tile):
    """[P, J, T] columns of x [T, N] in HBM, in its dtype, which is the identity's.

    As many tokens at a time as have T J <= 128 come in as rows (t, j) of P elements; one transpose
    makes them columns. Loading columns as they lie would be a DMA descriptor per element.
    """
    tokens, length = x.shape
    lines = column_partitions(length)
    count = length // lines
    rows = x.reshape((tokens * count, lines))
    columns = nl.ndarray((lines, count, tokens), dtype=x.dtype, buffer=nl.sbuf)
    step = PARTITIONS // count
    for first in range(0, tokens, step):
        some = min(step, tokens - first)
        tile = nl.ndarray((some * count, lines), dtype=x.dtype, buffer=nl.sbuf)
        nisa.dma_copy(dst=tile, src=rows[first * count : (first + some) * count, :])
        transposed = transpose(tile, identity_tile)
        token_major = [[count * tokens, lines], [1, some], [tokens, count]]
        source = [[some * count, lines], [count, some], [1, count]]
        nisa.tensor_copy(
            dst=columns.ap(pattern=token_major, offset=first),
            src=transposed.ap(pattern=source, offset=0),
        )
    return columns


def store_columns(out, columns, identity_tile):
    """Write columns [P, J, T] to out [T, N] in HBM; all three of one dtype.

    Two cores that both hold the columns write one half of every row of P elements each.
    """
    lines, count, tokens = columns.shape
    start, width = share(lines)
    rows = out.reshape((tokens * count, lines))
    step = PARTITIONS // count
    for first in range(0, tokens, step):
        some = min(step, tokens - first)
        token_major = [[count * tokens, lines], [1, some], [tokens, count]]
        transposed = transpose(columns.ap(pattern=token_major, offset=first), identity_tile)
        tile = nl.ndarray((some * count, lines), dtype=out.dtype, buffer=nl.sbuf)
        nisa.tensor_copy(dst=tile, src=transposed)
        nisa.dma_copy(
            dst=rows[first * count : (first + some) * count, start : start + width],
            src=tile[:, start : start + width],
        )


def add_columns(columns, others, dtype):
    """The sum of two tiles [P, J, T], at most one of them in PSUM, as a tile of `dtype`."""
    total = nl.ndarray(tuple(columns.shape), dtype=dtype, buffer=nl.sbuf)
    nisa.tensor_tensor(dst=total, data1=columns, data2=others, op=nl.add)
    return total


def evacuate(columns, dtype):
    """A copy in SBUF and `dtype` of a tile in PSUM."""
    tile = nl.ndarray(tuple(columns.shape), dtype=dtype, buffer=nl.sbuf)
    nisa.tensor_copy(dst=tile, src=columns)
    return tile


# Norm and projection.


def norm_constants(eps):
    """(ones [128, 128], eps [128, 1]) fp32: what `reciprocal_rms_of_columns` reads."""
    return filled(PARTITIONS, PARTITIONS, 1.0, nl.float32), filled(PARTITIONS, 1, eps, nl.float32)


def rmsnorm_columns(columns, weight_tile, constants, inner, dtype):
    """RMSNorm of columns [P, J, T] by weight [P, J]: columns of `dtype`, rounded by `inner`.

    `constants` are `norm_constants`. Squares are summed along a partition while they are made, one
    token at a time, and then over the partitions.
    """
    lines, count, tokens = columns.shape
    squares = nl.ndarray((lines, count), dtype=nl.float32, buffer=nl.sbuf)
    sums = nl.ndarray((lines, tokens), dtype=nl.float32, buffer=nl.sbuf)
    for token in range(tokens):
        nisa.activation(
            dst=squares,
            op=nl.square,
            data=columns[:, :, token],
            reduce_op=nl.add,
            reduce_res=sums[:, token : token + 1],
            reduce_cmd=nisa.reduce_cmd.reset_reduce,
        )
    rstd = reciprocal_rms_of_columns(sums, lines * count, constants)
    return scale_columns(columns, rstd, weight_tile, inner, dtype)


def reciprocal_rms_of_columns(sums, length, constants):
    """[P, N] fp32: 1 / sqrt(s / length + eps), s the sum of [P, N] fp32 over the partitions.

    A product with ones sums over the partitions and gives every one of them the sum.
    """
    lines, width = sums.shape
    ones, eps_column = constants
    total = nl.ndarray((lines, width), dtype=nl.float32, buffer=nl.psum)
    nisa.nc_matmul(dst=total, stationary=ones[0:lines, 0:lines], moving=sums)
    rstd = nl.ndarray((lines, width), dtype=nl.float32, buffer=nl.sbuf)
    nisa.activation(
        dst=rstd, op=nl.rsqrt, data=total, scale=1.0 / length, bias=eps_column[0:lines, :]
    )
    return rstd


def scale_columns(columns, rstd, weight_tile, inner, dtype):
    """Columns [P, J, T] times rstd [P, T] fp32, rounded to `inner`, times weight [P, J]."""
    lines, count, tokens = columns.shape
    normed = nl.ndarray((lines, count, tokens), dtype=dtype, buffer=nl.sbuf)
    if inner == nl.float32:
        for token in range(tokens):
            nisa.scalar_tensor_tensor(
                dst=normed[:, :, token],
                data=columns[:, :, token],
                op0=nl.multiply,
                operand0=rstd[:, token : token + 1],
                op1=nl.multiply,
                operand1=weight_tile,
            )
        return normed
    scaled = nl.ndarray((lines, count, tokens), dtype=inner, buffer=nl.sbuf)
    nisa.tensor_tensor(
        dst=scaled,
        data1=columns,
        data2=rstd.ap(pattern=[[tokens, lines], [0, count], [1, tokens]], offset=0),
        op=nl.multiply,
    )
    nisa.tensor_tensor(
        dst=normed,
        data1=scaled,
        data2=weight_tile.ap(pattern=[[count, lines], [1, count], [0, tokens]], offset=0),
        op=nl.multiply,
    )
    return normed


def bring_in(tile, source, paced):
    """Load a tile from HBM: as soon as there is room for it or, if `paced`, in GpSimd's turn.

    GpSimd triggers its DMAs in program order, behind the barrier of the cores that comes before
    them: so a load for later does not get in the way of the small ones that are waited for.
    """
    nisa.dma_copy(
        dst=tile,
        src=source,
        dge_mode=nisa.dge_mode.swdge if paced else nisa.dge_mode.unknown,
    )


def load_whole(tensor, paced=False):
    """A tile with all of a tensor in HBM of at most 128 rows; see `bring_in`."""
    tile = nl.ndarray(tuple(tensor.shape), dtype=tensor.dtype, buffer=nl.sbuf)
    bring_in(tile, tensor, paced)
    return tile


def load_linear(weight, first_column, columns, first_output, outputs, paced=False):
    """[P, columns, outputs] tile: a part of weight [P, J, N] in HBM, by one DMA; see `bring_in`.

    All outputs of all columns are one contiguous run per partition; so are those of some columns.
    """
    tile = nl.ndarray((weight.shape[0], columns, outputs), dtype=weight.dtype, buffer=nl.sbuf)
    part = weight[
        :,
        first_column : first_column + columns,
        first_output : first_output + outputs,
    ]
    bring_in(tile, part, paced)
    return tile


def project_into(product, first_block, weight_tile, columns, first_column):
    """Add columns [P, J, T] by a weight tile [P, J', N] to blocks of product [width, N / width, T].

    Output i width + m of the tile goes to (m, first_block + i) of a PSUM tile. The weight's J'
    columns meet those of the activations from `first_column` on; a weight that covers only some of
    them gives a part of the sum. The weight is stationary, the tokens move.
    """
    steps, outputs = weight_tile.shape[1], weight_tile.shape[2]
    width = product.shape[0]
    for block in range(outputs // width):
        for step in range(steps):
            nisa.nc_matmul(
                dst=product[:, first_block + block, :],
                stationary=weight_tile[:, step, block * width : (block + 1) * width],
                moving=columns[:, first_column + step, :],
            )


def project_columns(weight_tile, columns, first_column, width):
    """[width, N / width, T] fp32 PSUM: columns by a whole weight tile, see `project_into`."""
    count = weight_tile.shape[2] // width
    product = nl.ndarray((width, count, columns.shape[2]), dtype=nl.float32, buffer=nl.psum)
    project_into(product, 0, weight_tile, columns, first_column)
    return product


def blocks_at_once(weight, part, width):
    """How many blocks of `width` outputs one load of a linear weight's part brings in."""
    itemsize = 4 if weight.dtype == nl.float32 else 2
    _first_column, steps, _first_output, outputs = part
    return max(1, min(outputs // width, LOAD_BYTES // (steps * width * itemsize)))


def prefetch_linear(weight, part, width, paced=False):
    """The tiles of a part of a linear weight, on their way before they are needed; see `bring_in`.

    `part` is (first column, columns, first output, outputs). None if they are more than should lie
    on chip at once: `project_linear` then loads each in its turn.
    """
    _first_column, steps, first_output, outputs = part
    at_once = blocks_at_once(weight, part, width)
    blocks = outputs // width
    if blocks > MOST_LOADS * at_once:
        return None
    tiles = []
    for first in range(0, blocks, at_once):
        count = min(at_once, blocks - first)
        tiles.append(
            load_linear(weight, part[0], steps, first_output + first * width, count * width, paced)
        )
    return tiles


def project_linear(weight, tiles, part, columns, width):
    """[width, outputs / width, T] fp32 PSUM: columns by a part of weight [P, J, N].

    `columns` [P, columns of the part, T] are those activations which the part's columns meet;
    `tiles` are what `prefetch_linear` gave for the same weight and part.
    """
    first_column, steps, first_output, outputs = part
    at_once = blocks_at_once(weight, part, width)
    blocks = outputs // width
    product = nl.ndarray((width, blocks, columns.shape[2]), dtype=nl.float32, buffer=nl.psum)
    for first in range(0, blocks, at_once):
        count = min(at_once, blocks - first)
        if tiles == None:
            start = first_output + first * width
            tile = load_linear(weight, first_column, steps, start, count * width)
        else:
            tile = tiles[first // at_once]
        project_into(product, first, tile, columns, 0)
    return product


# The two cores of a launch.


def share(total):
    """(first, count): this core's part of range(total), which the cores divide evenly."""
    cores = nl.num_programs(0)
    count = total // cores
    assert count * cores == total, (
        f"{total} pieces of work do not divide over {cores} cores: received an odd number; "
        f"launch the kernel on one core"
    )
    return nl.program_id(0) * count, count


def exchange_and_add(tile):
    """The sum of both cores' tiles, on both of them, in place of a tile in SBUF; alone, itself."""
    if nl.num_programs(0) > 1:
        other = 1 - nl.program_id(0)
        received = nl.ndarray(tuple(tile.shape), dtype=tile.dtype, buffer=nl.sbuf)
        nisa.sendrecv(src=tile, dst=received, send_to_rank=other, recv_from_rank=other, pipe_id=0)
        nisa.tensor_tensor(dst=tile, data1=tile, data2=received, op=nl.add)
    return tile
