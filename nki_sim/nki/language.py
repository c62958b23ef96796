"""``nki.language``: the vendor's names for types, memories, operators, allocation and loops."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ..constants import HBM, ON_CHIP, PSUM, SBUF, MemoryRegion
from ..dtypes import lookup
from ..errors import IllegalProgram, NotModelled
from ..indexing import DynamicSlice
from ..machine import current
from ..memory import allocate
from ..objects import NKIObject as NKIObject
from ..operators import OPS
from ..tile_size import TileSize
from ..views import NkiTensor, full_view
from ._surface import not_modelled, vendor

DType = str
ds = DynamicSlice
bool_ = "bool"
uint8, uint16, uint32 = "uint8", "uint16", "uint32"
int8, int16, int32 = "int8", "int16", "int32"
float32, tfloat32, bfloat16, float16 = "float32", "tfloat32", "bfloat16", "float16"
float8_e4m3, float8_e4m3fn, float8_e5m2 = "float8_e4m3", "float8_e4m3fn", "float8_e5m2"
float8_e8m0fnu = "float8_e8m0fnu"
float8_e4m3fn_x4, float8_e5m2_x4 = "float8_e4m3fn_x4", "float8_e5m2_x4"
float4_e2m1fn_x4 = "float4_e2m1fn_x4"

sbuf, psum = MemoryRegion.sbuf, MemoryRegion.psum
private_hbm = hbm = MemoryRegion.private_hbm
shared_hbm = MemoryRegion.shared_hbm

tile_size = TileSize()

globals().update(OPS)

NOT_MODELLED = (
    "all", "broadcast_to", "dropout", "dynamic_range", "empty_like", "expand_dims", "fori_loop",
    "full", "gather_flattened", "load", "load_transpose2d", "matmul", "max", "mean", "min", "ones",
    "prod", "rand", "random_seed", "rms_norm", "shared_constant", "softmax", "store", "sum",
    "transpose", "var", "where", "while_loop", "zeros", "zeros_like",
)  # fmt: skip
"""Functions of SDK 2.27 to 2.32 that raise NotModelled."""

for _name in NOT_MODELLED:
    globals()[_name] = not_modelled("nki.language", _name)

_range = range


@vendor
def ndarray(
    shape: Sequence[int],
    dtype: str,
    buffer: MemoryRegion | None = sbuf,
    name: str = "",
    address: tuple[int, int] | None = None,
) -> NkiTensor:
    """An uninitialised tensor.

    Args:
        shape: dimension 0 of an SBUF or PSUM tensor is the partition.
        dtype: one of the data types of this module.
        buffer: its memory; None is sbuf.
        name: unique in the kernel.
        address: explicit placement; not modelled.
    """
    if address is not None:
        raise NotModelled(
            "nl.ndarray",
            "address= is not modelled",
            repr(address),
            "leave the placement to the compiler",
        )
    region = sbuf if buffer is None else buffer
    if not isinstance(region, MemoryRegion):
        raise IllegalProgram(
            "nl.ndarray",
            "buffer is nl.sbuf, nl.psum, nl.private_hbm or nl.shared_hbm",
            repr(buffer),
        )
    if not isinstance(shape, list | tuple):
        raise IllegalProgram("nl.ndarray", "the shape is a tuple of integers", repr(shape))
    program = current("nl.ndarray")
    return full_view(allocate(program, tuple(shape), lookup(dtype, "nl.ndarray"), region, name))


def shared_identity_matrix(n: int, dtype: str = uint8, dst: NkiTensor | None = None) -> NkiTensor:
    """An identity matrix [n, n] in SBUF."""
    from . import isa

    tile = ndarray((n, n), dtype) if dst is None else dst
    isa.memset(dst=tile, value=0)
    isa.affine_select(
        dst=tile,
        pattern=[[-1, n]],
        channel_multiplier=1,
        on_true_tile=tile,
        on_false_value=1.0,
        cmp_op=OPS["not_equal"],
    )
    return tile


def affine_range(start: int, stop: int | None = None, step: int = 1) -> range:
    """A loop that is unrolled while tracing; the same as ``range``."""
    return _range(start) if stop is None else _range(start, stop, step)


sequential_range = static_range = affine_range


def program_id(axis: int = 0) -> int:
    """This core's position in the launch grid."""
    _check_axis("nl.program_id", axis)
    return current("nl.program_id").program_id


def num_programs(axes: int = 0) -> int:
    """The number of cores in the launch grid."""
    _check_axis("nl.num_programs", axes)
    return current("nl.num_programs").num_programs


def program_ndim() -> int:
    """Dimensions of the launch grid; 0 without one."""
    return current("nl.program_ndim").program_ndim


def _check_axis(operation: str, axis: int | None) -> None:
    if axis not in (0, None):
        raise IllegalProgram(operation, "the grid has one dimension, axis 0", repr(axis))


@contextmanager
def no_reorder() -> Iterator[None]:
    """Instructions inside keep their order; here they always do."""
    yield


def device_print(print_prefix: str, tensor: NkiTensor) -> None:
    """Print a tensor's values."""
    tensor.require_written("nl.device_print", "tensor")
    print(print_prefix, tensor.array)


def par_dim(size: int) -> int:
    """The size itself (older spelling of a partition dimension)."""
    return size


def is_sbuf(buffer: MemoryRegion) -> bool:
    """Whether `buffer` is the SBUF."""
    return buffer is SBUF


def is_psum(buffer: MemoryRegion) -> bool:
    """Whether `buffer` is the PSUM."""
    return buffer is PSUM


def is_hbm(buffer: MemoryRegion) -> bool:
    """Whether `buffer` is device memory."""
    return buffer in HBM


def is_on_chip(buffer: MemoryRegion) -> bool:
    """Whether `buffer` is SBUF or PSUM."""
    return buffer in ON_CHIP
