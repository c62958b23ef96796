"""The weights of one tensor-parallel rank in the layouts of the decoder kernels, made once at load.

L layers, H hidden, D head dimension, E experts, I an expert's width, V vocabulary, heads and widths
those of the rank; [P, J, ...] are columns (`kernels.layouts`). A tensor holds all layers, so that
the kernel of the whole stack and those of a single layer, which take views, read the same memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from kernels.layouts import pack_linear, pack_vector, partitions, unpack_linear, unpack_vector
from model.neuron_state import check_names, expected_names

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Shard:
    """Which part of the model a rank holds: number `rank` of `ranks` equal ones."""

    rank: int = 0
    ranks: int = 1

    def of(self, tensor: Tensor, dim: int) -> Tensor:
        """The rank's part of `tensor` along `dim`, as a view."""
        return tensor.chunk(self.ranks, dim)[self.rank]

    def why_not(self, config: Any) -> str | None:
        """Why a model of this configuration cannot be split so, or None if it can."""
        for name in SPLIT:
            if getattr(config, name) % self.ranks:
                return f"{name} {getattr(config, name)} is no multiple of {self.ranks} ranks"
        return None


SPLIT = ("num_attention_heads", "num_key_value_heads", "moe_intermediate_size", "vocab_size")
"""What is divided among the ranks; norms, router and embedding are on all of them."""

SHARED = ("input_norm", "q_norm", "k_norm", "post_norm", "w_router", "final_norm", "embedding")
"""The packed tensors that are the same on all ranks."""


@dataclass(frozen=True)
class Packed:
    """The weights of one rank.

    norms: [L, P, J] over H and [L, D] of the heads; w_qkv [L, P, J, (heads + 2 kv heads) D];
    w_o [L, D, heads, H]; w_router [L, P, J, E]; w_gate_up [L, E, P, J, 2 I], gate before up;
    w_down [L, E, P', J', H]; final_norm [P, J]; w_head [P, J, V]; embedding [whole V, H].
    """

    input_norm: Tensor
    w_qkv: Tensor
    q_norm: Tensor
    k_norm: Tensor
    w_o: Tensor
    post_norm: Tensor
    w_router: Tensor
    w_gate_up: Tensor
    w_down: Tensor
    final_norm: Tensor
    w_head: Tensor
    embedding: Tensor

    def layer(self, index: int) -> dict[str, Tensor]:
        """Views of what belongs to one layer, by the names of the fields."""
        return {name: getattr(self, name)[index] for name in LAYER}


class Checkpoint(Mapping[str, Tensor]):
    """The tensors of a folder's *.safetensors by name, read from the disk when asked for."""

    def __init__(self, folder: Path, dtype: torch.dtype) -> None:
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            raise FileNotFoundError(f"{folder}: no *.safetensors here; make or download the model")
        self._dtype = dtype
        opened = [safe_open(file, framework="pt") for file in files]
        self._files = {name: file for file in opened for name in file.keys()}  # noqa: SIM118

    def __getitem__(self, name: str) -> Tensor:
        tensor: Tensor = self._files[name].get_tensor(name)
        return tensor.to(self._dtype)

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def pack(weights: Weights, config: Any, shard: Shard | None = None) -> Packed:
    """The packed weights of a rank, from a Hugging Face checkpoint's tensors by name.

    Tensors are read one after the other and copied into their place, so that with a `Checkpoint`
    no second copy of the model is ever held. WrongCheckpoint for missing or unknown names;
    ValueError for a model that cannot be split so.
    """
    shard = shard or Shard()
    if reason := shard.why_not(config):
        raise ValueError(f"the model cannot be split: {reason}")
    inside = {name.removeprefix("model.") for name in weights}
    check_names(inside, expected_names(config), "the checkpoint")
    layers = [
        Part(weights, f"model.layers.{layer}.", config, shard)
        for layer in range(config.num_hidden_layers)
    ]
    return Packed(
        **{name: _stack(len(layers), map(of_layer, layers)) for name, of_layer in LAYER.items()},
        final_norm=pack_vector(weights["model.norm.weight"]).contiguous(),
        w_head=pack_linear(shard.of(weights["lm_head.weight"], 0)).contiguous(),
        embedding=weights["model.embed_tokens.weight"],
    )


@dataclass(frozen=True)
class Part:
    """The checkpoint's tensors below a prefix, and what of them a rank holds."""

    weights: Weights
    prefix: str
    config: Any
    shard: Shard

    def __call__(self, name: str, split: int | None = None) -> Tensor:
        """The weight `name`, or of what is split along dimension `split` the rank's part."""
        whole = self.weights[f"{self.prefix}{name}.weight"]
        return whole if split is None else self.shard.of(whole, split)


def _qkv(layer: Part) -> Tensor:
    return pack_linear(torch.cat([layer(f"self_attn.{name}_proj", 0) for name in "qkv"]))


def _gate_up(expert: Part) -> Tensor:
    return pack_linear(torch.cat([expert(f"{name}_proj", 0) for name in ("gate", "up")]))


def _of_experts(pack_expert: Callable[[Part], Tensor]) -> Callable[[Part], Tensor]:
    def of_layer(layer: Part) -> Tensor:
        count = layer.config.num_experts
        experts = (
            replace(layer, prefix=f"{layer.prefix}mlp.experts.{expert}.") for expert in range(count)
        )
        return _stack(count, map(pack_expert, experts))

    return of_layer


LAYER: dict[str, Callable[[Part], Tensor]] = {
    "input_norm": lambda layer: pack_vector(layer("input_layernorm")),
    "w_qkv": _qkv,
    "q_norm": lambda layer: layer("self_attn.q_norm"),
    "k_norm": lambda layer: layer("self_attn.k_norm"),
    "w_o": lambda layer: pack_linear(layer("self_attn.o_proj", 1), layer.config.head_dim),
    "post_norm": lambda layer: pack_vector(layer("post_attention_layernorm")),
    "w_router": lambda layer: pack_linear(layer("mlp.gate")),
    "w_gate_up": _of_experts(_gate_up),
    "w_down": _of_experts(lambda expert: pack_linear(expert("down_proj", 1))),
}
"""How one layer's part of each stacked tensor is made."""


def shapes(config: Any, ranks: int = 1) -> dict[str, tuple[int, ...]]:
    """Shapes of a rank's packed tensors: those of one layer by name, and the head's."""
    hidden, head_dim, experts = config.hidden_size, config.head_dim, config.num_experts
    heads, kv_heads, width, vocab = (getattr(config, name) // ranks for name in SPLIT)
    columns, inner = ((partitions(size), size // partitions(size)) for size in (hidden, width))
    return {
        "input_norm": columns,
        "w_qkv": (*columns, (heads + 2 * kv_heads) * head_dim),
        "q_norm": (head_dim,),
        "k_norm": (head_dim,),
        "w_o": (head_dim, heads, hidden),
        "post_norm": columns,
        "w_router": (*columns, experts),
        "w_gate_up": (experts, *columns, 2 * width),
        "w_down": (experts, *inner, hidden),
        "final_norm": columns,
        "w_head": (*columns, vocab),
    }


def _stack(count: int, parts: Iterator[Tensor]) -> Tensor:
    """`torch.stack` of `count` parts, holding one of them at a time beside the result."""
    first = next(parts)
    stacked = torch.empty((count, *first.shape), dtype=first.dtype)
    for index, part in enumerate(chain([first], parts)):
        stacked[index] = part
    return stacked


def unpack(ranks: Sequence[Packed], config: Any) -> dict[str, Tensor]:
    """The inverse of `pack`: the checkpoint's tensors by name, from the parts of all ranks."""
    first = ranks[0]
    whole = {
        "model.embed_tokens.weight": first.embedding,
        "model.norm.weight": unpack_vector(first.final_norm),
        "lm_head.weight": torch.cat([unpack_linear(rank.w_head) for rank in ranks]),
    }
    for layer in range(config.num_hidden_layers):
        tensors = _unpack_layer([rank.layer(layer) for rank in ranks], config)
        whole |= {f"model.layers.{layer}.{name}.weight": t for name, t in tensors.items()}
    return whole


def _unpack_layer(ranks: Sequence[dict[str, Tensor]], config: Any) -> dict[str, Tensor]:
    first, joined = ranks[0], partial(_joined, ranks)
    key_rows = config.num_key_value_heads * config.head_dim // len(ranks)
    query_rows = config.num_attention_heads * config.head_dim // len(ranks)
    query, key, value = joined("w_qkv", lambda rows: rows.split([query_rows, key_rows, key_rows]))
    layer = {
        "input_layernorm": unpack_vector(first["input_norm"]),
        "post_attention_layernorm": unpack_vector(first["post_norm"]),
        "self_attn.q_proj": query,
        "self_attn.k_proj": key,
        "self_attn.v_proj": value,
        "self_attn.q_norm": first["q_norm"],
        "self_attn.k_norm": first["k_norm"],
        "self_attn.o_proj": torch.cat([unpack_linear(rank["w_o"]) for rank in ranks], dim=1),
        "mlp.gate": unpack_linear(first["w_router"]),
    }
    gate, up = joined("w_gate_up", lambda rows: rows.chunk(2, dim=1))
    down = torch.cat([unpack_linear(rank["w_down"]) for rank in ranks], dim=2)
    for name, experts in (("gate", gate), ("up", up), ("down", down)):
        for expert, weight in enumerate(experts):
            layer[f"mlp.experts.{expert}.{name}_proj"] = weight
    return layer


def _joined(
    ranks: Sequence[dict[str, Tensor]], name: str, cut: Callable[[Tensor], Sequence[Tensor]]
) -> list[Tensor]:
    """The linear weights that stand side by side in `name`, each with the rows of all ranks."""
    parts = zip(*(cut(unpack_linear(rank[name])) for rank in ranks), strict=True)
    return [torch.cat(rows, dim=-2) for rows in parts]
