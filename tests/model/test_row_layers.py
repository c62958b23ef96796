"""The layers: shapes of the model's hooks, against transformers' own modules."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from transformers.models.qwen3_moe.modeling_qwen3_moe import (
    Qwen3MoeRMSNorm,
    apply_rotary_pos_emb,
)

from model import dispatch
from model.row_layers import (
    NKIAddRMSNorm,
    NKIRMSNorm,
    NKIRouter,
    nki_aggregate,
    nki_rope,
    nki_silu,
    nki_softmax,
)

# One unit in the last place of bfloat16 is 2^-7 of the value; two roundings may flip.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2.0**-6}
DTYPES = list(TOLERANCE)


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    assert actual.dtype == expected.dtype and actual.shape == expected.shape
    tolerance = TOLERANCE[actual.dtype]
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def norm_pair(size: int, dtype: torch.dtype, kind: type[torch.nn.Module] = NKIRMSNorm):
    ours, theirs = kind(size, 1e-6).to(dtype), Qwen3MoeRMSNorm(size, 1e-6).to(dtype)
    weights = {"weight": random(size, seed=1).abs().to(dtype)}
    ours.load_state_dict(weights)
    theirs.load_state_dict(weights)
    return ours, theirs


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 20, 64), (1, 1, 64), (2, 5, 4, 16)])
def test_rmsnorm(shape, dtype):
    ours, theirs = norm_pair(shape[-1], dtype)
    x = random(*shape, dtype=dtype)
    assert_close(ours(x), theirs(x).detach())


@pytest.mark.parametrize("dtype", DTYPES)
def test_add_rmsnorm(dtype):
    ours, theirs = norm_pair(64, dtype, NKIAddRMSNorm)
    x, residual = random(1, 7, 64, dtype=dtype), random(1, 7, 64, dtype=dtype, seed=2)
    normed, total = ours(x, residual)
    assert torch.equal(total, x + residual)
    assert_close(normed, theirs(x + residual).detach())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch", [1, 2])
def test_rope_on_heads_before_tokens(batch, dtype):
    query, key = random(batch, 8, 5, 16, dtype=dtype), random(batch, 2, 5, 16, dtype=dtype, seed=1)
    angles = random(batch, 5, 8, seed=2).repeat(1, 1, 2)
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    with dispatch.counting() as launched:
        rotated = nki_rope(query, key, cos, sin)
    assert launched == {"rope": 1}
    for ours, theirs in zip(rotated, apply_rotary_pos_emb(query, key, cos, sin), strict=True):
        assert_close(ours, theirs)


@pytest.mark.parametrize("dtype", DTYPES)
def test_softmax_gives_masked_scores_no_share(dtype):
    scores = random(1, 4, 6, 9, dtype=dtype)
    scores[..., 5:] = torch.finfo(dtype).min
    shares = nki_softmax(scores)
    assert_close(shares, F.softmax(scores, dim=-1, dtype=torch.float32).to(dtype))
    assert (shares[..., 5:] == 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_silu_of_a_view_that_is_not_contiguous(dtype):
    x = random(48, 24, dtype=dtype).T
    assert_close(nki_silu(x), F.silu(x).contiguous())


def routed_by_torch(x: torch.Tensor, router: NKIRouter) -> tuple[torch.Tensor, torch.Tensor]:
    probabilities = F.softmax(F.linear(x, router.weight), dim=-1, dtype=torch.float32)
    weights, experts = probabilities.topk(router.top_k, dim=-1)
    if router.renormalise:
        weights = weights / weights.sum(dim=-1, keepdim=True)
    return weights.to(x.dtype), experts


def make_router(experts: int, top_k: int, renormalise: bool = True) -> NKIRouter:
    router = NKIRouter(64, experts, top_k, renormalise)
    router.load_state_dict({"weight": random(experts, 64, seed=3)})
    return router.requires_grad_(False)


def test_router():
    router, x = make_router(16, 8), random(30, 64)
    logits, weights, experts = router(x)
    expected_weights, expected_experts = routed_by_torch(x, router)
    assert_close(logits, F.linear(x, router.weight))
    assert_close(weights, expected_weights)
    assert torch.equal(experts, expected_experts)
    assert experts.dtype == torch.int64 and dispatch.fallbacks() == []


@pytest.mark.parametrize(
    ("experts", "top_k", "renormalise", "reason"),
    [
        (6, 4, True, "4 experts per token"),
        (16, 8, False, "does not renormalise"),
    ],
)
def test_router_that_the_kernel_cannot_serve_says_why(experts, top_k, renormalise, reason):
    router, x = make_router(experts, top_k, renormalise), random(5, 64)
    with dispatch.counting() as launched:
        _, weights, chosen = router(x)
    expected_weights, expected_chosen = routed_by_torch(x, router)
    assert_close(weights, expected_weights)
    assert torch.equal(chosen, expected_chosen)
    assert launched == {"router_softmax": 1}
    [(kernel, why)] = dispatch.fallbacks()
    assert kernel == "top8" and reason in why


@pytest.mark.parametrize("dtype", DTYPES)
def test_aggregate(dtype):
    outputs = random(5, 8, 64, dtype=dtype)
    weights = F.softmax(random(5, 8, seed=4), dim=-1).to(dtype)
    expected = torch.einsum("tkh,tk->th", outputs.double(), weights.double()).to(dtype)
    assert_close(nki_aggregate(outputs, weights), expected)
