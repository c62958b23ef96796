"""The tensor engine: matrix multiplication into PSUM, and transposes."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from ..constants import PSUM, SBUF, Engine, MatmulPerfMode, NcVersion
from ..dtypes import MATMUL_TYPES, NUMBERS, Array
from ..errors import IllegalProgram, NotModelled
from ..machine import PSUM_BANK_BYTES, Program, current
from ..views import NkiTensor
from .alu import write
from .base import READ, UPDATE, WRITE, Instruction, Limit, Operand, Rule, Sizes

_WIDE = ("float32", "tfloat32")


def _mixed_precision(instruction: Any, _: Sizes) -> str | None:
    wide = [t.dtype in _WIDE for t in (instruction.stationary, instruction.moving)]
    return f"{instruction.stationary} and {instruction.moving}" if wide[0] != wide[1] else None


def _late_types(instruction: Any, _: Sizes) -> str | None:
    if current(instruction.opcode).platform.version is NcVersion.gen4:
        return None
    late = [t for t in (instruction.stationary, instruction.moving) if t.dtype == "float8_e4m3fn"]
    return str(late[0]) if late else None


def _crosses_bank(instruction: Any, _: Sizes) -> str | None:
    dst = instruction.dst
    if dst.buffer is not PSUM:
        return None
    first = dst.offset % dst.row
    last = first + sum(s * (n - 1) for s, n in zip(dst.strides[1:], dst.shape[1:], strict=True))
    banks = [place * dst.itemsize // PSUM_BANK_BYTES for place in (first, last)]
    return f"dst {dst}, bytes of banks {banks[0]} to {banks[1]}" if banks[0] != banks[1] else None


IN_ONE_BANK = Rule(
    f"dst lies in one PSUM bank ({PSUM_BANK_BYTES} bytes per partition)",
    _crosses_bank,
    "split the moving free dimension (512 fp32 elements per bank)",
    "PSUM has 8 banks of 2 KiB per partition",
)


def _result_type(instruction: Any, _: Sizes) -> str | None:
    dst = instruction.dst.dtype
    if instruction.is_transpose:
        return (
            f"dst {instruction.dst} for {instruction.stationary}"
            if dst != instruction.stationary.dtype
            else None
        )
    late = current(instruction.opcode).platform.version is NcVersion.gen4
    return None if dst == "float32" or (late and dst == "bfloat16") else str(instruction.dst)


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
    `is_transpose`, stationary is the data, moving an identity, and dst the exact transpose.
    """

    opcode: ClassVar[str] = "nc_matmul"
    engines: ClassVar = (Engine.tensor,)
    operands: ClassVar = (
        Operand("dst", "MN", UPDATE, memories=(PSUM,), dtypes=("float32", "bfloat16", "float16")),
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
    rules: ClassVar = (
        Rule(
            "float8_e4m3fn multiplies from trn3 on",
            _late_types,
            "use float8_e4m3 (largest value 240)",
            "nc_matmul, NKI 0.4",
        ),
        Rule("fp32 multiplies fp32 only", _mixed_precision, "convert one operand", "nc_matmul"),
        Rule(
            "dst is float32 (bfloat16 too on trn3); a transpose keeps its data's type",
            _result_type,
            "allocate the PSUM tile accordingly",
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
    numerics: ClassVar[str] = (
        "inputs at their type, products and sums in fp32 (order unspecified); transposes exact"
    )
    cost: ClassVar[str] = "max(min(64, M), N), 4x for fp32"

    dst: NkiTensor
    stationary: NkiTensor
    moving: NkiTensor
    is_transpose: bool = False
    accumulate: bool | None = None
    tile_position: tuple[int, ...] = ()
    tile_size: tuple[int, ...] = ()

    def execute(self, program: Program) -> None:
        if self.is_transpose:
            self._transpose()
            return
        product = self.stationary.rows32().T @ self.moving.rows32()
        write(self.dst, self.dst.rows32() + product if self._adds() else product)

    def _transpose(self) -> None:
        moving = self.moving.rows32()
        if moving.shape[0] != moving.shape[1] or not np.array_equal(moving, _identity(len(moving))):
            raise self.refuse("moving is an identity [K, K] with is_transpose", str(self.moving))
        self.dst.array[...] = self.stationary.rows().T.reshape(self.dst.shape)

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
            return
        if not self.dst.foreign_mask().any():
            return
        if self.dst.array.any():
            raise IllegalProgram(
                self.opcode,
                "adding to PSUM that another instruction wrote is undefined on trn1 and trn2",
                str(self.dst),
                "allocate a fresh PSUM tile for every output tile",
            )
        warnings.warn(
            "nc_matmul: adds to PSUM that was set to zero; undefined on trn1 and trn2, and "
            "unnecessary: the first matmul into a fresh tile overwrites",
            stacklevel=2,
        )

    def settle(self, operand: Operand, tensor: NkiTensor) -> None:
        if self.is_transpose:
            Instruction.settle(self, operand, tensor)
            return
        tensor.mark_written()
        if tensor.storage.foreign is not None:
            tensor.foreign_mask()[...] = False

    def macs(self, sizes: Sizes) -> int:
        return 0 if self.is_transpose else sizes["K"] * sizes["M"] * sizes["N"]


@lru_cache(maxsize=128)
def _identity(size: int) -> Array:
    return np.eye(size, dtype=np.float32)


def perf_mode(mode: object) -> None:
    """Refuse the performance modes that are not modelled."""
    if mode not in (MatmulPerfMode.none, "none"):
        raise NotModelled("nc_matmul", "of perf_mode only none is modelled", repr(mode))


def _transpose_memories(instruction: Any, _: Sizes) -> str | None:
    if instruction.engine is not Engine.tensor:
        return None
    if instruction.dst.buffer is PSUM and instruction.data.buffer is SBUF:
        return None
    return f"data {instruction.data}, dst {instruction.dst}"


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
            lambda i, _: f"{i.data} and {i.dst}" if i.data.dtype != i.dst.dtype else None,
            "allocate the transposed tile with the data's type",
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
    cost: ClassVar[str] = "max(P, min(64, F)) on the tensor engine, max(64, F) on the vector engine"

    dst: NkiTensor
    data: NkiTensor

    def check(self) -> Sizes:
        sizes = Instruction.check(self)
        if self.engine is Engine.tensor and self.data.itemsize == 1:
            raise NotModelled(
                self.opcode,
                "one-byte types on the tensor engine are not modelled",
                str(self.data),
                "widen them first",
            )
        return sizes

    def choose_engine(self) -> Engine:
        if not (isinstance(self.data, NkiTensor) and isinstance(self.dst, NkiTensor)):
            return Engine.tensor  # refused by the checks that follow
        small = self.data.partitions <= 32 and self.data.free <= 32
        return Engine.vector if small and self.dst.buffer is SBUF else Engine.tensor

    def execute(self, program: Program) -> None:
        self.dst.array[...] = self.data.rows().T.reshape(self.dst.shape)
