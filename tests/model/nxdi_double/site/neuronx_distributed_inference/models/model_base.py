"""The double of NxD Inference's model and application: the loop over layers, the driver's calls."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from neuronx_distributed.trace.trace import get_sharded_checkpoint
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from neuronx_distributed_inference.models import compiling
from neuronx_distributed_inference.models.config import InferenceConfig

State = dict[str, Tensor]


class KVCacheManager(nn.Module):
    """Keys and values per layer, each (1, kv heads, C, D), as the parameters K0, V0, K1, V1...

    With k_cache_transposed keys are (1, kv heads, D, C). Heads are those of a rank.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        settings = config.neuron_config
        heads = config.num_key_value_heads // settings.tp_degree
        shape = (1, heads, settings.n_positions, config.head_dim)
        self.k_cache_transposed = settings.k_cache_transposed
        keys = (*shape[:2], shape[3], shape[2]) if self.k_cache_transposed else shape
        self.past_key_values = nn.ParameterList(
            nn.Parameter(torch.zeros(each, dtype=settings.torch_dtype), requires_grad=False)
            for _ in range(config.num_hidden_layers)
            for each in (keys, shape)
        )

    def update(self, index: int, present: tuple[Tensor, Tensor], start: int, tokens: int) -> None:
        """Put a layer's new keys and values in, which come in the layout of the cache."""
        for slot, new, keys in zip(
            self.past_key_values[2 * index : 2 * index + 2], present, (True, False), strict=True
        ):
            dim = 3 if keys and self.k_cache_transposed else 2
            part = slot.narrow(dim, start, tokens)
            assert part.shape == new.shape, f"{tuple(new.shape)} into {tuple(part.shape)}"
            part.copy_(new)


class NeuronBaseModel(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config, self.neuron_config = config, config.neuron_config
        self.setup_attr_for_model(config)
        self.init_model(config)
        self.rank_util = nn.Module()
        ranks = torch.zeros(config.neuron_config.tp_degree, dtype=torch.int32)
        self.rank_util.rank = nn.Parameter(ranks, requires_grad=False)
        self.kv_mgr = KVCacheManager(config)

    def forward(self, input_ids: Tensor, start: int = 0, bucket: int = 0) -> Tensor:
        """Token ids (1, S) at positions from `start` on -> logits (1, V) of the last one.

        A prompt is padded on the right to `bucket`, with positions of 1 as the SDK pads them.
        """
        padding = max(bucket - input_ids.shape[1], 0)
        positions = torch.arange(start, start + input_ids.shape[1])[None]
        input_ids, positions = (
            F.pad(input_ids, (0, padding)),
            F.pad(positions, (0, padding), value=1),
        )
        tokens, capacity = input_ids.shape[1], self.neuron_config.n_positions
        prefill = start == 0
        mask = torch.ones(tokens, tokens, dtype=torch.bool).tril()
        if not prefill:
            mask = torch.arange(capacity)[None] < start
        hidden, residual = self.embed_tokens(input_ids), None
        cos_cache = sin_cache = None
        for index, layer in enumerate(self.layers):
            cache = self.kv_mgr.past_key_values[2 * index : 2 * index + 2]
            hidden, present, cos_cache, sin_cache, residual = layer(
                hidden,
                seq_ids=None,
                attention_mask=mask[None, None],
                position_ids=positions,
                past_key_value=None if prefill else tuple(cache),
                active_mask=None,
                adapter_ids=None,
                cos_cache=cos_cache,
                sin_cache=sin_cache,
                rotary_position_ids=None,
                kv_mgr=self.kv_mgr,
                get_kv_per_layer=False,
                update_kv_per_layer=False,
                idx=index,
                is_for_context_encoding=prefill,
                seq_len=capacity,
                residual=residual,
                windowed_context_encoding_window_idx=-1,
                padding_mask=None,
            )
            self.kv_mgr.update(index, present, start, tokens)
        last = positions.max(dim=1, keepdim=True).indices[:, None].expand(-1, -1, hidden.shape[2])
        return self.lm_head(self.norm(hidden).gather(1, last))[:, -1]


class ModelWrapper(nn.Module):
    """One of the two graphs: a module of its own, so that hooks see its forward passes."""

    def __init__(self, application: Any, tag: str) -> None:
        super().__init__()
        self.tag, self.compiler_args = tag, application.get_compiler_args()
        self.neuron_config = copy.deepcopy(application.neuron_config)
        self._application = [application]  # no submodule

    def forward(self, input_ids: Tensor, start: int) -> Tensor:
        compiling.fail_as_asked("generate", self.tag)
        return self._application[0].model(input_ids, start)


class NeuronBaseForCausalLM(nn.Module):
    _model_cls: type[NeuronBaseModel]

    def __init__(
        self, model_path: str, config: InferenceConfig | None = None, neuron_config: Any = None
    ) -> None:
        super().__init__()
        assert config is not None, "the double keeps no configurations"
        self.model_path, self.config = Path(model_path), config
        self.neuron_config = config.neuron_config
        self.on_device_sampling = self.neuron_config.on_device_sampling_config is not None
        self.model: Any = None
        self.enable_context_encoding()
        self.enable_token_generation()

    @classmethod
    def get_config_cls(cls) -> type[InferenceConfig]:
        raise NotImplementedError

    @classmethod
    def get_neuron_config_cls(cls) -> Any:
        return cls.get_config_cls().get_neuron_config_cls()

    def enable_context_encoding(self) -> None:
        self.context_encoding_model = ModelWrapper(self, "context_encoding_model")

    def enable_token_generation(self) -> None:
        self.token_generation_model = ModelWrapper(self, "token_generation_model")

    def get_compiler_args(self) -> str:
        raise NotImplementedError

    def compile(
        self,
        compiled_model_path: str,
        debug: bool = False,
        pre_shard_weights_hook: Any = None,
        dry_run: bool = False,
    ) -> None:
        """Leave the files that the SDK leaves, at its places; see `compiling` for the graphs."""
        assert compiled_model_path.endswith("/"), "older releases add no slash themselves"
        self.config.save(compiled_model_path)
        NeuronBaseForCausalLM.to_cpu(self)
        compiling.trace(self)
        compiling.save(self, Path(compiled_model_path))

    def load(
        self,
        compiled_model_path: str,
        start_rank_id: int | None = None,
        local_ranks_size: int | None = None,
        skip_warmup: bool = False,
    ) -> None:
        json.loads(Path(compiled_model_path, "neuron_config.json").read_text())
        assert Path(compiled_model_path + "model.pt").read_text() == compiling.content(self)
        NeuronBaseForCausalLM.to_cpu(self)

    def reset(self) -> None:
        self.kv_cache_populated = False

    def forward(self, input_ids: Tensor, start: int) -> SimpleNamespace:
        """(1, S) at positions from `start` on -> logits (1, 1, V) or None, and tokens (1,)."""
        graph = self.token_generation_model if start else self.context_encoding_model
        logits = graph(input_ids, start)[:, None]
        settings = self.neuron_config
        kept = settings.output_logits or not self.on_device_sampling
        return SimpleNamespace(logits=logits if kept else None, tokens=logits[:, -1].argmax(-1))

    def to_cpu(self) -> None:
        """Build the model, convert the checkpoint, and load it without strictness, as the SDK."""
        ranks = self.neuron_config.tp_degree
        assert ranks == 1, f"the double runs one rank, not {ranks}: ask for --tp-degree 1"
        self.model = self._model_cls(self.config).to(self.neuron_config.torch_dtype)
        state = {
            name.removeprefix("model."): tensor.to(self.neuron_config.torch_dtype)
            for file in sorted(self.model_path.glob("*.safetensors"))
            for name, tensor in load_file(file).items()
        }
        state = self.convert_hf_to_neuron_state_dict(state, self.config)
        state = preshard(state)
        get_sharded_checkpoint(state, self.model, 0, self.neuron_config.tp_degree)
        self.model.load_state_dict(state, strict=False)
        self.model.eval()


def preshard(state: State) -> State:
    """What the attention's preshard hooks do to names."""
    for part in ("q_proj", "k_proj", "v_proj", "Wqkv"):
        state = {n.replace(f"self_attn.{part}.", f"self_attn.qkv_proj.{part}."): t
                 for n, t in state.items()}  # fmt: skip
    return {n.replace("self_attn.o_proj.", "self_attn.o_proj.o_proj."): t for n, t in state.items()}
