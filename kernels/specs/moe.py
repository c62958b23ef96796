"""Kernels of the mixture of experts, of decode and of prefill: routers and experts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from kernels import decoder_reference as reference
from kernels import samples_moe as samples
from kernels.layouts import partitions
from kernels.samples import Shapes
from kernels.specs.base import EPS, Case, KernelSpec, Kind, Refusal, Scalars, Tolerance

BOTH = (1, 2)


def _columns(length: int) -> tuple[int, int]:
    return partitions(length), length // partitions(length)


def _router_shapes(norm: tuple[int, ...], tokens: int, hidden: int, experts: int) -> Shapes:
    return {
        "x": (tokens, hidden),
        "residual": (tokens, hidden),
        "norm_weight": norm,
        "w_router": (*_columns(hidden), experts),
    }


def _decode_shapes(tokens: int, hidden: int, experts: int) -> Shapes:
    return _router_shapes(_columns(hidden), tokens, hidden, experts)


def _prefill_shapes(tokens: int, hidden: int, experts: int) -> Shapes:
    return _router_shapes((hidden,), tokens, hidden, experts)


def _expert_shapes(tokens: int, hidden: int, experts: int, width: int) -> Shapes:
    return {
        "x": (tokens, hidden),
        "weights": (tokens, 8),
        "experts": (tokens, 8),
        "w_gate_up": (experts, *_columns(hidden), 2 * width),
        "w_down": (experts, *_columns(width), hidden),
    }


def _experts_case(
    label: str,
    kind: Kind,
    shapes: Shapes,
    cores: tuple[int, ...] = (1,),
    rounding: str = "fused",
) -> Case:
    return Case(
        label, kind, shapes, float32=("weights",), scalars={"rounding": rounding}, cores=cores
    )


def _prompt_case(
    label: str,
    kind: Kind,
    shapes: Shapes,
    cores: tuple[int, ...] = (1,),
    rounding: str = "fused",
    length: int | None = None,
) -> Case:
    case = _experts_case(label, kind, {**shapes, "length": (1, 1)}, cores, rounding)
    return case if length is None else replace(case, values={"length": length})


def _stepwise(case: Case) -> Case:
    label = f"{case.label}, stepwise"
    return replace(case, label=label, scalars={**case.scalars, "rounding": "stepwise"})


_FUSED: Scalars = {"eps": EPS, "rounding": "fused"}
_ROUTER_WHY_F32 = (
    "the norm's sum of 2048 squares, and logits that are sums of 2048 products, are about 3e-6 off "
    "in an order that the hardware chooses; a share moves by as much as its logit"
)
_ROUTER_WHY_BF16 = (
    "2 ulp (2^-7 each): the norm rounds once or twice, and a last-bit difference in fp32 can flip "
    "each; a stepwise share is rounded after logits whose flips (2^-6 of 4) it follows"
)
_EXPERTS_WHY_F32 = (
    "sums of 2048 and of 8 x 192 products in the hardware's order, each about 1e-6 of its terms, "
    "which are of size 1 where they cancel"
)
_EXPERTS_WHY_BF16 = (
    "2 ulp (2^-7 each): the result rounds once, and where its terms cancel, one ulp (2^-8) of an "
    "expert's output below 1, which a last-bit difference can round the other way if stepwise"
)
_ROUTER_TOLERANCES: Mapping[str, Tolerance] = {
    "float32": Tolerance(rtol=1e-5, atol=1e-6, why=_ROUTER_WHY_F32),
    "bfloat16": Tolerance(rtol=2.0**-6, atol=1e-6, why=_ROUTER_WHY_BF16),
}
_EXPERTS_TOLERANCES: Mapping[str, Tolerance] = {
    "float32": Tolerance(rtol=1e-5, atol=2e-6, why=_EXPERTS_WHY_F32),
    "bfloat16": Tolerance(rtol=2.0**-6, atol=2.0**-8, why=_EXPERTS_WHY_BF16),
}


def _router_refusals(norm: tuple[int, ...]) -> tuple[Refusal, ...]:
    good = _router_shapes(norm, 2, 64, 16)
    return (
        Refusal("x of rank 3", "x must have 2", {**good, "x": (1, 2, 64)}, scalars=_FUSED),
        Refusal(
            "residual of another shape",
            "residual must have shape (2, 64)",
            {**good, "residual": (1, 64)},
            scalars=_FUSED,
        ),
        Refusal(
            "router of another hidden size",
            "pack it with layouts.pack_linear",
            {**good, "w_router": (64, 2, 16)},
            scalars=_FUSED,
        ),
        Refusal(
            "router of another dtype",
            "w_router must be float32",
            good,
            dtypes={"w_router": "bfloat16"},
            scalars=_FUSED,
        ),
        Refusal(
            "fewer than 8 experts",
            "8 to 512 experts",
            {**good, "w_router": (64, 1, 7)},
            scalars=_FUSED,
        ),
        Refusal("eps of zero", "eps must be", good, scalars={**_FUSED, "eps": 0.0}),
        Refusal("no such rounding", "'stepwise'", good, scalars={**_FUSED, "rounding": "none"}),
    )


ROUTER_DECODE = KernelSpec(
    name="router_decode",
    title="Router (decode)",
    file="nki_decode_moe_kernels.py",
    function="nki_router_decode_kernel",
    description="Residual addition, RMSNorm, router and choice of 8 experts of 1 to 8 tokens",
    tile_size="TILE_K=128, TILE_N<=512",
    reference=reference.router_decode,
    fill=samples.router,
    scalars=_FUSED,
    cases=(
        Case("decode, 1 token", "true", _decode_shapes(1, 2048, 128), cores=BOTH),
        Case("decode, 8 tokens", "true", _decode_shapes(8, 2048, 128), cores=BOTH),
        _stepwise(Case("decode, 5 tokens", "true", _decode_shapes(5, 2048, 128), cores=BOTH)),
        Case("3 tokens of 1020", "ragged", _decode_shapes(3, 1020, 8), cores=BOTH),
        Case("512 experts", "ragged", _decode_shapes(2, 768, 512)),
        Case("tiny, 1 token", "model", _decode_shapes(1, 64, 16), cores=BOTH),
        _stepwise(Case("tiny, 4 tokens", "model", _decode_shapes(4, 64, 16))),
    ),
    tolerances=_ROUTER_TOLERANCES,
    refusals=(
        *_router_refusals((64, 1)),
        Refusal(
            "norm weight not in columns",
            "norm_weight must have 2 dimensions",
            _prefill_shapes(2, 64, 16),
            scalars=_FUSED,
        ),
        Refusal("33 tokens", "too many columns", _decode_shapes(33, 2048, 16), scalars=_FUSED),
    ),
)

ROUTER_PREFILL = KernelSpec(
    name="router_prefill",
    title="Router (prefill)",
    file="nki_prefill_moe_kernels.py",
    function="nki_router_prefill_kernel",
    description="Residual addition, RMSNorm, router and choice of 8 experts of a prompt's tokens",
    tile_size="TILE_M=128, TILE_K=128, TILE_N<=512",
    reference=reference.router_prefill,
    fill=samples.router,
    scalars=_FUSED,
    cases=(
        Case("prefill, 128 tokens", "true", _prefill_shapes(128, 2048, 128), cores=BOTH),
        Case("prefill, 640 tokens", "true", _prefill_shapes(640, 2048, 128), cores=(2,)),
        _stepwise(Case("prefill, 256 tokens", "true", _prefill_shapes(256, 2048, 128))),
        Case("20 tokens", "ragged", _prefill_shapes(20, 2048, 128), cores=BOTH),
        Case("333 tokens of 1000", "ragged", _prefill_shapes(333, 1000, 40), cores=BOTH),
        Case("one token", "ragged", _prefill_shapes(1, 768, 8)),
        Case("tiny prefill", "model", _prefill_shapes(24, 64, 16), cores=BOTH),
        _stepwise(Case("tiny, 131 tokens", "model", _prefill_shapes(131, 64, 16), cores=BOTH)),
    ),
    tolerances=_ROUTER_TOLERANCES,
    refusals=(
        *_router_refusals((64,)),
        Refusal(
            "norm weight in columns",
            "norm_weight must have shape (64,)",
            _decode_shapes(2, 64, 16),
            scalars=_FUSED,
        ),
        Refusal("rows too long", "at most 6144", _prefill_shapes(2, 6272, 16), scalars=_FUSED),
    ),
)


def _expert_refusals(prompt: bool) -> tuple[Refusal, ...]:
    lengths: Shapes = {"length": (1, 1)} if prompt else {}
    good = {**_expert_shapes(2, 64, 16, 48), **lengths}
    types = {"experts": "uint32", "length": "int32"} if prompt else {"experts": "uint32"}

    def refusal(
        label: str,
        message: str,
        shapes: Shapes | None = None,
        dtypes: Mapping[str, str] | None = None,
        scalars: Scalars | None = None,
    ) -> Refusal:
        return Refusal(
            label,
            message,
            {**good, **(shapes or {})},
            {**types, **(dtypes or {})},
            scalars or {"rounding": "fused"},
        )

    shared = (
        refusal("x of rank 3", "x must have 2", {"x": (1, 2, 64)}),
        refusal("7 experts per token", "weights must have shape (2, 8)", {"weights": (2, 7)}),
        refusal("signed experts", "experts must be uint32", None, {"experts": "int32"}),
        refusal("weights rounded", "weights must be float32", None, {"weights": "bfloat16"}),
        refusal("down of another width", "w_down must have", {"w_down": (16, 24, 1, 64)}),
        refusal("down of fewer experts", "w_down must have", {"w_down": (8, 48, 1, 64)}),
        refusal("gate and up unpacked", "w_gate_up must have", {"w_gate_up": (16, 64, 96)}),
        refusal("weights of another dtype", "w_down must be", None, {"w_down": "bfloat16"}),
        refusal("no such rounding", "'stepwise'", None, None, {"rounding": "none"}),
    )
    if not prompt:
        return shared
    return (
        *shared,
        refusal("length of another dtype", "length must be int32", None, {"length": "uint32"}),
        refusal("length of rank 1", "length must have", {"length": (1,)}),
        refusal(
            "129 experts",
            "at most 128 experts",
            {"w_gate_up": (129, 64, 1, 96), "w_down": (129, 48, 1, 64)},
        ),
        refusal(
            "a prompt of 5000 tokens",
            "split the prompt",
            {"x": (5000, 64), "weights": (5000, 8), "experts": (5000, 8)},
        ),
    )


EXPERTS_DECODE = KernelSpec(
    name="experts_decode",
    title="Experts (decode)",
    file="nki_decode_moe_kernels.py",
    function="nki_experts_decode_kernel",
    description="SwiGLU of the chosen experts of 1 to 8 tokens, read by dynamic address",
    tile_size="TILE_K=128, TILE_M=128",
    reference=reference.experts_decode,
    fill=samples.experts,
    cases=(
        _experts_case("decode, 1 token", "true", _expert_shapes(1, 2048, 128, 192), cores=BOTH),
        _experts_case("8 tokens, 16 experts", "true", _expert_shapes(8, 2048, 16, 192), BOTH),
        _experts_case(
            "3 tokens, 16 experts", "true", _expert_shapes(3, 2048, 16, 192), BOTH, "stepwise"
        ),
        _experts_case("2 ranks, 9 experts", "true", _expert_shapes(1, 2048, 9, 384), BOTH),
        _experts_case("1 rank, 9 experts", "true", _expert_shapes(1, 2048, 9, 768), BOTH),
        _experts_case("3 tokens of 1020", "ragged", _expert_shapes(3, 1020, 12, 100), BOTH),
        _experts_case("tiny, 1 token", "model", _expert_shapes(1, 64, 16, 48), BOTH),
        _experts_case("tiny, 4 ranks, 8 tokens", "model", _expert_shapes(8, 64, 16, 12), BOTH),
        _experts_case(
            "tiny, 4 ranks, stepwise", "model", _expert_shapes(1, 64, 16, 12), BOTH, "stepwise"
        ),
    ),
    tolerances=_EXPERTS_TOLERANCES,
    refusals=_expert_refusals(prompt=False),
)

EXPERTS_PREFILL = KernelSpec(
    name="experts_prefill",
    title="Experts (prefill)",
    file="nki_prefill_moe_kernels.py",
    function="nki_experts_prefill_kernel",
    description="SwiGLU of the chosen experts of a prompt's tokens, grouped by expert on chip",
    tile_size="TILE_M=16 to 64, TILE_K=128, TILE_N=512",
    reference=reference.experts_prefill,
    fill=samples.experts,
    cases=(
        _prompt_case("prefill, 128 tokens", "true", _expert_shapes(128, 2048, 128, 192), (2,)),
        _prompt_case("256 tokens of 256", "ragged", _expert_shapes(256, 256, 128, 192), (2,)),
        _prompt_case("640 tokens of 256", "ragged", _expert_shapes(640, 256, 128, 192), (2,)),
        _prompt_case(
            "54 of 128 tokens", "ragged", _expert_shapes(128, 256, 128, 192), BOTH, length=54
        ),
        _prompt_case(
            "200 of 256 tokens, 768 wide",
            "ragged",
            _expert_shapes(256, 512, 16, 768),
            BOTH,
            length=200,
        ),
        _prompt_case(
            "131 of 200 tokens of 1000",
            "ragged",
            _expert_shapes(200, 1000, 9, 100),
            BOTH,
            "stepwise",
            131,
        ),
        _prompt_case(
            "1 rank, 24 tokens, 9 experts", "true", _expert_shapes(24, 2048, 9, 768), (2,)
        ),
        _prompt_case("one of 20 tokens", "ragged", _expert_shapes(20, 64, 16, 48), BOTH, length=1),
        _prompt_case("tiny prefill", "model", _expert_shapes(24, 64, 16, 48), BOTH),
        _prompt_case(
            "tiny, 4 ranks", "model", _expert_shapes(48, 64, 16, 12), BOTH, "stepwise", 40
        ),
    ),
    tolerances=_EXPERTS_TOLERANCES,
    refusals=_expert_refusals(prompt=True),
)

MOE_KERNELS = (ROUTER_DECODE, EXPERTS_DECODE, ROUTER_PREFILL, EXPERTS_PREFILL)
