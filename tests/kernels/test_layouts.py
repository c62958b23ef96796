"""Layouts: element by element as documented, and back again."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kernels import layouts


@pytest.mark.parametrize(
    ("size", "expected"), [(1, 1), (64, 64), (128, 128), (192, 96), (768, 128), (2048, 128)]
)
def test_partitions_spread_evenly(size: int, expected: int) -> None:
    assert layouts.partitions(size) == expected


def test_packed_vector_follows_its_formula_and_comes_back() -> None:
    vector = np.arange(3 * 192).reshape(3, 192)
    packed = layouts.pack_vector(vector)
    assert packed.shape == (3, 96, 2)
    assert packed[1, 7, 1] == vector[1, 96 + 7]
    assert np.array_equal(layouts.unpack_vector(packed), vector)


def test_packed_linear_follows_its_formula_and_comes_back() -> None:
    weight = np.arange(2 * 10 * 256).reshape(2, 10, 256)
    packed = layouts.pack_linear(weight)
    assert packed.shape == (2, 128, 2, 10)
    assert packed[1, 5, 1, 9] == weight[1, 9, 128 + 5]
    assert np.array_equal(layouts.unpack_linear(packed), weight)


def test_partitions_of_a_linear_weight_can_be_given() -> None:
    weight = np.arange(10 * 128).reshape(10, 128)
    packed = layouts.pack_linear(weight, count=16)
    assert packed.shape == (16, 8, 10)
    assert packed[3, 5, 7] == weight[7, 5 * 16 + 3]
    assert np.array_equal(layouts.unpack_linear(packed), weight)


def test_torch_tensors_are_packed_alike() -> None:
    weight = np.arange(4 * 192, dtype=np.float32).reshape(4, 192)
    packed = layouts.pack_linear(torch.from_numpy(weight))
    assert np.array_equal(packed.numpy(), layouts.pack_linear(weight))
    assert torch.equal(layouts.unpack_linear(packed), torch.from_numpy(weight))
