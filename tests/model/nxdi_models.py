"""Models on the double of NxD Inference, for tests inside `nxdi_double.installed`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from model import baseline, tiny

CAPACITY = 32


def load_config(changes: dict[str, Any]) -> Callable[[Any], None]:
    """What NxD Inference's load_pretrained_config gives, for the tiny checkpoint."""

    def fill(config: Any) -> None:
        vars(config).update(tiny.CONFIG | {"pad_token_id": tiny.PAD_ID} | changes)

    return fill


def build(
    path: Path, settings: dict[str, Any] | None = None, changes: dict[str, Any] | None = None
) -> Any:
    """The model with kernels, configured as the driver does it, not yet loaded."""
    from model import qwen_with_nki

    model_class = qwen_with_nki.NeuronQwen3MoeForCausalLM
    defaults = {"torch_dtype": torch.float32, "seq_len": CAPACITY}
    neuron_config = model_class.get_neuron_config_cls()(**(defaults | (settings or {})))
    config = model_class.get_config_cls()(neuron_config, load_config=load_config(changes or {}))
    return model_class(str(path), config)


def on_cpu(path: Path, settings: dict[str, Any] | None = None, **changes: Any) -> Any:
    """The same with weights, as NxD Inference's CPU path loads them."""
    model = build(path, settings, changes)
    model.to_cpu()
    return model


def changed_checkpoint(source: Path, target: Path, **changes: Any) -> Path:
    """The tiny checkpoint's weights under a changed config.json."""
    shutil.copytree(source, target)
    config = json.loads((target / "config.json").read_text()) | changes
    (target / "config.json").write_text(json.dumps(config))
    return target


def logits(model: Any, prompt: torch.Tensor, token: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [V] after the prompt, and after one more token."""
    with torch.inference_mode():
        first = model.model(prompt[None])[0]
        return first, model.model(torch.tensor([[token]]), len(prompt))[0]


def reference_logits(
    reference: baseline.Baseline, prompt: torch.Tensor, token: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same from transformers."""
    with torch.inference_mode():
        first = reference.prefill(prompt, 0)
        return first, reference.decode(token)


def drift(actual: tuple[torch.Tensor, ...], expected: tuple[torch.Tensor, ...]) -> float:
    """Largest difference of logits, over both steps."""
    pairs = zip(actual, expected, strict=True)
    return max(float((ours - theirs).abs().max()) for ours, theirs in pairs)
