"""What the simulator decides where NKI's documents are silent, unclear or at odds.

The numbers are those of ``docs/decisions/0004-open-questions-of-nki.md``, which gives the reasons.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nki
import nki.isa as nisa
import nki.language as nl
import numpy as np
import pytest

import nki_sim
from nki_sim import lint
from nki_sim.dtypes import TABLE
from nki_sim.errors import IllegalProgram, NotModelled, UninitialisedRead

from .lint_cases import HEAD
from .support import in_kernel, loaded, tile, values

X = np.arange(32, dtype=np.float32).reshape(4, 8)


def rules_broken(tmp_path: Path, body: str, versions: tuple[str, ...]) -> set[str]:
    """The rules that a kernel with this body breaks."""
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    path = tmp_path / "kernel.py"
    path.write_text(f"{HEAD}\n@nki.jit\ndef k(x):\n{lines}    return x\n")
    return {finding.rule for finding in lint.check(path, versions)}


def converted(numbers: list[float], dtype: str) -> np.ndarray:
    """fp32 numbers after a copy to another type."""

    def body(x: Any) -> np.ndarray:
        result = nl.ndarray(x.shape, dtype=dtype, buffer=nl.sbuf)
        nisa.tensor_copy(dst=result, src=loaded(x))
        return values(result)

    return in_kernel(body, np.array([numbers], np.float32))[0]


def test_1_nothing_is_claimed_of_releases_after_2_32(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'2\.33' is not known; choose from .* 2\.32"):
        rules_broken(tmp_path, "pass", ("2.33",))


def test_2_the_documents_decide_what_the_first_compilers_take(tmp_path: Path) -> None:
    """The snapshot of a front end that tests may compare with refuses all four."""
    body = 'n = 2\nwhile n > 0:\n    n = n - 1\nd = {"a": f"t{n}"}\nassert n in (0, 1)'
    assert rules_broken(tmp_path, body, ("2.27", "2.28")) == set()


@pytest.mark.parametrize(("offset", "first"), [(None, 2), (0, 2), (1, 3)])
def test_3_a_pattern_on_a_slice_counts_from_the_slice(offset: int | None, first: int) -> None:
    def body(x: Any) -> np.ndarray:
        options = {} if offset is None else {"offset": offset}
        return values(loaded(x)[:, 2:6].ap(pattern=[[8, 4], [1, 2]], **options))

    with pytest.warns(UserWarning, match="counts from the slice's first element"):
        np.testing.assert_array_equal(in_kernel(body, X), X[:, first : first + 2])


def test_3_a_pattern_on_a_slice_with_two_meanings_is_not_modelled() -> None:
    """Steps of 3: every third element of the tensor, or every ninth."""

    def body(x: Any) -> Any:
        return loaded(x)[0:1, 0:12:3].ap(pattern=[[12, 1], [3, 2]])

    with pytest.raises(NotModelled, match="documents disagree about this pattern"):
        in_kernel(body, np.zeros((2, 12), np.float32))


def test_4_addresses_are_partition_and_bytes_and_banks_begin_at_2048() -> None:
    def place(address: tuple[int, int], columns: int = 512) -> Any:
        return nl.ndarray((4, columns), dtype=nl.bfloat16, buffer=nl.psum, address=address)

    def neighbours(second: int) -> None:
        first = nl.ndarray((4, 512), dtype=nl.bfloat16, buffer=nl.sbuf, address=(0, 0))
        nisa.memset(dst=first, value=1)
        nisa.memset(
            dst=nl.ndarray((4, 2), dtype=nl.bfloat16, buffer=nl.sbuf, address=(0, second)), value=2
        )
        values(loaded_again(first))

    def loaded_again(source: Any) -> Any:
        copy = nl.ndarray(source.shape, dtype=source.dtype, buffer=nl.sbuf, address=(0, 4096))
        nisa.tensor_copy(dst=copy, src=source)
        return copy

    in_kernel(lambda: place((0, 2048)))
    with pytest.raises(IllegalProgram, match="a multiple of 2048 bytes"):
        in_kernel(lambda: place((0, 512)))
    in_kernel(lambda: neighbours(1024))  # 512 elements of 2 bytes end at byte 1024
    with pytest.raises(UninitialisedRead):
        in_kernel(lambda: neighbours(512))


def test_5_the_first_matmul_into_fresh_psum_overwrites() -> None:
    """Evacuation does not make a tile fresh again; what another engine wrote is not added to."""
    ones = np.ones((4, 8), np.float32)

    def body(x: Any, between: Callable[[Any], None]) -> np.ndarray:
        total = nl.ndarray((8, 8), dtype=nl.float32, buffer=nl.psum)
        for _ in range(2):
            nisa.nc_matmul(dst=total, stationary=loaded(x), moving=loaded(x))
            between(total)
        return values(total)

    def evacuate(total: Any) -> None:
        nisa.tensor_copy(dst=nl.ndarray((8, 8), dtype=nl.float32, buffer=nl.sbuf), src=total)

    assert (in_kernel(body, ones, evacuate) == 8).all()
    with pytest.warns(UserWarning, match="adds to PSUM that was set to zero"):
        in_kernel(body, ones, lambda total: nisa.memset(dst=total, value=0))
    with pytest.raises(IllegalProgram, match="another instruction wrote"):
        in_kernel(body, ones, lambda total: nisa.memset(dst=total, value=1))


@pytest.mark.parametrize(
    ("dtype", "over"), [("float8_e4m3", np.inf), ("float8_e5m2", np.inf), ("float8_e4m3fn", np.nan)]
)
def test_6_fp8_does_not_saturate(dtype: str, over: float) -> None:
    largest = {"float8_e4m3": 240, "float8_e5m2": 57344, "float8_e4m3fn": 448}[dtype]
    got = converted([largest, 2 * largest, -2 * largest], dtype).astype(np.float32)
    np.testing.assert_array_equal(got, [largest, over, -over])


def test_7_activation_sums_what_has_not_been_rounded() -> None:
    def body(x: Any) -> tuple[np.ndarray, np.ndarray]:
        result, total = nl.ndarray(x.shape, dtype=nl.bfloat16), tile((1, 1))
        nisa.activation_reduce(
            dst=result, op=nl.copy, data=loaded(x), reduce_op=nl.add, reduce_res=total
        )
        return values(result).astype(np.float32), values(total)

    rounded, total = in_kernel(body, np.full((1, 8), 1.001, np.float32))
    assert rounded.sum() == 8 and total[0, 0] == pytest.approx(8.008)


def test_8_columns_are_tiled_by_32_and_64() -> None:
    def body(x: Any, columns: int) -> np.ndarray:
        total = nl.ndarray((128, 8), dtype=nl.float32, buffer=nl.psum)
        for first in range(0, 128, columns):
            nisa.nc_matmul(
                dst=total[first : first + 8],
                stationary=loaded(x),
                moving=loaded(x),
                tile_position=(0, first),
                tile_size=(128, columns),
            )
        return values(total[128 - columns : 136 - columns])

    for columns in (32, 64):
        np.testing.assert_allclose(in_kernel(body, X, columns), X.T @ X)


def test_9_only_matmuls_count_multiply_accumulates() -> None:
    @nki.jit
    def kernel(x):
        row = loaded(x)
        turned = nl.ndarray((8, 4), dtype=x.dtype, buffer=nl.psum)
        nisa.nc_transpose(dst=turned, data=row, engine=nisa.engine.tensor)
        total = nl.ndarray((8, 8), dtype=nl.float32, buffer=nl.psum)
        nisa.nc_matmul(dst=total, stationary=row, moving=row)

    with nki_sim.record() as recording:
        kernel(X)
    assert recording.launches[0].summary()["macs"] == 4 * 8 * 8


def test_10_dma_transposes_4_bytes_except_by_hardware_descriptors() -> None:
    def body(x: Any, **options: Any) -> np.ndarray:
        result = nl.ndarray((x.shape[1], x.shape[0]), dtype=x.dtype, buffer=nl.sbuf)
        nisa.dma_transpose(dst=result, src=x, **options)
        return values(result)

    square = np.arange(64, dtype=np.float32).reshape(16, 4)
    np.testing.assert_array_equal(in_kernel(body, square), square.T)
    with pytest.raises(IllegalProgram, match="hardware descriptors transpose"):
        in_kernel(lambda x: body(x, dge_mode=nisa.dge_mode.hwdge), square)
    for dtype in (np.float16, np.float32):
        with pytest.raises(IllegalProgram, match="at most 128"):
            in_kernel(body, np.zeros((2, 129), dtype))


def test_11_tensor_scalar_computes_integers_in_fp32() -> None:
    def body(x: Any) -> np.ndarray:
        result = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.sbuf)
        nisa.tensor_scalar(dst=result, data=loaded(x), op0=nl.add, operand0=1.0)
        return values(result)

    exact, beyond = 2**24 - 1, 2**24 + 1
    got = in_kernel(body, np.array([[exact, beyond]], np.int32))[0]
    assert got[0] == exact + 1 and got[1] != beyond + 1


def test_12_nested_functions_are_an_error_before_2_32(tmp_path: Path) -> None:
    body = "def inner(a):\n    return a\nx = inner(x)"
    assert rules_broken(tmp_path, body, ("2.31",)) == {"nested-function"}
    assert rules_broken(tmp_path, body, ("2.32",)) == set()


def test_13_idle_leaves_the_vector_engines_registers_unknown() -> None:
    def body(command: Any) -> None:
        t, mask, best = tile((4, 8)), tile((4, 8), "uint8"), tile((4, 1))
        nisa.select_reduce(t, mask, t, 1.0, reduce_cmd=nisa.reduce_cmd.reset_reduce)
        nisa.select_reduce(t, mask, t, 2.0, reduce_cmd=command)
        nisa.tensor_scalar_reduce(
            t, t, nl.add, 0.0, nl.maximum, best, reduce_cmd=nisa.reduce_cmd.reduce
        )

    in_kernel(body, nisa.reduce_cmd.reduce)
    with pytest.raises(UninitialisedRead, match="idle may change them"):
        in_kernel(body, nisa.reduce_cmd.idle)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32"])
def test_14_integers_round_to_even_and_saturate_and_nan_is_0(dtype: str) -> None:
    bounds = np.iinfo(TABLE[dtype].numpy)
    numbers = [0.5, 1.5, -0.5, -3.0, 1e10, -1e10, np.inf, -np.inf, np.nan]
    low = max(-3, bounds.min)
    expected = [0, 2, 0, low, bounds.max, bounds.min, bounds.max, bounds.min, 0]
    np.testing.assert_array_equal(converted(numbers, dtype), np.array(expected, dtype))


@pytest.mark.parametrize("sequence", [list, tuple])
def test_15_sequences_are_lists_or_tuples(sequence: Any) -> None:
    def kernel(x: Any) -> Any:
        row = loaded(x)
        nisa.nc_stream_shuffle(dst=row, src=row, shuffle_mask=sequence([0] * 32))
        numbers = nl.ndarray((32, 4), dtype=nl.float32, buffer=nl.sbuf)
        nisa.iota(dst=numbers, pattern=sequence([sequence([1, 4])]), offset=0)
        shared = nl.ndarray((2, 4), dtype=nl.float32, buffer=nl.shared_hbm)
        core = nl.program_id(0)
        window = numbers.ap(pattern=sequence([sequence([4, 1]), sequence([1, 4])]), offset=0)
        nisa.dma_copy(dst=shared[core : core + 1], src=window)
        nisa.core_barrier(shared, sequence([0, 1]))
        return shared

    got = nki.jit(kernel)[2](np.zeros((32, 2), np.float32))
    np.testing.assert_array_equal(got, [range(4)] * 2)


def test_every_question_has_its_test() -> None:
    """The document's rows and the tests here have the same numbers."""
    root = Path(__file__).parents[2]
    text = (root / "docs" / "decisions" / "0004-open-questions-of-nki.md").read_text()
    rows = {line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")}
    tested = {name.split("_")[1] for name in globals() if name.startswith("test_")}
    assert {row for row in rows if row.isdigit()} == {n for n in tested if n.isdigit()}
    for name in text.split("`")[1::2]:
        path, _, symbol = name.partition(":")
        if path.startswith("nki_sim/"):
            assert symbol.split(".")[-1] in (root / path).read_text(), name
