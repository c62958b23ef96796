"""Decoder layers and LM head for NxD Inference, of the same blocks as the model on the CPU.

They stand where NxD Inference's (NxDI's) own would, which are not built: a second copy of the
weights would not fit. Their parameters are packed for the kernels and marked as NxD marks its own,
so that its sharding of checkpoints gives each rank its part. NxDI keeps the embedding, the KV
manager, the choice of the last token, sampling, buckets, compilation and loading.

B batch (1), S new tokens, C length of the cache, H hidden size, D head dimension, V the rank's part
of the vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from neuronx_distributed.parallel_layers.layers import BaseParallelLinear
from neuronx_distributed.parallel_layers.mappings import (
    gather_from_tensor_model_parallel_region,
    reduce_from_tensor_model_parallel_region,
)
from neuronx_distributed.parallel_layers.utils import set_tensor_model_parallel_attributes
from neuronx_distributed.utils import cpu_mode
from neuronx_distributed_inference.models.layer_boundary_marker import (
    ModuleMarkerEndWrapper,
    ModuleMarkerStartWrapper,
)
from torch import Tensor, nn

from model.layers import (
    Attended,
    AttentionBlock,
    ExpertsBlock,
    Head,
    Launching,
    Tables,
    rotary_tables,
)
from model.neuron_packing import SPLIT_DIM
from model.packing import SHARED, shapes

NO_RESIDUAL = (
    "layer {}: this release of NxD Inference does not hand the residual of one layer to the next; "
    "configure the model with nki_fuse_residual=False"
)


@dataclass(frozen=True)
class NeuronLaunching(Launching):
    """Launches in NxDI's model: NxD sums over the ranks, in `reduce_dtype` if there is one."""

    reduce_dtype: torch.dtype | None = None

    @classmethod
    def of(cls, settings: Any) -> NeuronLaunching:
        """As a NeuronConfig says; on the CPU a rank has one core."""
        cores = 1 if cpu_mode() else int(settings.logical_nc_config)
        return cls(
            cores=None if cores == 1 else cores,
            reduce_dtype=getattr(settings, "rpl_reduce_dtype", None),
        )

    def sum_over_ranks(self, output: Tensor) -> Tensor:
        """The sum [tokens, H] of what the tensor-parallel ranks have."""
        wide = output if self.reduce_dtype is None else output.to(self.reduce_dtype)
        total: Tensor = reduce_from_tensor_model_parallel_region(wide)
        return total.to(output.dtype)


# NxD shards the parameters of its own kinds of modules alone, of which this is the plainest base.
# It looks at all parameters below such a module, so that none may hold another.
class RankAttention(AttentionBlock, BaseParallelLinear):
    """The attention of one rank."""

    def __init__(self, config: Any, launch: NeuronLaunching) -> None:
        super().__init__(_room(self.NAMES, config), config.rms_norm_eps, launch)
        _mark(self, self.NAMES, config)


class RankExperts(ExpertsBlock, BaseParallelLinear):
    """Router and experts of one rank."""

    def __init__(self, config: Any, launch: NeuronLaunching) -> None:
        super().__init__(_room(self.NAMES, config), config.rms_norm_eps, launch)
        _mark(self, self.NAMES, config)


class RankHead(Head, BaseParallelLinear):
    """Final norm and LM head of one rank."""

    def __init__(self, config: Any, launch: NeuronLaunching) -> None:
        super().__init__(_room(self.NAMES, config), config.rms_norm_eps, launch)
        _mark(self, self.NAMES, config)


def _room(names: tuple[str, ...], config: Any) -> dict[str, Tensor]:
    """Tensors without values, of the shapes that one rank holds."""
    found = shapes(config, config.neuron_config.tp_degree)
    return {
        name: torch.empty(found[name], dtype=config.neuron_config.torch_dtype) for name in names
    }


def _mark(block: nn.Module, names: tuple[str, ...], config: Any) -> None:
    """Say to NxD which parameters it must split among the ranks."""
    for name in names:
        if name not in SHARED:
            set_tensor_model_parallel_attributes(
                block.get_parameter(name),
                is_parallel=True,
                dim=SPLIT_DIM,
                stride=1,
                num_partitions=int(config.neuron_config.tp_degree),
            )


class PackedDecoderLayer(nn.Module):
    """A decoder layer: in each phase five kernels, with NxD's sums over the ranks between them.

    The layer's output and its residual travel apart, as in `model.layers`: NxDI's model hands the
    fifth value that a layer returns to the next one as `residual`. The last layer adds them, for
    NxDI's model picks the last token from one tensor; so does every layer that does not `fuse`.
    """

    def __init__(self, config: Any, index: int, launch: NeuronLaunching) -> None:
        super().__init__()
        settings = config.neuron_config
        self.attention = RankAttention(config, launch)
        self.experts = RankExperts(config, launch)
        self.layer = index
        self.transposed = bool(getattr(settings, "k_cache_transposed", False))
        self.fuses = bool(getattr(settings, "nki_fuse_residual", True))
        self.is_last = index == config.num_hidden_layers - 1
        self.head_dim, self.theta = int(config.head_dim), float(config.rope_theta)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_value: Any = None,
        padding_mask: Tensor | None = None,
        residual: Tensor | None = None,
        cos_cache: Tensor | None = None,
        sin_cache: Tensor | None = None,
        rotary_position_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Any, ...]:
        """(1, S, H) and the residual of the layer before -> output, (K, V), cos, sin, residual.

        `position_ids` (1, S); masks follow from them. `past_key_value`: keys (1, kv heads, C, D),
        or (1, kv heads, D, C) with `k_cache_transposed`, and values (1, kv heads, C, D); without
        it the tokens are a prompt. K and V are the new tokens' alone, in the cache's layout.
        """
        assert position_ids is not None, "NxD Inference's model passes position_ids to its layers"
        if residual is None and self.layer > 0 and self.fuses:
            raise RuntimeError(NO_RESIDUAL.format(self.layer))
        given = (hidden_states,) if residual is None else (hidden_states, residual)
        x, *before = (part[0] for part in mark_boundary(ModuleMarkerStartWrapper, *given))
        if cos_cache is None or sin_cache is None:
            positions = position_ids if rotary_position_ids is None else rotary_position_ids
            tables = rotary_tables(self.head_dim, self.theta, positions[0], x.dtype)
            cos_cache, sin_cache = (table[None] for table in tables)
        run = self._prefill if past_key_value is None else self._decode
        output, total, keys, values = run(
            x, before[0] if before else None, (cos_cache[0], sin_cache[0]), position_ids,
            past_key_value,
        )  # fmt: skip
        present = ((keys if self.transposed else keys.transpose(1, 2))[None], values[None])
        if self.is_last or not self.fuses:
            (hidden,) = mark_boundary(ModuleMarkerEndWrapper, (total + output)[None])
            return hidden, present, cos_cache, sin_cache, None
        hidden, onward = mark_boundary(ModuleMarkerEndWrapper, output[None], total[None])
        return hidden, present, cos_cache, sin_cache, onward

    def _prefill(
        self, x: Tensor, residual: Tensor | None, tables: Tables, position_ids: Tensor, _: Any
    ) -> Attended:
        attended = self.attention.prefill(x, residual, tables)
        # NxDI's rule for where the prompt ends: it takes the logits there.
        last = torch.max(position_ids, dim=1, keepdim=True).indices
        length = (last + 1).to(torch.int32)
        output, total = self.experts.prefill(attended.output, attended.total, length)
        return attended._replace(output=output, total=total)

    def _decode(
        self,
        x: Tensor,
        residual: Tensor | None,
        tables: Tables,
        position_ids: Tensor,
        past_key_value: tuple[Tensor, Tensor],
    ) -> Attended:
        keys, values = past_key_value[0][0], past_key_value[1][0]
        cache = (keys if self.transposed else keys.transpose(1, 2), values)
        position = position_ids[:, :1].to(torch.int32)
        attended = self.attention.decode(x, residual, tables, cache, position, update_cache=False)
        output, total = self.experts.decode(attended.output, attended.total)
        return attended._replace(output=output, total=total)


class PackedHead(nn.Module):
    """What stands for NxDI's final norm and LM head together, whose norm is then none.

    NxDI's model calls it with the one token whose logits it wants, its residual already added.
    """

    def __init__(self, config: Any, launch: NeuronLaunching) -> None:
        super().__init__()
        self.head = RankHead(config, launch)
        self.gathers = not config.neuron_config.on_device_sampling_config

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(B, 1, H) -> logits (B, 1, V), or of the whole vocabulary where the host samples."""
        rows = hidden_states.reshape(-1, hidden_states.shape[-1])
        logits = self.head(rows, torch.zeros_like(rows))[0]
        logits = logits.view(*hidden_states.shape[:-1], -1)
        return gather_from_tensor_model_parallel_region(logits) if self.gathers else logits


def mark_boundary(wrapper: type[nn.Module], *tensors: Tensor) -> tuple[Tensor, ...]:
    """Mark a layer's boundary for the compiler's modular flow; on the CPU there is none."""
    if cpu_mode():
        return tensors
    result = wrapper()(*tensors)
    return result if isinstance(result, tuple) else (result,)
