"""What the kernels share: the partition count, how work is spread over partitions, argument checks.

Everything here runs while a kernel is traced, inside the compiler's subset of Python: asserts
instead of exceptions, `range` loops, no comprehensions.
"""

import nki.language as nl

PARTITIONS = 128  # nl.tile_size.pmax, as a plain integer that every release can compute with

# Longest row, in elements, that the row kernels keep whole on one partition. The hungriest of them
# (fused add+RMSNorm in fp32) holds 28 B per element with two tiles in flight: 168 KiB of the
# 176 KiB per partition that the smallest core offers.
ROW_LIMIT = 6144


def spread(items, size, smallest):
    """Power of two by which each of `items` pieces of `size` is cut to occupy more partitions.

    The cuts stay equal, not shorter than `smallest`, and all of them together within PARTITIONS.
    """
    cut = 1
    for _doubling in range(7):
        finer = 2 * cut
        if size % finer == 0 and size // finer >= smallest and items * finer <= PARTITIONS:
            cut = finer
    return cut


def core_share(items):
    """(first, stop): the consecutive ones of `items` that are this core's of a launch on several.

    Every item has one owner, and no two cores' shares differ by more than one.
    """
    cores = nl.num_programs(0)
    core = nl.program_id(0)
    return items * core // cores, items * (core + 1) // cores


def element_bytes(dtype):
    """Bytes of one float32 or bfloat16 element."""
    return 4 if dtype == nl.float32 else 2


def inner_dtype(kernel, dtype, rounding):
    """Dtype of the tiles between operations, as the rounding schedule wants it."""
    assert rounding == "fused" or rounding == "stepwise", (
        f"{kernel}: rounding must be 'fused' or 'stepwise', received {rounding}"
    )
    return nl.float32 if rounding == "fused" else dtype


def check_rank(kernel, name, tensor, layout):
    """Refuse a tensor which has not one dimension per name in the tuple `layout`, all non-empty."""
    shape = tuple(tensor.shape)
    rank = len(layout)
    assert len(shape) == rank, (
        f"{kernel}: {name} must have {rank} dimensions {layout}, received shape {shape}; "
        f"reshape it before the call"
    )
    for size in shape:
        assert size > 0, f"{kernel}: {name} is empty (shape {shape}); skip the call"


def check_shape(kernel, name, tensor, expected):
    """Refuse a tensor whose shape is not `expected`, which the other arguments imply."""
    shape = tuple(tensor.shape)
    assert shape == expected, (
        f"{kernel}: {name} must have shape {expected} to match the other arguments, "
        f"received {shape}; pass tensors of the same layer"
    )


def check_float(kernel, name, tensor):
    """Refuse a tensor which is neither float32 nor bfloat16."""
    dtype = tensor.dtype
    assert dtype == nl.float32 or dtype == nl.bfloat16, (
        f"{kernel}: {name} must be float32 or bfloat16, received {dtype}; cast it before the call"
    )


def check_dtype(kernel, name, tensor, expected):
    """Refuse a tensor whose dtype is not `expected`."""
    dtype = tensor.dtype
    assert dtype == expected, (
        f"{kernel}: {name} must be {expected}, received {dtype}; cast it before the call"
    )


def check_row_length(kernel, length):
    """Refuse rows that do not fit on one partition with their intermediates."""
    assert length <= ROW_LIMIT, (
        f"{kernel}: rows may have at most {ROW_LIMIT} elements, received {length}; "
        f"longer rows do not fit in one SBUF partition, split them before the call"
    )
