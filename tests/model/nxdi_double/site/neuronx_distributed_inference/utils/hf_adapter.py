"""The double of NxD Inference's adapter to transformers' generate, strict about keywords."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor


def load_pretrained_config(model_path_or_name: str) -> Callable[[Any], None]:
    """The hook that fills an InferenceConfig from a checkpoint's config.json."""

    def fill(config: Any) -> None:
        content = json.loads(Path(model_path_or_name, "config.json").read_text())
        for name in ("dtype", "torch_dtype"):
            content.pop(name, None)
        vars(config).update({"pad_token_id": 0} | content)

    return fill


class HuggingFaceGenerationAdapter:
    """Greedy generation at batch 1; as in the SDK, scores exist only where logits come back."""

    def __init__(self, model: Any) -> None:
        self.neuron_model = model
        self.on_device_sampling = model.neuron_config.on_device_sampling_config is not None

    def generate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        generation_config: Any,
        max_new_tokens: int,
        min_new_tokens: int,
        do_sample: bool,
        return_dict_in_generate: bool = False,
        output_scores: bool = False,
    ) -> Any:
        assert max_new_tokens == min_new_tokens and not do_sample
        assert generation_config.eos_token_id == [], "an end token would end the run"
        assert attention_mask.shape == input_ids.shape and bool(attention_mask.all())
        self.neuron_model.reset()
        sequence, scores, new = input_ids, (), input_ids
        for step in range(max_new_tokens):
            output = self.neuron_model(new, 0 if step == 0 else sequence.shape[1] - 1)
            if output.logits is not None:
                scores += (output.logits[:, -1],)
            new = output.tokens[:, None]
            sequence = torch.cat([sequence, new], dim=1)
        if not return_dict_in_generate:
            return sequence
        return SimpleNamespace(sequences=sequence, scores=scores if output_scores else None)
