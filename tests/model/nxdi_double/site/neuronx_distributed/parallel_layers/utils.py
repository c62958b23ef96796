"""The double of what marks a parameter as one that is split among the ranks."""

from __future__ import annotations

from torch import Tensor

ATTRIBUTES = ("tensor_model_parallel", "partition_dim", "partition_stride", "num_partitions")


def set_tensor_model_parallel_attributes(
    tensor: Tensor, is_parallel: bool, dim: int, stride: int, num_partitions: int = -1
) -> None:
    assert num_partitions != -1, "the SDK warns: the default may be wrong, and will be removed"
    values = (is_parallel, dim, stride, num_partitions)
    for name, value in zip(ATTRIBUTES, values, strict=True):
        assert not hasattr(tensor, name), f"{name} is set already"
        setattr(tensor, name, value)
