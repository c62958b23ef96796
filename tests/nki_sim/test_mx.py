"""Microscaling against an independent NumPy implementation of the OCP formats."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import nki
import nki.isa as nisa
import nki.language as nl
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nki_sim.errors import IllegalProgram, UninitialisedRead

from .support import in_kernel, loaded, stored, tile, values

FP8 = {
    nl.float8_e4m3fn_x4: (ml_dtypes.float8_e4m3fn, 8),
    nl.float8_e5m2_x4: (ml_dtypes.float8_e5m2, 15),
}


@pytest.fixture(autouse=True)
def on_trn3(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEURON_PLATFORM_TARGET_OVERRIDE", "trn3")


def expected_quantisation(source: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Element by element, with Python's own arithmetic: values and scale bytes per group."""
    element, largest = FP8[kind]
    rows, columns = source.shape
    quantised = np.zeros((rows, columns), element)
    scales = np.zeros((rows // 8, columns // 4), np.uint8)
    for r in range(0, rows, 8):
        for c in range(0, columns, 4):
            group = [float(v) for v in source[r : r + 8, c : c + 4].reshape(-1)]
            amax = max(abs(v) for v in group)
            power = math.floor(math.log2(amax)) if amax else -1000
            exponent = max(power - (largest - 1), -127)
            scales[r // 8, c // 4] = exponent + 127
            scaled = np.array([v * 2.0**-exponent for v in group], np.float64).astype(np.float32)
            quantised[r : r + 8, c : c + 4] = scaled.astype(element).reshape(8, 4)
    return quantised, scales


def quantise(source: Any, kind: str, scale_type: str = nl.uint8, rows: int | None = None) -> Any:
    """Run quantize_mx; packed bytes and the whole scale tile's bytes (0 where nothing is)."""

    def body(x: Any) -> Any:
        data = loaded(x)
        packed = nl.ndarray((x.shape[0], x.shape[1] // 4), dtype=kind)
        scale = tile((rows or x.shape[0], x.shape[1] // 4), nl.uint8)
        nisa.quantize_mx(dst=packed, src=data, dst_scale=scale.view(scale_type))
        return values(packed.view(nl.uint8)), values(scale)

    return in_kernel(body, source)


def rows_of(scale_tile: np.ndarray, partitions: int) -> np.ndarray:
    """The scales of groups 0, 1, ... out of a scale tile."""
    return np.stack([scale_tile[32 * (g // 4) + g % 4] for g in range(partitions // 8)])


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(list(FP8)),
    st.sampled_from([nl.uint8, nl.float8_e8m0fnu]),
    st.sampled_from([32, 64, 128]),
    st.integers(1, 3),
    st.integers(0, 2**32 - 1),
    st.integers(-30, 30),
)
def test_quantisation_is_exact(
    kind: str, scale_type: str, rows: int, columns: int, seed: int, shift: int
) -> None:
    rng = np.random.default_rng(seed)
    source = rng.standard_normal((rows, 4 * columns)) * 2.0 ** rng.integers(-4, 5, (rows, 1))
    source[:8] *= rng.integers(0, 2)  # a group of zeros now and then
    source = (source * 2.0**shift).astype(ml_dtypes.bfloat16)
    packed, scales = quantise(source, kind, scale_type)
    wanted, wanted_scales = expected_quantisation(source, kind)
    np.testing.assert_array_equal(packed, wanted.view(np.uint8))
    np.testing.assert_array_equal(rows_of(scales, rows), wanted_scales)


def test_the_scale_of_nki_0_5() -> None:
    """The largest value of a group lands below half of the type's range: twice OCP's scale."""
    source = np.full((32, 4), 1.75, np.float16)
    packed, scales = quantise(source, nl.float8_e4m3fn_x4)
    assert scales[0, 0] == 127 - 7
    assert (packed.view(ml_dtypes.float8_e4m3fn).astype(np.float32) == 1.75 * 2**7).all()
    assert quantise(np.zeros((32, 4), np.float16), nl.float8_e5m2_x4)[1][0, 0] == 0


def test_infinities_and_nans_spoil_their_group_only() -> None:
    source = np.ones((32, 8), ml_dtypes.bfloat16)
    source[3, 2], source[17, 7] = np.inf, np.nan
    packed, scales = quantise(source, nl.float8_e5m2_x4)
    numbers = packed.view(ml_dtypes.float8_e5m2).astype(np.float32)
    assert np.isnan(numbers[:8, :4]).all() and np.isnan(numbers[16:24, 4:]).all()
    assert scales[0, 0] == scales[2, 1] == 255 and np.isnan(numbers).sum() == 64


def mx_matrix(rng: np.random.Generator, kind: str, rows: int, columns: int) -> Any:
    """Packed bytes [rows, columns * k], scales per group, and the values they stand for."""
    scales = rng.integers(120, 135, (rows // 8, columns)).astype(np.uint8)
    if kind == nl.float4_e2m1fn_x4:
        codes = rng.integers(0, 16, (rows, columns, 4))
        table = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
        numbers = np.array([*table, *(-v for v in table)])[codes]
        packed = sum(codes[..., i] << (4 * i) for i in range(4)).astype(np.uint16)
    else:
        numbers = rng.integers(-8, 9, (rows, columns, 4)).astype(np.float64)
        packed = numbers.astype(FP8[kind][0]).view(np.uint32).reshape(rows, columns)
    power = 2.0 ** (scales.astype(np.float64) - 127)
    return packed, scales, numbers * np.repeat(power, 8, axis=0)[:, :, None]


def scale_tile(scales: np.ndarray, rows: int) -> np.ndarray:
    """Scales in the layout of the tensor engine, 99 where nothing belongs."""
    made = np.full((rows, scales.shape[1]), 99, np.uint8)
    for group, line in enumerate(scales):
        made[32 * (group // 4) + group % 4] = line
    return made


KINDS = [*FP8, nl.float4_e2m1fn_x4]


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(KINDS),
    st.sampled_from(KINDS),
    st.sampled_from([32, 64, 96, 128]),
    st.integers(1, 4),
    st.integers(1, 9),
    st.sampled_from([nl.float32, nl.bfloat16]),
    st.integers(0, 2**32 - 1),
)
def test_multiplication(
    left: str, right: str, rows: int, half: int, columns: int, result: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    a, a_scales, a_values = mx_matrix(rng, left, rows, 2 * half)
    b, b_scales, b_values = mx_matrix(rng, right, rows, columns)

    def body(a: Any, sa: Any, b: Any, sb: Any) -> np.ndarray:
        total = nl.ndarray((2 * half, columns), dtype=result, buffer=nl.psum)
        stationary, moving = loaded(a).view(left), loaded(b).view(right)
        for _ in range(2):  # the second one adds
            nisa.nc_matmul_mx(
                dst=total,
                stationary=stationary,
                moving=moving,
                stationary_scale=loaded(sa),
                moving_scale=loaded(sb).view(nl.float8_e8m0fnu),
            )
        return values(total)

    got = in_kernel(body, a, scale_tile(a_scales, rows), b, scale_tile(b_scales, rows))
    product = np.einsum("kmi,kni->mn", a_values, b_values)
    dtype = np.float32 if result == nl.float32 else ml_dtypes.bfloat16
    once = product.astype(np.float32).astype(dtype)
    wanted = (once.astype(np.float32) + product.astype(np.float32)).astype(dtype)
    np.testing.assert_array_equal(got, wanted)


def test_quantised_matrices_multiply_to_the_original_product() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((2, 128, 64)).astype(ml_dtypes.bfloat16)

    @nki.jit
    def kernel(x: Any, y: Any) -> Any:
        packed, scales = [], []
        for source in (x, y):
            data = nl.ndarray((128, 16), dtype=nl.float8_e4m3fn_x4)
            scale = nl.ndarray((100, 16), dtype=nl.float8_e8m0fnu)
            nisa.quantize_mx(dst=data, src=loaded(source), dst_scale=scale)
            packed.append(data)
            scales.append(scale)
        total = nl.ndarray((16, 16), dtype=nl.float32, buffer=nl.psum)
        nisa.nc_matmul_mx(total, packed[0], packed[1], scales[0], scales[1])
        result = nl.ndarray((16, 16), dtype=nl.float32)
        nisa.tensor_copy(dst=result, src=total)
        return stored(result)

    wanted = np.einsum(
        "kmi,kni->mn",
        x.astype(np.float32).reshape(128, 16, 4),
        y.astype(np.float32).reshape(128, 16, 4),
    )
    assert np.linalg.norm(kernel(x, y) - wanted) < 0.06 * np.linalg.norm(wanted)


def test_scales_are_packed_into_the_rest_of_a_quadrant() -> None:
    rng = np.random.default_rng(4)
    a, scales, numbers = mx_matrix(rng, nl.float8_e5m2_x4, 32, 4)

    def body(a: Any, scales: Any) -> np.ndarray:
        data = loaded(a).view(nl.float8_e5m2_x4)
        shared = tile((32, 4), nl.uint8)
        nisa.dma_copy(dst=shared[8:12], src=scales)
        total = nl.ndarray((4, 4), dtype=nl.float32, buffer=nl.psum)
        nisa.nc_matmul_mx(total, data, data, shared[8:12], shared[8:12])
        return values(total)

    wanted = np.einsum("kmi,kni->mn", numbers, numbers).astype(np.float32)
    np.testing.assert_array_equal(in_kernel(body, a, scales), wanted)


def operands(rows: int = 32, m: int = 4, scale: int = 4, start: int = 0) -> tuple[Any, ...]:
    data, other = tile((rows, m), nl.float8_e5m2_x4), tile((rows, 4), nl.float8_e5m2_x4)
    scales = tile((max(start + scale, 4), m), nl.uint8)[start : start + scale]
    total = nl.ndarray((m, 4), dtype=nl.float32, buffer=nl.psum)
    return total, data, other, scales, tile((max(scale, 4), 4), nl.uint8)


@pytest.mark.parametrize(
    ("shape", "options", "fragment"),
    [
        ({"rows": 40}, {}, "multiple of 32"),
        ({"m": 3}, {}, "M is even"),
        ({"rows": 64}, {}, "need 36"),
        ({"start": 2}, {}, "multiple of 4 partitions"),
        ({}, {"tile_size": (32, 64), "tile_position": (0, 0)}, "row tiles"),
        ({}, {"tile_size": (32, 128), "tile_position": (32, 0)}, "row tiles"),
        ({}, {"tile_size": (32, 128)}, "row tiles"),
    ],
)
def test_refusals(shape: dict[str, int], options: dict[str, Any], fragment: str) -> None:
    with pytest.raises(IllegalProgram, match=fragment):
        in_kernel(lambda: nisa.nc_matmul_mx(*operands(**shape), **options))


def test_legal_row_tiles_and_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    tiling = {"tile_size": (32, 128), "tile_position": (0, 0)}
    in_kernel(lambda: nisa.nc_matmul_mx(*operands(), **tiling))
    monkeypatch.setenv("NEURON_PLATFORM_TARGET_OVERRIDE", "trn2")
    with pytest.raises(IllegalProgram, match="exists from trn3 on"):
        in_kernel(lambda: nisa.nc_matmul_mx(*operands()))


def test_only_the_scale_rows_are_read_and_written() -> None:
    def body(read_too_much: bool) -> None:
        scale = nl.ndarray((64, 2), dtype=nl.uint8)
        packed = nl.ndarray((64, 2), dtype=nl.float8_e4m3fn_x4)
        nisa.quantize_mx(dst=packed, src=tile((64, 8), nl.bfloat16), dst_scale=scale)
        total = nl.ndarray((2, 2), dtype=nl.float32, buffer=nl.psum)
        nisa.nc_matmul_mx(total, packed, packed, scale, scale)
        nisa.tensor_copy(dst=tile((4, 2), nl.uint8), src=scale[32:36])
        if read_too_much:
            nisa.tensor_copy(dst=tile((32, 2), nl.uint8), src=scale[32:64])

    in_kernel(body, False)
    with pytest.raises(UninitialisedRead, match=r"\(4, 0\)"):
        in_kernel(body, True)


def test_unwritten_scales_are_refused() -> None:
    def body() -> None:
        total, data, other, _, scale = operands(64, scale=36)
        fresh = nl.ndarray((36, 4), dtype=nl.uint8)
        nisa.memset(dst=fresh[0:4], value=127)
        nisa.nc_matmul_mx(total, data, other, fresh, scale)

    with pytest.raises(UninitialisedRead, match="stationary_scale"):
        in_kernel(body)


def test_quantisation_needs_matching_sizes() -> None:
    def body() -> None:
        packed, scale = nl.ndarray((32, 3), dtype=nl.float8_e5m2_x4), tile((4, 3), nl.uint8)
        nisa.quantize_mx(dst=packed, src=tile((32, 8), nl.bfloat16), dst_scale=scale)

    with pytest.raises(IllegalProgram, match="quarter of the free size"):
        in_kernel(body)


def test_imprecise_mode_keeps_scales_as_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NKI_PRECISE_FP", "0")

    def body() -> np.ndarray:
        packed = nl.ndarray((32, 2), dtype=nl.float8_e4m3fn_x4)
        scale = nl.ndarray((4, 2), dtype=nl.float8_e8m0fnu)
        nisa.quantize_mx(dst=packed, src=tile((32, 8), nl.bfloat16, value=3), dst_scale=scale)
        total = nl.ndarray((2, 2), dtype=nl.float32, buffer=nl.psum)
        nisa.nc_matmul_mx(total, packed, packed, scale, scale)
        return values(total)

    assert (in_kernel(body) == 9 * 128).all()
