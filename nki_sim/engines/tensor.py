"""The tensor engine: matrix multiplication into PSUM, and transposes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from ..constants import PSUM, SBUF, Engine, MatmulPerfMode, NcVersion
from ..dtypes import FP8, MATMUL_TYPES, NUMBERS, Array, round_to_tfloat32
from ..errors import IllegalProgram
from ..machine import PSUM_BANK_BYTES, Program, current
from ..operators import OPS
from ..schedule import advise
from ..views import NkiTensor
from .alu import apply_into, write
from .base import (
    READ,
    UPDATE,
    WRITE,
    Instruction,
    Limit,
    Operand,
    Rule,
    Sizes,
    check_start_partition,
    require_platform,
)
from .costs import Cost, Costs

_ADD = OPS["add"]
_WIDE = ("float32", "tfloat32")
_RESULT_TYPES = ("float32", *(t for t in MATMUL_TYPES if t != "float32"))


def _mixed_precision(instruction: Any, _: Sizes) -> str | None:
    wide = [t.dtype in _WIDE for t in (instruction.stationary, instruction.moving)]
    return f"{instruction.stationary} and {instruction.moving}" if wide[0] != wide[1] else None


def _mixed_fp8(instruction: Any, _: Sizes) -> str | None:
    first, second = instruction.stationary.dtype, instruction.moving.dtype
    if first != second and {first, second} == {"float8_e4m3", "float8_e4m3fn"}:
        return f"{instruction.stationary} and {instruction.moving}"
    return None


def _bad_double_row(instruction: Any, _: Sizes) -> str | None:
    if not instruction.double_row:
        return None
    size = instruction.tile_size
    return f"tile_size={size}" if size and size[1] != 128 else None


_DOUBLE_ROW_TEXT = "double_row takes fp8 of shapes [K, 2, M] and [K, 2, N]"
_DOUBLE_ROW_REMEDY = "give both operands a first free dimension of 2"


def _on_gen4(instruction: Any) -> bool:
    return current(instruction.opcode).platform.version is NcVersion.gen4


def _late_types(instruction: Any, _: Sizes) -> str | None:
    late = [t for t in (instruction.stationary, instruction.moving) if t.dtype == "float8_e4m3fn"]
    return str(late[0]) if late and not _on_gen4(instruction) else None


def _crosses_bank(instruction: Any, _: Sizes) -> str | None:
    dst = instruction.dst
    if dst.buffer is not PSUM:
        return None
    first = dst.offset % dst.row
    last = first + sum(s * (n - 1) for s, n in zip(dst.strides[1:], dst.shape[1:], strict=True))
    banks = [place * dst.itemsize // PSUM_BANK_BYTES for place in (first, last)]
    if banks[0] == banks[1] or (instruction.opcode == "nc_matmul" and _on_gen4(instruction)):
        return None
    return f"dst {dst}, bytes of banks {banks[0]} to {banks[1]}"


IN_ONE_BANK = Rule(
    f"dst lies in one PSUM bank ({PSUM_BANK_BYTES} bytes per partition)",
    _crosses_bank,
    "split the moving free dimension (512 fp32 elements per bank)",
    "PSUM has 8 banks of 2 KiB per partition",
)


def _result_type(instruction: Any, _: Sizes) -> str | None:
    dst = instruction.dst.dtype
    if instruction.is_transpose:
        if keeps_type(instruction.dst, instruction.stationary):
            return None
        return f"dst {instruction.dst} for {instruction.stationary}"
    legal = dst == "float32" or (dst == "bfloat16" and _on_gen4(instruction))
    return None if legal else str(instruction.dst)


def keeps_type(dst: NkiTensor, data: NkiTensor) -> bool:
    """Whether the tensor engine can transpose `data` into `dst` as far as types go."""
    return dst.dtype == data.dtype or (data.itemsize == 1 and dst.itemsize == 2)


def two_bytes_each(dst: NkiTensor) -> NkiTensor | None:
    """The window of two-byte elements that a transpose of one-byte data writes, if there is one.

    The tensor engine writes such elements as 16 bits, the upper 8 zero: `dst` has two-byte
    elements, or one-byte elements 2 apart.
    """
    if dst.itemsize == 2:
        return dst if dst.dtype == "uint16" else dst.view("uint16")
    places = (dst.offset, *(s for s, n in zip(dst.strides, dst.shape, strict=True) if n > 1))
    if dst.row % 2 or any(place % 2 for place in places):
        return None
    halves = tuple(stride // 2 for stride in dst.strides)
    return NkiTensor(dst.storage, dst.shape, halves, dst.offset // 2, "uint16")


def _narrow_step(dst: NkiTensor, data: NkiTensor) -> str | None:
    if data.itemsize != 1 or dst.storage.widened or two_bytes_each(dst) is not None:
        return None
    return f"dst {dst} with strides {dst.strides} for {data}"


_NARROW_TEXT = (
    "one-byte elements are written as two bytes: dst has a step of 2, or two-byte elements"
)
_NARROW_REMEDY = "allocate twice the elements in PSUM and write to every second one with .ap"


def transpose_into(dst: NkiTensor, data: NkiTensor) -> None:
    """dst = data.T, bit for bit."""
    turned = data.rows().T
    wide = two_bytes_each(dst) if data.itemsize == 1 and not dst.storage.widened else None
    if wide is None:
        dst.array[...] = turned.reshape(dst.shape)
    else:
        wide.array[...] = turned.reshape(dst.shape).view(np.uint8)


def settle_transpose(instruction: Any, operand: Operand, dst: NkiTensor, data: NkiTensor) -> None:
    """Note what `transpose_into` has written."""
    wide = two_bytes_each(dst) if data.itemsize == 1 and not dst.storage.widened else None
    Instruction.settle(instruction, operand, dst if wide is None else wide)


def _bad_tiling(instruction: Any, sizes: Sizes) -> str | None:
    size, place = instruction.tile_size, instruction.tile_position
    if not isinstance(size, list | tuple) or not isinstance(place, list | tuple):
        return f"tile_size={size!r}, tile_position={place!r}"
    if not size and not place:
        return None
    legal = len(size) == len(place) == 2 and all(s in (32, 64, 128) for s in size)
    legal = legal and all(p % s == 0 and p + s <= 128 for p, s in zip(place, size, strict=True))
    legal = legal and all(p >= 0 for p in place) and sizes["K"] <= size[0] and sizes["M"] <= size[1]
    if legal:
        stationary, dst = instruction.stationary, instruction.dst
        legal = stationary.start_partition == place[0] and dst.start_partition == place[1]
    return (
        None if legal else f"tile_size={size}, tile_position={place} for {instruction.stationary}"
    )


@dataclass(slots=True, eq=False)
class NcMatmul(Instruction):
    """dst[M, N] (+)= stationary[K, M].T @ moving[K, N], accumulated in PSUM in fp32.

    The first matmul into fresh PSUM overwrites, later ones add; `accumulate` forces either. With
    `is_transpose`, stationary is the data, moving an identity, and dst the exact transpose. With
    `perf_mode` double_row, stationary [K, 2, M] and moving [K, 2, N] hold fp8 and the contraction
    runs over K and the 2.
    """

    opcode: ClassVar[str] = "nc_matmul"
    engines: ClassVar = (Engine.tensor,)
    operands: ClassVar[tuple[Operand, ...]] = (
        Operand("dst", "MN", UPDATE, memories=(PSUM,), dtypes=(*_RESULT_TYPES, "uint16")),
        Operand("stationary", "KM", READ, memories=(SBUF,), dtypes=MATMUL_TYPES),
        Operand("moving", "KN", READ, memories=(SBUF,), dtypes=MATMUL_TYPES),
    )
    limits: ClassVar = (
        Limit(
            "K",
            128,
            "systolic array of 128 x 128",
            remedy="split the contraction and accumulate in PSUM",
        ),
        Limit(
            "M", 128, "systolic array of 128 x 128", remedy="split the stationary's free dimension"
        ),
        Limit(
            "N", 512, "nl.tile_size.gemm_moving_fmax", remedy="split the moving's free dimension"
        ),
    )
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "float8_e4m3fn multiplies from trn3 on",
            _late_types,
            "use float8_e4m3 (largest value 240)",
            "nc_matmul, NKI 0.4",
        ),
        Rule("fp32 multiplies fp32 only", _mixed_precision, "convert one operand", "nc_matmul"),
        Rule(
            "float8_e4m3 and float8_e4m3fn are not mixed",
            _mixed_fp8,
            "use one of the two",
            "nc_matmul",
        ),
        Rule(
            f"{_DOUBLE_ROW_TEXT}, without column tiling",
            _bad_double_row,
            "tile rows only",
            "nc_matmul",
        ),
        Rule(
            "dst is float32 (bfloat16 too on trn3); a transpose keeps its data's type",
            _result_type,
            "allocate the PSUM tile accordingly",
            "nc_matmul",
        ),
        Rule(
            _NARROW_TEXT,
            lambda i, _: _narrow_step(i.dst, i.stationary) if i.is_transpose else None,
            _NARROW_REMEDY,
            "nc_matmul",
        ),
        IN_ONE_BANK,
        Rule(
            "tile_size and tile_position describe where the operands lie",
            _bad_tiling,
            "see nc_matmul",
            "nc_matmul",
        ),
    )
    work: ClassVar[str] = "moving"
    timed: ClassVar[tuple[str, ...]] = ("tile_position", "tile_size")
    numerics: ClassVar[str] = (
        "inputs at their type, products and sums in fp32 (order unspecified); transposes exact"
    )
    cost: ClassVar[Costs] = Costs(
        Cost(
            "2 * max(min(64, M), N)",
            "for an fp32 transpose",
            lambda i: i.is_transpose and i.stationary.dtype == "float32",
        ),
        Cost("4 * max(min(64, M), N)", "for fp32", lambda i: i.moving.dtype == "float32"),
        Cost(
            "max(min(64, M), N)", "for twice the contraction in double_row", lambda i: i.double_row
        ),
        Cost("max(min(64, M), N)"),
    )

    dst: NkiTensor
    stationary: NkiTensor
    moving: NkiTensor
    is_transpose: bool = False
    accumulate: bool | None = None
    tile_position: tuple[int, ...] = ()
    tile_size: tuple[int, ...] = ()
    perf_mode: MatmulPerfMode = MatmulPerfMode.none

    @property
    def double_row(self) -> bool:
        """Whether the contraction runs over pairs of fp8 rows."""
        return self.perf_mode is MatmulPerfMode.double_row

    def check(self) -> Sizes:
        if self.double_row:
            require_platform(self.opcode, "perf_mode double_row", NcVersion.gen3)
            if self.is_transpose:
                raise self.refuse("a transpose has no performance mode", "perf_mode=double_row")
        return Instruction.check(self)

    def _bind(self, operand: Operand, value: NkiTensor, sizes: Sizes) -> None:
        if not self.double_row or operand.name == "dst":
            Instruction._bind(self, operand, value, sizes)
            return
        if value.dtype not in FP8 or value.ndim < 3 or value.shape[1] != 2:
            raise self.refuse(_DOUBLE_ROW_TEXT, f"{operand.name} {value}", _DOUBLE_ROW_REMEDY)
        self._bind_axis(operand.axes[0], value.partitions, operand, value, sizes)
        self._bind_axis(operand.axes[1], value.free // 2, operand, value, sizes)
        check_start_partition(self.opcode, operand.name, value)

    def _check_limits(self, sizes: Sizes) -> None:
        if 512 < sizes["N"] <= _GEN4_MOVING.get(self.dst.dtype, 0) and _on_gen4(self):
            sizes = sizes | {"N": 512}
        Instruction._check_limits(self, sizes)

    def execute(self, program: Program) -> None:
        if self.is_transpose:
            self._transpose()
            return
        product = self._product(program)
        if self._adds():
            apply_into(self.dst, _ADD, self.dst.rows32(), product, False)
        else:
            write(self.dst, product)

    def _transpose(self) -> None:
        moving = self.moving.rows32()
        if moving.shape[0] != moving.shape[1] or not np.array_equal(moving, _identity(len(moving))):
            raise self.refuse("moving is an identity [K, K] with is_transpose", str(self.moving))
        transpose_into(self.dst, self.stationary)

    def _product(self, program: Program) -> Array:
        """stationary.T @ moving in fp32, of what the engine reads at the operands' types."""
        operands = [self.stationary.rows32(), self.moving.rows32()]
        for place, tensor in enumerate((self.stationary, self.moving)):
            if tensor.dtype == "tfloat32" and program.precise:
                operands[place] = round_to_tfloat32(operands[place])
        if not self.double_row:
            return np.matmul(operands[0].T, operands[1])
        left, right = (values.reshape(len(values), 2, -1) for values in operands)
        first = np.matmul(left[:, 0].T, right[:, 0])
        return np.asarray(first + np.matmul(left[:, 1].T, right[:, 1]))

    def _adds(self) -> bool:
        """Whether this matmul adds to what PSUM holds."""
        if self.accumulate is False:
            return False
        written = self.dst.written_map() if self.dst.storage.unwritten else None
        if written is not None and not written.any():
            if self.accumulate:
                self.dst.require_written(self.opcode, "dst of an accumulating matmul")
            return False
        if written is not None and not written.all():
            raise IllegalProgram(
                self.opcode,
                "a matmul's destination is all fresh or all written before",
                f"{self.dst}, of which {int(written.sum())} of {written.size} elements are written",
                "allocate one PSUM tile per output tile",
            )
        self._check_foreign()
        return True

    def _check_foreign(self) -> None:
        """Refuse to add to what another instruction left in PSUM, unless it is zero."""
        if self.dst.storage.foreign is None or self.accumulate:
            return  # in mode unchecked nothing is ever foreign
        if not self.dst.foreign_mask().any():
            return
        if self.dst.array.any():
            raise IllegalProgram(
                self.opcode,
                "adding to PSUM that another instruction wrote is undefined on trn1 and trn2",
                str(self.dst),
                "allocate a fresh PSUM tile for every output tile",
            )
        advise(
            "nc_matmul: adds to PSUM that was set to zero; undefined on trn1 and trn2, and "
            "unnecessary: the first matmul into a fresh tile overwrites"
        )

    def settle(self, operand: Operand, tensor: NkiTensor) -> None:
        if self.is_transpose:
            settle_transpose(self, operand, tensor, self.stationary)
            return
        tensor.mark_written()
        if tensor.storage.foreign is not None:
            tensor.foreign_mask()[...] = False

    def macs(self, sizes: Sizes) -> int:
        if self.is_transpose:
            return 0
        return sizes["K"] * self.dst.size * (2 if self.double_row else 1)


@lru_cache(maxsize=128)
def _identity(size: int) -> Array:
    return np.eye(size, dtype=np.float32)


_GEN4_MOVING = {"float32": 4096, "bfloat16": 8192}
"""Largest free size of a moving operand on trn3 (all of PSUM), by dst's type."""


def perf_mode(mode: object) -> MatmulPerfMode:
    """A performance mode, given as a member of the enumeration or as its name."""
    if isinstance(mode, MatmulPerfMode):
        return mode
    for known in MatmulPerfMode:
        if mode == known.name:
            return known
    names = ", ".join(map(repr, MatmulPerfMode))
    raise IllegalProgram("nc_matmul", f"perf_mode is one of {names}", repr(mode))


def _transpose_memories(instruction: Any, _: Sizes) -> str | None:
    if instruction.engine is not Engine.tensor:
        return None
    if instruction.dst.buffer is PSUM and instruction.data.buffer is SBUF:
        return None
    return f"data {instruction.data}, dst {instruction.dst}"


def _transposed_type(instruction: Any, _: Sizes) -> str | None:
    dst, data = instruction.dst, instruction.data
    legal = dst.dtype == data.dtype
    if instruction.engine is Engine.tensor:
        legal = keeps_type(dst, data)
    return None if legal else f"{data} and {dst}"


@dataclass(slots=True, eq=False)
class NcTranspose(Instruction):
    """dst[F, P] = data[P, F].T, bit for bit; the vector engine does up to 32 x 32."""

    opcode: ClassVar[str] = "nc_transpose"
    engines: ClassVar = (Engine.tensor, Engine.vector)
    operands: ClassVar = (
        Operand("dst", "FP", WRITE, dtypes=NUMBERS),
        Operand("data", "PF", READ, dtypes=NUMBERS),
    )
    limits: ClassVar = (
        Limit("P", 128, "nc_transpose", engine=Engine.tensor),
        Limit("F", 128, "nc_transpose", engine=Engine.tensor),
        Limit(
            "P",
            32,
            "nc_transpose",
            engine=Engine.vector,
            remedy="use a PSUM destination (tensor engine)",
        ),
        Limit(
            "F",
            32,
            "nc_transpose",
            engine=Engine.vector,
            remedy="use a PSUM destination (tensor engine)",
        ),
    )
    rules: ClassVar = (
        Rule(
            "dst has data's type",
            _transposed_type,
            "allocate the transposed tile with the data's type",
            "nc_transpose",
        ),
        Rule(
            _NARROW_TEXT,
            lambda i, _: _narrow_step(i.dst, i.data) if i.engine is Engine.tensor else None,
            _NARROW_REMEDY,
            "nc_transpose",
        ),
        Rule(
            "the tensor engine transposes from SBUF to PSUM",
            _transpose_memories,
            "allocate dst in PSUM",
            "nc_transpose",
        ),
        IN_ONE_BANK,
    )
    work: ClassVar[str] = "data"
    numerics: ClassVar[str] = "bit copy"
    cost: ClassVar[Costs] = Costs(
        Cost("max(64, F)", "on the vector engine", lambda i: i.engine is Engine.vector),
        Cost(
            "2 * max(P, min(64, F))",
            "for fp32 on the tensor engine",
            lambda i: i.data.dtype == "float32",
        ),
        Cost("max(P, min(64, F))"),
    )

    dst: NkiTensor
    data: NkiTensor

    def choose_engine(self) -> Engine:
        if not (isinstance(self.data, NkiTensor) and isinstance(self.dst, NkiTensor)):
            return Engine.tensor  # refused by the checks that follow
        small = self.data.partitions <= 32 and self.data.free <= 32
        return Engine.vector if small and self.dst.buffer is SBUF else Engine.tensor

    def execute(self, program: Program) -> None:
        if self.engine is Engine.tensor:
            transpose_into(self.dst, self.data)
        else:
            self.dst.array[...] = self.data.rows().T.reshape(self.dst.shape)

    def overwrites(self, operand: Operand) -> bool:
        return operand.access is WRITE and self.data.itemsize > 1

    def settle(self, operand: Operand, tensor: NkiTensor) -> None:
        if self.engine is Engine.tensor:
            settle_transpose(self, operand, tensor, self.data)
        else:
            Instruction.settle(self, operand, tensor)
