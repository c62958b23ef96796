"""The small kernels' model against transformers' own, and mutations that must not pass for it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from model import baseline, dispatch, qwen_cpu
from model.plan import UnsupportedModel
from model.qwen_rows import KVCache, Qwen3MoeRows

# Logits are near 30, where float32 has a spacing of 2e-6; some tens of sums in another order lie
# between. bfloat16 has a spacing of 0.125 there.
FLOAT32_DRIFT = 5e-5
BFLOAT16_DRIFT = 1.0
STEPS = 6


@pytest.fixture
def model(models: dict[str, Any]) -> Qwen3MoeRows:
    return models["rows"]


def prompt(length: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2048, (length,), generator=generator)


def drift(actual: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(actual - expected).max())


@pytest.mark.parametrize("length", [1, 20, 200])
def test_float32_logits_are_the_baselines(model, reference, length):
    expected = reference.generate(prompt(length), STEPS)
    actual = model.generate(prompt(length), STEPS)
    assert actual.tokens.tolist() == expected.tokens.tolist()
    assert drift(actual.logits, expected.logits) < FLOAT32_DRIFT


@pytest.mark.parametrize("length", [1, 60])
def test_bfloat16_stays_close_to_the_baseline(checkpoint, length):
    expected = baseline.load(checkpoint, "bfloat16").generate(prompt(length), STEPS)
    forced = torch.from_numpy(expected.tokens)
    actual = qwen_cpu.load(checkpoint, "bfloat16", "rows").generate(prompt(length), STEPS, forced)
    assert actual.tokens.tolist() == expected.tokens.tolist()
    assert drift(actual.logits, expected.logits) < BFLOAT16_DRIFT


def test_forced_tokens_replace_the_models_own(model, reference):
    forced = prompt(STEPS, seed=1)
    expected = reference.generate(prompt(20), STEPS, forced)
    actual = model.generate(prompt(20), STEPS, forced)
    free = model.generate(prompt(20), STEPS)
    assert drift(actual.logits, expected.logits) < FLOAT32_DRIFT
    assert actual.tokens[0] == free.tokens[0]
    assert drift(actual.logits, free.logits) > 1.0


@torch.inference_mode()
def test_a_prefill_is_a_shorter_prefill_and_a_decode_step(model):
    tokens = prompt(41)
    whole = model.prefill(tokens, 41)
    model.prefill(tokens[:40], 41)
    stepped = model.decode(int(tokens[40]))
    assert drift(stepped.numpy(), whole.numpy()) < FLOAT32_DRIFT


@torch.inference_mode()
def test_a_prefill_forgets_what_came_before(model):
    first = model.prefill(prompt(30), 40)
    model.decode(3)
    assert torch.equal(model.prefill(prompt(30), 40), first)


def swap(first: torch.nn.Module, second: torch.nn.Module) -> None:
    first.weight, second.weight = second.weight, first.weight


def swap_gate_and_up(model: Qwen3MoeRows) -> None:
    for layer in model.model.layers:
        for expert in layer.mlp.experts:
            swap(expert.gate_proj, expert.up_proj)


def rotate_experts(model: Qwen3MoeRows) -> None:
    for layer in model.model.layers:
        experts = list(layer.mlp.experts)
        layer.mlp.experts = torch.nn.ModuleList(experts[1:] + experts[:1])


def swap_query_and_key_norms(model: Qwen3MoeRows) -> None:
    for layer in model.model.layers:
        swap(layer.self_attn.q_norm, layer.self_attn.k_norm)


def drop_renormalisation(model: Qwen3MoeRows) -> None:
    for layer in model.model.layers:
        layer.mlp.gate.renormalise = False


def change_rope_base(model: Qwen3MoeRows) -> None:
    model.config.rope_theta = 10_000.0


def write_keys_one_late(model: Qwen3MoeRows) -> None:
    class Late(KVCache):
        def append(self, layer, key, value):
            return super().append(layer, key.roll(1, dims=1), value)

    def prefill(input_ids: torch.Tensor, capacity: int) -> torch.Tensor:
        model._cache = Late(model.config, capacity, model.dtype)
        return model(input_ids)

    model.prefill = prefill


WRONG_TOKENS = (
    swap_gate_and_up,
    rotate_experts,
    swap_query_and_key_norms,
    change_rope_base,
    write_keys_one_late,
)


@pytest.mark.parametrize("mutate", [*WRONG_TOKENS, drop_renormalisation], ids=lambda m: m.__name__)
def test_a_mutated_model_is_far_from_the_baseline(
    checkpoint, reference, mutate: Callable[[Qwen3MoeRows], None]
):
    expected = reference.generate(prompt(40), 12)
    mutant = qwen_cpu.load(checkpoint, "float32", "rows")
    mutate(mutant)
    actual = mutant.generate(prompt(40), 12, torch.from_numpy(expected.tokens))
    assert drift(actual.logits, expected.logits) > 1e4 * FLOAT32_DRIFT
    assert drift(actual.logits, expected.logits) > BFLOAT16_DRIFT
    if mutate in WRONG_TOKENS:
        assert (actual.tokens != expected.tokens).any()


@pytest.mark.parametrize(
    ("change", "idle"),
    [({"norm_topk_prob": False}, "top8"), ({"num_experts_per_tok": 4}, "expert_aggregation")],
)
def test_an_architecture_beyond_a_kernel_falls_back_and_stays_right(
    checkpoint, tmp_path, change, idle
):
    altered = shutil.copytree(checkpoint, tmp_path / "altered")
    config = json.loads((altered / "config.json").read_text()) | change
    (altered / "config.json").write_text(json.dumps(config))
    expected = baseline.load(altered, "float32").generate(prompt(20), 3)
    with dispatch.counting() as launched:
        actual = qwen_cpu.load(altered, "float32", "rows").generate(prompt(20), 3)
    assert drift(actual.logits, expected.logits) < FLOAT32_DRIFT
    assert launched[idle] == 0
    assert idle in {fallback.kernel for fallback in dispatch.fallbacks()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attention_bias": True}, "attention_bias: received True"),
        ({"mlp_only_layers": [0]}, "mlp_only_layers"),
        ({"hidden_act": "gelu"}, "hidden_act: received 'gelu'"),
    ],
)
def test_an_architecture_that_is_not_implemented_is_refused(checkpoint, tmp_path, change, message):
    config = json.loads((checkpoint / "config.json").read_text()) | change
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedModel, match=message):
        qwen_cpu.load(tmp_path, "float32", "rows")


def test_a_checkpoint_without_weights_is_refused(checkpoint, tmp_path):
    shutil.copy(checkpoint / "config.json", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no \*\.safetensors"):
        qwen_cpu.load(tmp_path, "float32", "rows")


def test_a_missing_tensor_is_an_error(checkpoint, tmp_path):
    shutil.copy(checkpoint / "config.json", tmp_path)
    weights = load_file(checkpoint / "model.safetensors")
    del weights["model.layers.1.self_attn.q_norm.weight"]
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(RuntimeError, match=r"layers\.1\.self_attn\.q_norm\.weight"):
        qwen_cpu.load(tmp_path, "float32", "rows")


def test_weights_in_several_files_load_alike(checkpoint, tmp_path, model):
    shutil.copy(checkpoint / "config.json", tmp_path)
    weights = load_file(checkpoint / "model.safetensors")
    names = sorted(weights)
    for part, chosen in enumerate((names[::2], names[1::2])):
        save_file({n: weights[n] for n in chosen}, tmp_path / f"model-{part}.safetensors")
    sharded = qwen_cpu.load(tmp_path, "float32", "rows")
    assert np.array_equal(
        sharded.generate(prompt(10), 2).logits, model.generate(prompt(10), 2).logits
    )
