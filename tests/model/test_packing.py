"""Packed weights: the checkpoint comes back from them, whole and from the parts of ranks."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from kernels.layouts import pack_linear
from model import tiny
from model.neuron_state import WrongCheckpoint
from model.packing import Checkpoint, Shard, pack, unpack

CONFIG = SimpleNamespace(**tiny.CONFIG)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_round_trip(checkpoint, ranks, dtype):
    weights = Checkpoint(checkpoint, dtype)
    parts = [pack(weights, CONFIG, Shard(rank, ranks)) for rank in range(ranks)]
    whole = unpack(parts, CONFIG)
    assert whole.keys() == set(weights)
    for name, tensor in weights.items():
        assert whole[name].dtype == dtype and torch.equal(whole[name], tensor), name


def test_shapes_of_a_rank(checkpoint):
    packed = pack(Checkpoint(checkpoint, torch.float32), CONFIG, Shard(3, 4))
    shapes = {name: tuple(tensor.shape) for name, tensor in vars(packed).items()}
    assert shapes == {
        "input_norm": (2, 64, 1), "w_qkv": (2, 64, 1, 64), "q_norm": (2, 16), "k_norm": (2, 16),
        "w_o": (2, 16, 2, 64), "post_norm": (2, 64, 1), "w_router": (2, 64, 1, 16),
        "w_gate_up": (2, 16, 64, 1, 24), "w_down": (2, 16, 12, 1, 64), "final_norm": (64, 1),
        "w_head": (64, 1, 512), "embedding": (2048, 64),
    }  # fmt: skip


def test_a_rank_has_the_heads_that_belong_together(checkpoint):
    weights = Checkpoint(checkpoint, torch.float32)
    packed = pack(weights, CONFIG, Shard(1, 2))
    names = [f"model.layers.0.self_attn.{name}_proj.weight" for name in "qkv"]
    rows = [weights[name][len(weights[name]) // 2 :] for name in names]
    assert torch.equal(packed.w_qkv[0], pack_linear(torch.cat(rows)))


def test_the_layers_are_views_of_one_tensor(checkpoint):
    packed = pack(Checkpoint(checkpoint, torch.float32), CONFIG)
    for name, tensor in packed.layer(1).items():
        assert (
            tensor.untyped_storage().data_ptr()
            == getattr(packed, name).untyped_storage().data_ptr()
        )


def test_wrong_names_are_refused(checkpoint):
    weights = dict(Checkpoint(checkpoint, torch.float32))
    lacking = {k: v for k, v in weights.items() if "layers.1.self_attn.q_norm" not in k}
    with pytest.raises(WrongCheckpoint, match=r"1 missing \(layers\.1\.self_attn\.q_norm\.weight"):
        pack(lacking, CONFIG)
    with pytest.raises(WrongCheckpoint, match="1 unknown"):
        pack(weights | {"model.layers.9.x": torch.ones(1)}, CONFIG)
    with pytest.raises(ValueError, match="num_attention_heads 8 is no multiple of 3 ranks"):
        pack(weights, CONFIG, Shard(0, 3))
