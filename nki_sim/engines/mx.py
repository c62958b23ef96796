"""Microscaling (trn3): fp8 and fp4 values that share a power of two per group of 32.

A group is 8 partitions by the 4 values of one packed element. For every 32 partitions of data there
are 4 rows of scales, which lie in the first 4 partitions of a quadrant: row g of quadrant q of a
scale tile belongs to partitions 32q + 8g to 32q + 8g + 7 of the data. A scale is an exponent with
bias 127 in one byte (float8_e8m0fnu, or uint8 in older kernels); 255 is NaN.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import ml_dtypes
import numpy as np

from ..constants import PSUM, SBUF, Engine, NcVersion
from ..dtypes import FLOAT32, Array
from ..machine import Program
from ..views import NkiTensor
from .base import READ, UPDATE, WRITE, Instruction, Limit, Operand, Rule, Sizes
from .costs import Costs
from .tensor import NcMatmul

FP8_X4 = ("float8_e4m3fn_x4", "float8_e5m2_x4")
MX_TYPES = (*FP8_X4, "float4_e2m1fn_x4")
SCALE_TYPES = ("uint8", "float8_e8m0fnu")
BIAS = 127
QUADRANT, GROUP, SCALE_ROWS = 32, 8, 4

_ELEMENTS: dict[str, tuple[np.dtype[Any], int]] = {
    "float8_e4m3fn_x4": (np.dtype(ml_dtypes.float8_e4m3fn), 8),
    "float8_e5m2_x4": (np.dtype(ml_dtypes.float8_e5m2), 15),
}
"""NumPy type and largest exponent of the values in a packed fp8 type."""

_FP4 = np.arange(16, dtype=np.uint8).view(ml_dtypes.float4_e2m1fn).astype(np.float64)


# -- layout ----------------------------------------------------------------------------------------


def _bad_partitions(instruction: Any, sizes: Sizes) -> str | None:
    return None if sizes["C"] % QUADRANT == 0 else f"{sizes['C']} partitions"


WHOLE_QUADRANTS = Rule(
    "the data have a multiple of 32 partitions",
    _bad_partitions,
    "pad the contraction with zeros",
    "quantize_mx, nc_matmul_mx",
)


def scale_rows(partitions: int) -> int:
    """Partitions that a scale tile for so many partitions of data has at least."""
    return max(partitions - QUADRANT, 0) + SCALE_ROWS


def _short_scales(*names: str) -> Rule:
    """The rule that scale tiles reach the rows that belong to the data."""

    def broken_by(instruction: Any, sizes: Sizes) -> str | None:
        needed = scale_rows(sizes["C"])
        for name in names:
            scale = getattr(instruction, name)
            if scale.partitions < needed:
                return f"{name} {scale} for {sizes['C']} partitions of data, which need {needed}"
        return None

    return Rule(
        "a scale tile has 4 rows in every quadrant that the data fill",
        broken_by,
        "allocate it with the data's partitions, or 4 for one quadrant",
        "quantize_mx",
    )


def scale_window(scale: NkiTensor, partitions: int) -> NkiTensor:
    """The rows of a scale tile that belong to data on so many partitions."""
    if partitions <= QUADRANT or scale.partitions < scale_rows(partitions):
        return scale[0 : min(SCALE_ROWS, scale.partitions)]
    shape = (partitions // QUADRANT, SCALE_ROWS, *scale.shape[1:])
    strides = (QUADRANT * scale.row, scale.row, *scale.strides[1:])
    return NkiTensor(scale.storage, shape, strides, scale.offset, scale.dtype)


class _ScaledOperands:
    """Scale operands: any 4 rows of a quadrant, read and written in part."""

    __slots__ = ()

    def _bind_scale(self, operand: Operand, value: NkiTensor, sizes: Sizes) -> None:
        instruction: Any = self
        instruction._bind_axis(operand.axes[0], value.partitions, operand, value, sizes)
        instruction._bind_axis(operand.axes[1], value.free, operand, value, sizes)
        first = value.start_partition % QUADRANT
        if first % SCALE_ROWS:
            raise instruction.refuse(
                f"{operand.name} starts at a multiple of {SCALE_ROWS} partitions",
                f"{value} from partition {value.start_partition}",
            )


# -- quantisation ----------------------------------------------------------------------------------


def quantised(values: Array, kind: str) -> tuple[Array, Array]:
    """fp32 [partitions, 4 n] as packed elements [partitions, n] and scales [partitions / 8, n].

    The scale of a group is 2 ** (floor(log2(largest magnitude)) - (largest exponent - 1)); that of
    a group of zeros is the smallest one, that of a group with an infinity or NaN is NaN.
    """
    element, highest = _ELEMENTS[kind]
    groups = values.reshape(len(values) // GROUP, GROUP, -1, 4)
    largest = np.abs(groups).max(axis=(1, 3))
    finite = np.isfinite(largest)
    exponents = np.frexp(np.where(finite, largest, 1))[1] - 1 - (highest - 1)
    exponents = np.where(largest == 0, -BIAS, np.maximum(exponents, -BIAS))
    scaled = np.ldexp(groups, -exponents[:, None, :, None])
    scaled = np.where(finite[:, None, :, None], scaled, np.float32(np.nan))
    packed = scaled.astype(element).reshape(len(values), -1).view(np.uint32)
    return packed, np.where(finite, exponents + BIAS, 255).astype(np.uint8)


def _packing(instruction: Any, sizes: Sizes) -> str | None:
    if sizes["F"] == 4 * sizes["X"]:
        return None
    return f"{instruction.src} for {instruction.dst}"


@dataclass(slots=True, eq=False)
class QuantizeMx(_ScaledOperands, Instruction):
    """dst = src over its group's scale as packed fp8; dst_scale = the scales' exponents."""

    opcode: ClassVar[str] = "quantize_mx"
    engines: ClassVar = (Engine.vector,)
    since: ClassVar[NcVersion] = NcVersion.gen4
    operands: ClassVar = (
        Operand("dst", "CX", WRITE, memories=(SBUF,), dtypes=FP8_X4),
        Operand("src", "CF", READ, memories=(SBUF,), dtypes=("bfloat16", "float16")),
        Operand("dst_scale", "SX", UPDATE, memories=(SBUF,), dtypes=SCALE_TYPES),
    )
    limits: ClassVar = (Limit("C", 128, "the memories have 128 partitions", lowest=QUADRANT),)
    rules: ClassVar = (
        WHOLE_QUADRANTS,
        Rule(
            "src has 4 elements per packed element of dst",
            _packing,
            "allocate dst with a quarter of the free size",
            "quantize_mx",
        ),
        _short_scales("dst_scale"),
    )
    work: ClassVar[str] = "src"
    numerics: ClassVar[str] = (
        "scale = 2^(floor(log2(amax)) - (emax - 1)) (NKI 0.5; half of that before), values rounded "
        "once to nearest even"
    )
    cost: ClassVar[Costs] = Costs("N / 4")

    dst: NkiTensor
    src: NkiTensor
    dst_scale: NkiTensor

    def _bind(self, operand: Operand, value: NkiTensor, sizes: Sizes) -> None:
        if operand.name == "dst_scale":
            self._bind_scale(operand, value, sizes)
        else:
            Instruction._bind(self, operand, value, sizes)

    def execute(self, program: Program) -> None:
        packed, scales = quantised(self.src.rows32(), self.dst.dtype)
        self.dst.array[...] = packed.reshape(self.dst.shape)
        target = scale_window(self.dst_scale, self.src.partitions).array
        target[...] = _as_scales(scales, target.dtype).reshape(target.shape)

    def settle(self, operand: Operand, tensor: NkiTensor) -> None:
        if operand.name == "dst_scale":
            tensor = scale_window(tensor, self.src.partitions)
        tensor.mark_written()


def _as_scales(exponents: Array, dtype: np.dtype[Any]) -> Array:
    """Biased exponents as elements of a scale tile (float32 when low precision is widened)."""
    if dtype.itemsize == 1:
        return exponents.view(dtype)
    return _powers(exponents).astype(np.float32)


def _powers(exponents: Array) -> Array:
    """2 ** (exponent - 127) as float64; NaN for 255."""
    powers = np.ldexp(np.float64(1), exponents.astype(np.int32) - BIAS)
    return np.where(exponents == 255, np.nan, powers)


# -- multiplication --------------------------------------------------------------------------------


def unpacked(data: NkiTensor) -> Array:
    """The values of packed elements as float64 [partitions, elements, 4]."""
    rows = np.ascontiguousarray(data.rows())
    if data.dtype in _ELEMENTS:
        values = rows.view(_ELEMENTS[data.dtype][0]).astype(np.float64)
        return np.asarray(values.reshape(*rows.shape, 4))
    shifts = np.arange(0, 16, 4, dtype=np.uint16)
    return np.asarray(_FP4[(rows[..., None] >> shifts) & 15])


def dequantised(data: NkiTensor, scale: NkiTensor) -> Array:
    """Packed data times their scales as float64 [4 * partitions, elements]."""
    values = unpacked(data)
    rows = scale_window(scale, data.partitions).array.reshape(-1, values.shape[1])
    powers = rows.astype(np.float64) if rows.dtype == FLOAT32 else _powers(rows.view(np.uint8))
    scaled = values * np.repeat(powers, GROUP, axis=0)[:, :, None]
    return scaled.transpose(0, 2, 1).reshape(-1, values.shape[1])


def _odd_columns(instruction: Any, sizes: Sizes) -> str | None:
    return f"M = {sizes['M']}" if sizes["M"] % 2 else None


def _bad_row_tiling(instruction: Any, sizes: Sizes) -> str | None:
    size, place = instruction.tile_size, instruction.tile_position
    if not size and not place:
        return None
    legal = all(
        isinstance(pair, list | tuple) and len(pair) == 2 and all(type(p) is int for p in pair)
        for pair in (size, place)
    )
    legal = legal and size[0] in (32, 64, 128) and size[1] == 128 and place[1] == 0
    legal = legal and place[0] % size[0] == 0 and place[0] + size[0] <= 128
    legal = legal and sizes["C"] <= size[0]
    legal = legal and instruction.stationary.start_partition == place[0]
    return None if legal else f"tile_size={size!r}, tile_position={place!r}"


@dataclass(slots=True, eq=False)
class NcMatmulMx(_ScaledOperands, NcMatmul):
    """dst[M, N] (+)= stationary.T @ moving over packed, scaled values; accumulated in fp32."""

    opcode: ClassVar[str] = "nc_matmul_mx"
    since: ClassVar[NcVersion] = NcVersion.gen4
    operands: ClassVar[tuple[Operand, ...]] = (
        Operand("dst", "MN", UPDATE, memories=(PSUM,), dtypes=("float32", "bfloat16")),
        Operand("stationary", "CM", READ, memories=(SBUF,), dtypes=MX_TYPES),
        Operand("moving", "CN", READ, memories=(SBUF,), dtypes=MX_TYPES),
        Operand("stationary_scale", "SM", READ, memories=(SBUF,), dtypes=SCALE_TYPES),
        Operand("moving_scale", "TN", READ, memories=(SBUF,), dtypes=SCALE_TYPES),
    )
    limits: ClassVar = (
        Limit("C", 128, "systolic array of 128 x 128", lowest=QUADRANT),
        Limit("M", 128, "systolic array of 128 x 128", remedy="split the stationary"),
        Limit("N", 4096, "the whole PSUM in float32", remedy="split the moving"),
    )
    rules: ClassVar[tuple[Rule, ...]] = (
        WHOLE_QUADRANTS,
        Rule("M is even", _odd_columns, "pad the stationary with a column", "nc_matmul_mx"),
        _short_scales("stationary_scale", "moving_scale"),
        Rule(
            "tile_size (32, 64 or 128, 128) and tile_position (row, 0) describe row tiles",
            _bad_row_tiling,
            "see nc_matmul_mx",
            "nc_matmul_mx",
        ),
    )
    numerics: ClassVar[str] = "exact products and sums, one rounding to fp32, fp32 accumulation"
    cost: ClassVar[Costs] = Costs(
        "max(min(64, M), N)", words="max(min(64, M), N), for 4 times the contraction"
    )

    stationary_scale: NkiTensor | None = field(default=None, kw_only=True)
    moving_scale: NkiTensor | None = field(default=None, kw_only=True)

    def _bind(self, operand: Operand, value: NkiTensor, sizes: Sizes) -> None:
        if operand.name.endswith("_scale"):
            self._bind_scale(operand, value, sizes)
        else:
            Instruction._bind(self, operand, value, sizes)

    def _check_limits(self, sizes: Sizes) -> None:
        if self.dst.dtype == "bfloat16" and sizes["N"] <= 8192:
            sizes = sizes | {"N": 1}
        Instruction._check_limits(self, sizes)

    def read_window(self, operand: Operand, value: NkiTensor) -> NkiTensor:
        if operand.name.endswith("_scale"):
            return scale_window(value, self.stationary.partitions)
        return value

    def _product(self, program: Program) -> Array:
        assert self.stationary_scale is not None and self.moving_scale is not None
        left = dequantised(self.stationary, self.stationary_scale)
        right = dequantised(self.moving, self.moving_scale)
        return np.matmul(left.T, right).astype(np.float32)

    def macs(self, sizes: Sizes) -> int:
        return 4 * sizes["C"] * sizes["M"] * sizes["N"]
