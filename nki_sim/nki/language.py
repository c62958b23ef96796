"""``nki.language``: the vendor's names for types, memories, operators, allocation and loops."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ..constants import HBM, ON_CHIP, PSUM, SBUF, MemoryRegion
from ..errors import IllegalProgram
from ..functions.allocation import dropout as dropout
from ..functions.allocation import empty_like as empty_like
from ..functions.allocation import full as full
from ..functions.allocation import make
from ..functions.allocation import ones as ones
from ..functions.allocation import rand as rand
from ..functions.allocation import random_seed as random_seed
from ..functions.allocation import shared_constant as shared_constant
from ..functions.allocation import shared_identity_matrix as shared_identity_matrix
from ..functions.allocation import zeros as zeros
from ..functions.allocation import zeros_like as zeros_like
from ..functions.elementwise import where as _where
from ..functions.movement import broadcast_to as broadcast_to
from ..functions.movement import expand_dims as expand_dims
from ..functions.movement import gather_flattened as gather_flattened
from ..functions.movement import load as load
from ..functions.movement import load_transpose2d as load_transpose2d
from ..functions.movement import matmul as matmul
from ..functions.movement import store as store
from ..functions.movement import transpose as transpose
from ..functions.reductions import all as all
from ..functions.reductions import max as max
from ..functions.reductions import mean as mean
from ..functions.reductions import min as min
from ..functions.reductions import prod as prod
from ..functions.reductions import rms_norm as rms_norm
from ..functions.reductions import softmax as softmax
from ..functions.reductions import sum as sum
from ..functions.reductions import var as var
from ..indexing import DynamicSlice
from ..machine import current
from ..objects import NKIObject as NKIObject
from ..operators import OPS
from ..registers import dynamic_range as dynamic_range
from ..registers import fori_loop as fori_loop
from ..registers import no_reorder as enter_no_reorder
from ..registers import while_loop as while_loop
from ..tile_size import TileSize
from ..views import NkiTensor
from ._surface import vendor

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

where = vendor(_where)

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
        address: explicit placement in SBUF or PSUM, (partition, byte offset in it).
    """
    return make("nl.ndarray", shape, dtype, buffer, name, address)


def affine_range(start: int, stop: int | None = None, step: int = 1) -> range:
    """A loop that is unrolled while tracing; the same as ``range``."""
    try:
        return _range(start) if stop is None else _range(start, stop, step)
    except (TypeError, ValueError) as error:
        raise IllegalProgram(
            "nl.affine_range",
            "takes integers known while tracing, and a step that is not 0",
            f"{(start, stop, step)!r}: {error}",
            "use nl.fori_loop for a bound in a register",
        ) from None


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
    leave = enter_no_reorder()
    try:
        yield
    finally:
        leave()


@vendor
def device_print(print_prefix: str, tensor: NkiTensor) -> None:
    """Print a prefix and a tensor's values, now."""
    if not isinstance(print_prefix, str) or not isinstance(tensor, NkiTensor):
        raise IllegalProgram(
            "nl.device_print", "prints a string and a tensor", f"{print_prefix!r}, {tensor!r}"
        )
    tensor.require_written("nl.device_print", "tensor")
    print(print_prefix, tensor.array if current("nl.device_print").numeric else tensor)


def par_dim(size: int) -> int:
    """The size itself (the spelling of a partition dimension before NKI 0.2)."""
    warnings.warn("nl.par_dim: has no effect since NKI 0.2; write the size", stacklevel=2)
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


def __getattr__(name: str) -> object:
    """Names that would hide Python's own in this module."""
    if name == "bool":
        return bool_
    if name == "range":
        return affine_range
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
