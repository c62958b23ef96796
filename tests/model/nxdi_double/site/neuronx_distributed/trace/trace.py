"""The double of NxD's sharding of a checkpoint: by kind of module, as in the SDK."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from neuronx_distributed.parallel_layers.layers import BaseParallelLinear


def get_sharded_checkpoint(
    checkpoint: dict[str, Tensor], model: nn.Module, rank: int, tp_degree: int
) -> None:
    """Replace what is to be split by this rank's part, in place.

    Only parameters of parallel layers are looked at, all of those below each of them.
    """
    split: set[str] = set()
    for prefix, module in model.named_modules():
        if not isinstance(module, BaseParallelLinear):
            continue
        for name, parameter in module.named_parameters():
            full = f"{prefix}.{name}"
            if full not in checkpoint or not getattr(parameter, "tensor_model_parallel", False):
                continue
            assert full not in split, f"{full} would be split twice"
            split.add(full)
            dim, count = parameter.partition_dim, parameter.num_partitions
            assert count == tp_degree and parameter.partition_stride == 1
            size, rest = divmod(checkpoint[full].shape[dim], count)
            assert rest == 0, f"{full} does not split into {count}"
            part = torch.split(checkpoint[full], size, dim=dim)[rank]
            checkpoint[full] = part.clone()
