"""Torch modules and functions that call the small kernels, in the shapes of the model's hooks.

They take what NxD Inference hands to its hooks (batch first, heads where its attention has them),
reshape it to the kernels' two or three dimensions, and give back the caller's shape. Weights are
parameters of the names that checkpoints use. B batch, S tokens, H hidden, D head dimension.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model import dispatch, plain
from model.plan import why_not_routed


class _Norm(nn.Module):
    """What the norms hold: `weight` [H] and the epsilon under the root.

    The weight is passed on as a view: while a model is traced for a device, a parameter is only a
    placeholder, of which kernels can take the view but not the thing itself.
    """

    def __init__(self, hidden_size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.eps = eps

    def add_and_norm(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """Two (B, S, H) -> (normed sum, sum), the same shape and dtype, in one launch."""
        rows = x.reshape(-1, x.shape[-1])
        normed, total = dispatch.run(
            "add_rmsnorm", rows, residual.reshape(rows.shape), self.weight.view(-1), eps=self.eps
        )
        return normed.reshape(x.shape), total.reshape(x.shape)


class NKIRMSNorm(_Norm):
    """RMSNorm over the last dimension, for hidden states and for query and key heads alike."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, S, H) or (B, S, heads, D) -> the same shape and dtype."""
        rows = x.reshape(-1, x.shape[-1])
        normed: Tensor = dispatch.run("rmsnorm", rows, self.weight.view(-1), eps=self.eps)
        return normed.reshape(x.shape)


class NKIAddRMSNorm(_Norm):
    """Residual addition and the RMSNorm of the sum in one launch."""

    def forward(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """Two (B, S, H) -> (normed sum, sum), the same shape and dtype."""
        return self.add_and_norm(x, residual)


class NKIRouter(nn.Module):
    """Router of the mixture of experts: softmax over all experts, then the most probable ones."""

    def __init__(
        self, hidden_size: int, num_experts: int, top_k: int, renormalise: bool = True
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_experts, hidden_size))
        self.top_k = top_k
        self.renormalise = renormalise

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(T, H) -> logits (T, E), weights (T, top_k), experts (T, top_k) int64, likeliest first.

        The weights are rounded to the dtype of x, as transformers does before it applies them.
        """
        logits = F.linear(x, self.weight)
        _, weights, experts = nki_route(logits, self.top_k, self.renormalise)
        return logits, weights.to(x.dtype), experts


def nki_route(
    logits: Tensor, top_k: int, renormalise: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """Choose `top_k` of E experts per token by logits (T, E).

    Returns probabilities (T, E) float32, weights (T, top_k) float32 and experts (T, top_k) int64,
    likeliest first.
    """
    probabilities = dispatch.run("router_softmax", logits)
    reason = why_not_routed(logits.shape[1], top_k, renormalise)
    if reason is None:
        weights, experts = dispatch.run("top8", probabilities)
    else:
        dispatch.record_fallback("top8", reason)
        weights, experts = plain.top_k(probabilities, top_k, renormalise)
    return probabilities, weights, experts.to(torch.int64)


def nki_softmax(scores: Tensor) -> Tensor:
    """Softmax over the last dimension of attention scores (B, heads, S, C); masked ones finite."""
    rows: Tensor = dispatch.run("softmax", scores.reshape(-1, scores.shape[-1]))
    return rows.reshape(scores.shape)


def nki_silu(x: Tensor) -> Tensor:
    """x * sigmoid(x), any shape."""
    rows: Tensor = dispatch.run("silu", x.reshape(-1, x.shape[-1]))
    return rows.reshape(x.shape)


def nki_rope(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Rotate (B, heads, S, D) queries and (B, kv heads, S, D) keys by tables (B, S, D).

    One launch for both: the heads are laid side by side, so that a token's tables are read once.
    """
    heads = torch.cat((query, key), dim=1).transpose(1, 2)  # (B, S, heads + kv heads, D)
    rows = heads.reshape(-1, *heads.shape[2:])
    tables = (table.reshape(-1, table.shape[-1]) for table in (cos, sin))
    rotated: Tensor = dispatch.run("rope", rows, *tables)
    back = rotated.reshape(heads.shape).transpose(1, 2)
    return back[:, : query.shape[1]], back[:, query.shape[1] :]


def nki_aggregate(expert_outputs: Tensor, weights: Tensor) -> Tensor:
    """Sum of the chosen experts' outputs (T, K, H) times their weights (T, K) -> (T, H)."""
    total: Tensor = dispatch.run("expert_aggregation", expert_outputs, weights.float())
    return total
