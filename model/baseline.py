"""The reference: transformers' own Qwen3MoeForCausalLM on the CPU, without any kernel."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import DynamicCache, Qwen3MoeForCausalLM

from model.generation import Generation, generate_greedily, states_of_layers, torch_dtype


class Baseline:
    """Greedy generation with `Qwen3MoeForCausalLM`, eager attention and a dynamic cache."""

    def __init__(self, network: Qwen3MoeForCausalLM) -> None:
        self.network = network.eval()
        self.config = network.config
        self._cache = DynamicCache(config=network.config)

    def generate(
        self, input_ids: torch.Tensor, new_tokens: int, forced_tokens: torch.Tensor | None = None
    ) -> Generation:
        """See `model.generation.generate_greedily`."""
        return generate_greedily(self, input_ids, new_tokens, forced_tokens)

    def prefill(self, input_ids: torch.Tensor, capacity: int) -> torch.Tensor:
        """Logits [V] after the prompt [S]; the cache grows, so `capacity` reserves nothing."""
        self._cache = DynamicCache(config=self.config)
        return self._forward(input_ids)

    def decode(self, token: int) -> torch.Tensor:
        """Logits [V] after one more token."""
        return self._forward(torch.tensor([token]))

    def hidden_states(self, input_ids: torch.Tensor, token: int) -> torch.Tensor:
        """float32 [2, L, H] after each layer: the prompt's last token, and `token` behind it."""
        layers = self.network.model.layers
        return states_of_layers(self, layers, lambda hidden: hidden, input_ids, token)

    def _forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        output = self.network(
            input_ids[None], past_key_values=self._cache, use_cache=True, logits_to_keep=1
        )
        return output.logits[0, -1]


def load(model_path: Path, dtype: str) -> Baseline:
    """Load a Hugging Face checkpoint directory; `dtype` is "float32" or "bfloat16"."""
    network = Qwen3MoeForCausalLM.from_pretrained(
        model_path, dtype=torch_dtype(dtype), attn_implementation="eager", local_files_only=True
    )
    return Baseline(network)
