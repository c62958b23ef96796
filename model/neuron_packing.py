"""From a Hugging Face checkpoint to the packed weights of all ranks, by the names of our layers.

Each tensor that is divided among the ranks holds their packs one behind the other along its first
dimension, so that NxD's even split of a checkpoint gives every rank its own. It is exact, with
nothing missing and nothing left over, as `model.neuron_state` is for NxD Inference's modules.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels.layouts import pack_linear, pack_vector
from model.layers import AttentionBlock, ExpertsBlock
from model.neuron_state import RANK, State, check_names, dequantise, expected_names
from model.packing import LAYER, SHARED, Part, Shard

BLOCKS = {"attention": AttentionBlock.NAMES, "experts": ExpertsBlock.NAMES}
"""The names of a layer's blocks, and of the parameters in each."""

HEAD = "lm_head.head."
SPLIT_DIM = 0  # along which the packs of the ranks stand one behind the other
EMBEDDING = "embed_tokens.weight"


def convert(state: State, config: Any) -> State:
    """The tensors of our layers from the Hugging Face tensors in `state`, which is emptied.

    `config` is NxD Inference's configuration of the model; there are `tp_degree` ranks.
    WrongCheckpoint unless every tensor is expected and every expected one is there.
    """
    ranks = int(config.neuron_config.tp_degree)
    dequantise(state, config)
    check_names(state, expected_names(config), "the checkpoint")
    shards = [Shard(rank, ranks) for rank in range(ranks)]
    converted: State = {RANK: torch.arange(ranks, dtype=torch.int32)}
    converted[EMBEDDING] = state.pop(EMBEDDING)
    converted |= _head(state, shards)
    for layer in range(config.num_hidden_layers):
        prefix = f"layers.{layer}."
        converted |= _layer(state, prefix, config, shards)
        for name in [name for name in state if name.startswith(prefix)]:
            del state[name]
    check_names(state, set(), "what is left of the checkpoint")
    return converted


def _head(state: State, shards: list[Shard]) -> State:
    weight = state.pop("lm_head.weight")
    return {
        f"{HEAD}final_norm": pack_vector(state.pop("norm.weight")).contiguous(),
        f"{HEAD}w_head": torch.cat([pack_linear(shard.of(weight, 0)) for shard in shards]),
    }


def _layer(state: State, prefix: str, config: Any, shards: list[Shard]) -> State:
    parts = [Part(state, prefix, config, shard) for shard in shards]
    return {
        f"{prefix}{block}.{name}": _joined(name, parts)
        for block, names in BLOCKS.items()
        for name in names
    }


def _joined(name: str, parts: list[Part]) -> Tensor:
    """The packs of all ranks one behind the other, or what is the same on all of them, once."""
    if name in SHARED:
        return LAYER[name](parts[0]).contiguous()
    return torch.cat([LAYER[name](part) for part in parts], dim=SPLIT_DIM)
