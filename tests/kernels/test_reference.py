"""The oracles, against torch and transformers: the model whose roundings they follow."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from transformers.models.qwen3_moe.modeling_qwen3_moe import (
    Qwen3MoeRMSNorm,
    apply_rotary_pos_emb,
)

from kernels import reference
from kernels.specs import SPECS
from kernels.verification import ulp_distance

DTYPES = ("float32", "bfloat16")


def to_torch(array: np.ndarray) -> torch.Tensor:
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.astype(np.float32)).to(torch.bfloat16)
    return torch.from_numpy(array)


def from_torch(tensor: torch.Tensor) -> np.ndarray:
    if tensor.dtype == torch.bfloat16:
        return tensor.to(torch.float32).numpy().astype(ml_dtypes.bfloat16)
    return tensor.numpy()


def arguments(kernel: str, label: str, dtype: str) -> dict[str, Any]:
    spec = SPECS[kernel]
    (case,) = [case for case in spec.cases if case.label == label]
    return spec.inputs(case, dtype)


def assert_within_ulp(actual: np.ndarray, expected: np.ndarray, limit: int) -> None:
    assert actual.dtype == expected.dtype
    assert int(ulp_distance(actual, expected).max()) <= limit


def torch_norm(x: np.ndarray, weight: np.ndarray, eps: float) -> np.ndarray:
    module = Qwen3MoeRMSNorm(len(weight), eps=eps)
    module.weight = torch.nn.Parameter(to_torch(weight))
    with torch.no_grad():
        return from_torch(module(to_torch(x)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_rmsnorm_follows_qwen3(dtype: str) -> None:
    values = arguments("rmsnorm", "prefill, 512 tokens", dtype)
    actual, expected = reference.rmsnorm(**values), torch_norm(**values)
    distance = ulp_distance(actual, expected)
    assert distance.max() <= (8 if dtype == "float32" else 2)
    if dtype == "bfloat16":
        assert np.mean(distance != 0) < 1e-3  # the same schedule: only flips of a last bit differ


@pytest.mark.parametrize("dtype", DTYPES)
def test_add_rmsnorm_is_the_unfused_model(dtype: str) -> None:
    values = arguments("add_rmsnorm", "20 tokens", dtype)
    normed, total = reference.add_rmsnorm(**values)
    unfused = from_torch(to_torch(values["x"]) + to_torch(values["residual"]))
    assert_within_ulp(total, unfused, 0)
    expected = torch_norm(unfused, values["weight"], values["eps"])
    assert_within_ulp(normed, expected, 8 if dtype == "float32" else 2)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rope_is_apply_rotary_pos_emb(dtype: str) -> None:
    values = arguments("rope", "20 tokens, 32 heads", dtype)
    heads_first = to_torch(values["x"]).transpose(0, 1)[None]
    cos, sin = to_torch(values["cos"])[None], to_torch(values["sin"])[None]
    expected, _ = apply_rotary_pos_emb(heads_first, heads_first, cos, sin)
    assert_within_ulp(reference.rope(**values), from_torch(expected[0].transpose(0, 1)), 0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_silu_is_torchs(dtype: str) -> None:
    values = arguments("silu", "20 tokens", dtype)
    expected = from_torch(torch.nn.functional.silu(to_torch(values["x"])))
    assert_within_ulp(reference.silu(**values), expected, 8 if dtype == "float32" else 1)


def test_silu_of_extreme_values_is_finite() -> None:
    x = np.array([[-3e38, -200.0, 0.0, 200.0, 3e38]], dtype=np.float32)
    expected = np.array([[0, 0, 0, 200, 3e38]], dtype=np.float32)
    np.testing.assert_array_equal(reference.silu(x), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_softmax_is_eager_attentions(dtype: str) -> None:
    values = arguments("softmax", "decode, 32 heads, 640 keys", dtype)
    x = to_torch(values["x"])
    expected = torch.nn.functional.softmax(x, dim=-1, dtype=torch.float32).to(x.dtype)
    actual = reference.softmax(**values)
    np.testing.assert_allclose(
        actual.astype(np.float64),
        from_torch(expected).astype(np.float64),
        rtol=1e-6 if dtype == "float32" else 2.0**-7,
        atol=1e-30,
    )
    np.testing.assert_allclose(actual.astype(np.float64).sum(axis=1), 1.0, rtol=2e-2)


def test_router_and_top8_choose_as_the_sparse_moe_block() -> None:
    logits = arguments("router_softmax", "300 tokens", "bfloat16")["logits"]
    probabilities = torch.nn.functional.softmax(to_torch(logits), dim=1, dtype=torch.float32)
    values, chosen = torch.topk(probabilities, 8, dim=-1)
    values /= values.sum(dim=-1, keepdim=True)
    weights, indices = reference.top8(reference.router_softmax(logits))
    # bfloat16 logits repeat: compare what is chosen where torch, too, has no tie to break.
    top = np.sort(logits.astype(np.float32), axis=1)[:, ::-1][:, :9]
    clear = np.all(np.diff(top, axis=1) != 0, axis=1)
    assert clear.sum() > 50
    np.testing.assert_array_equal(indices[clear], chosen.numpy()[clear])
    np.testing.assert_allclose(weights, values.numpy(), rtol=1e-6)


def test_top8_orders_ties_by_index() -> None:
    probabilities = np.array([[0.05] * 4 + [0.2] * 2 + [0.05] * 8], dtype=np.float32)
    weights, indices = reference.top8(probabilities)
    np.testing.assert_array_equal(indices, [[4, 5, 0, 1, 2, 3, 6, 7]])
    assert indices.dtype == np.uint32
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, rtol=1e-6)


def test_expert_aggregation_is_a_weighted_sum() -> None:
    values = arguments("expert_aggregation", "20 tokens", "float32")
    expected = np.einsum(
        "tkh,tk->th",
        values["expert_outputs"].astype(np.float64),
        values["weights"].astype(np.float64),
    )
    np.testing.assert_allclose(reference.expert_aggregation(**values), expected, atol=1e-6)
