"""The sum over ranks, on one and two cores of each, against NumPy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import nki.collectives as ncc
import numpy as np
import pytest

from kernels.nki_collective_kernels import nki_all_reduce_kernel
from nki_sim import lint, ranks
from nki_sim.schedule import shuffled

SOURCE = Path(__file__).resolve().parents[2] / "kernels" / "nki_collective_kernels.py"
TYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16}


def parts(count: int, shape: tuple[int, int], dtype: Any) -> list[np.ndarray]:
    rng = np.random.default_rng([count, *shape])
    return [rng.standard_normal(shape).astype(dtype) for _ in range(count)]


def total(inputs: list[np.ndarray]) -> np.ndarray:
    """In fp32 in the order of the ranks, rounded once."""
    result = inputs[0].astype(np.float32)
    for one in inputs[1:]:
        result = result + one.astype(np.float32)
    return result.astype(inputs[0].dtype)


@pytest.mark.parametrize("cores", [1, 2])
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(1, 2048), (200, 64), (3, 1)])
@pytest.mark.parametrize("count", [2, 4])
def test_every_rank_has_the_sum(count: int, shape: tuple[int, int], dtype: str, cores: int) -> None:
    inputs = parts(count, shape, TYPES[dtype])
    group = ncc.ReplicaGroup([list(range(count))])
    for seed in (None, 1, 2):
        with shuffled(seed):
            results = ranks.run(
                nki_all_reduce_kernel[cores], ranks=count, arguments=[(x, group) for x in inputs]
            )
        for result in results:
            assert result.dtype == inputs[0].dtype
            np.testing.assert_array_equal(result, total(inputs))


def test_the_sum_is_rounded_once() -> None:
    """256 + 1 + 1 is 256 if every addition is rounded to bfloat16."""
    inputs = [np.full((1, 8), value, ml_dtypes.bfloat16) for value in (256, 1, 1, 0)]
    group = ncc.ReplicaGroup([[0, 1, 2, 3]])
    results = ranks.run(nki_all_reduce_kernel, ranks=4, arguments=[(x, group) for x in inputs])
    assert [float(result[0, 0]) for result in results] == [258.0] * 4


def test_groups_sum_apart() -> None:
    inputs = parts(4, (2, 16), np.float32)
    group = ncc.ReplicaGroup([[0, 1], [2, 3]])
    results = ranks.run(nki_all_reduce_kernel, ranks=4, arguments=[(x, group) for x in inputs])
    for rank, result in enumerate(results):
        first = rank // 2 * 2
        np.testing.assert_array_equal(result, inputs[first] + inputs[first + 1])


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.ones((2, 3, 4), np.float32), "x must have 2 dimensions"),
        (np.ones((0, 4), np.float32), r"\(0, 4\)"),
        (np.ones((2, 4), np.float16), "must be float32 or bfloat16"),
    ],
)
def test_what_it_refuses(x: np.ndarray, message: str) -> None:
    group = ncc.ReplicaGroup([[0, 1]])
    with pytest.raises((AssertionError, RuntimeError), match=message):
        ranks.run(nki_all_reduce_kernel, ranks=2, arguments=[(x, group)] * 2)


def test_its_language_is_that_of_every_release_with_collectives() -> None:
    errors = [finding for finding in lint.check(SOURCE) if finding.is_error]
    assert {finding.rule for finding in errors} == {"unknown-name"}
    assert all(tuple(finding.versions) == ("2.27",) for finding in errors)
    assert all("nki.collectives" in str(finding) for finding in errors)
