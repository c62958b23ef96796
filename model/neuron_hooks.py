"""Which hooks of NxD Inference keep their stock implementation: where, in which phase, and why.

A hook is a place of NxD Inference's model where a kernel can stand. `record` remembers a hook whose
kernel was not launched, once per kernel, phase and reason, with the layers it holds for; `why_not`
gives them all. A reason may be known when a layer is built (a setting gives the hook's work to
another kernel) or only when it runs (a length, a dtype).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch

from model import dispatch

Phase = Literal["CTE", "TKG"]
PHASES: tuple[Phase, ...] = ("CTE", "TKG")
NORMS_TO_SOFTMAX = ("rmsnorm", "rope", "softmax")

logger = logging.getLogger(__name__)
_layers: dict[tuple[str, Phase, str], set[int]] = {}


class WhyNot(NamedTuple):
    """A kernel that does not stand in its hook; no layers: a hook outside of them."""

    kernel: str
    phase: Phase
    reason: str
    layers: tuple[int, ...]


class Setting(NamedTuple):
    """A switch of the NeuronConfig that takes the work of hooks away from them, when it is true."""

    name: str
    phases: tuple[Phase, ...]
    kernels: tuple[str, ...]
    effect: str


ATTENTION_SETTINGS = (
    Setting(
        "attn_block_tkg_nki_kernel_enabled", ("TKG",), NORMS_TO_SOFTMAX,
        "one NxDI kernel does the whole attention block",
    ),
    Setting(
        "attn_block_cte_nki_kernel_enabled", ("CTE",), NORMS_TO_SOFTMAX,
        "one NxDI kernel does the whole attention block",
    ),
    Setting(
        "attn_tkg_builtin_kernel_enabled", ("TKG",), ("rope", "softmax"),
        "NxDI's kernel rotates and attends",
    ),
    Setting("attn_tkg_nki_kernel_enabled", ("TKG",), ("softmax",), "NxDI's kernel attends"),
    Setting("qkv_cte_nki_kernel_fuse_rope", ("CTE",), ("rope",), "NxDI's QKV kernel rotates"),
    Setting(
        "flash_decoding_enabled", ("TKG",), ("softmax",),
        "the softmax is distributed over the ranks that share a key head",
    ),
    Setting("is_prefix_caching", PHASES, ("softmax",), "scores have an active mask of their own"),
    Setting("is_chunked_prefill", PHASES, ("softmax",), "NxDI's paged kernel attends"),
)  # fmt: skip

# Where one of these is on, a layer runs NxDI's own forward, which adds residuals in torch.
FUSION_SETTINGS = (
    Setting("qkv_kernel_enabled", PHASES, ("add_rmsnorm",), "NxDI's QKV kernel takes the norm in"),
    Setting(
        "qkv_kernel_fuse_residual_add", PHASES, ("add_rmsnorm",),
        "NxDI's QKV kernel adds the residual",
    ),
    Setting(
        "sequence_parallel_enabled", PHASES, ("add_rmsnorm",),
        "hidden states are split over the ranks between layers",
    ),
    Setting(
        "layer_boundary_markers", PHASES, ("add_rmsnorm",),
        "only the hidden states cross the boundary of a layer",
    ),
    Setting(
        "is_eagle3", PHASES, ("add_rmsnorm",),
        "the draft reads the hidden states between layers",
    ),
    Setting(
        "enable_fused_speculation", PHASES, ("add_rmsnorm",),
        "the experts are called with more than the hidden states",
    ),
)  # fmt: skip

MOE_KERNELS = ("router_softmax", "top8", "silu", "expert_aggregation")
FUSED_MOE = "NxDI's fused MoE kernel (moe_fused_nki_kernel_enabled) holds the norm and the experts"

LAUNCH_GRID = "launch grid"  # stands where others name a kernel: it holds for all of them


def record(kernel: str, phase: Phase, reason: str, layer: int | None = None) -> None:
    """Remember that `kernel` does not stand in its hook of `layer`; log a new reason once."""
    key = (kernel, phase, reason)
    if key not in _layers:
        logger.warning("no kernel for %s in %s: %s", kernel, phase, reason)
    _layers.setdefault(key, set())
    if layer is not None:
        _layers[key].add(layer)


def why_not() -> list[WhyNot]:
    """Every reason since the start or the last `forget`, in the order of their first recording."""
    return [
        WhyNot(kernel, phase, reason, tuple(sorted(layers)))
        for (kernel, phase, reason), layers in _layers.items()
    ]


def forget() -> None:
    """Start a new record."""
    _layers.clear()


def settings_in_force(settings: Sequence[Setting], neuron_config: Any) -> list[Setting]:
    """Those of `settings` that are on; one that this release of NxDI does not know is off."""
    return [setting for setting in settings if getattr(neuron_config, setting.name, None)]


def record_settings(settings: Sequence[Setting], neuron_config: Any, layer: int) -> None:
    """Record what the settings in force take away from the hooks of `layer`."""
    for setting in settings_in_force(settings, neuron_config):
        for phase in setting.phases:
            for kernel in setting.kernels:
                record(kernel, phase, f"{setting.name} is on: {setting.effect}", layer)


def phase_of(tokens: int) -> Phase:
    """The phase of a graph that takes `tokens` new tokens per sequence."""
    return "TKG" if tokens == 1 else "CTE"


def why_not_rows(kernel: str, dtype: torch.dtype, *shape: int) -> str | None:
    """`dispatch.why_not` for a first tensor of this dtype and shape, without having it."""
    return dispatch.why_not(kernel, torch.empty(shape, dtype=dtype, device="meta"))


def why_not_grid(logical_nc_config: int) -> str | None:
    """Why kernels are launched bare although a rank has several physical cores, or None."""
    if logical_nc_config == 1:
        return None
    return (
        f"a rank has {logical_nc_config} physical cores, but the small kernels do not split their "
        f"work by program_id and are not launched as kernel[{logical_nc_config}]: one core computes"
    )
