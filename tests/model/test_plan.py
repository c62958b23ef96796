"""Which path is taken and why not another; every kernel is launched as often as demanded."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import nki_sim
from kernels.specs import SPECS
from model import dispatch, tiny
from model.plan import (
    MOST,
    MOST_BLOCKS,
    PATHS,
    PHASES,
    PROMPT_BYTES,
    Plan,
    choose,
    expected_launches,
    why_not_prompt,
)

TINY = SimpleNamespace(**tiny.CONFIG)
REAL: dict[str, Any] = {
    "num_hidden_layers": 48, "num_experts": 128, "num_experts_per_tok": 8, "norm_topk_prob": True,
    "head_dim": 128, "hidden_size": 2048, "num_attention_heads": 32, "num_key_value_heads": 4,
}  # fmt: skip


def by_function(launches: dict[str, int]) -> Counter[str]:
    return Counter({SPECS[name].function: count for name, count in launches.items()})


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_launches_counted_twice_equal_the_architectures(models, phase):
    model, prompt = models["rows"], torch.arange(100, 120)
    with torch.inference_mode():
        if phase == "decode":
            model.prefill(prompt, 32)
        with nki_sim.record() as recording, dispatch.counting() as launched:
            if phase == "prefill":
                model.prefill(prompt, 32)
            else:
                model.decode(7)
    expected = expected_launches(tiny.CONFIG, phase, "rows")
    assert dict(launched) == expected
    assert Counter(launch.kernel for launch in recording.launches) == by_function(expected)
    assert dispatch.fallbacks() == []


def test_no_kernel_is_left_out():
    launched = {
        kernel
        for path in PATHS
        for phase in PHASES
        for kernel, count in expected_launches(tiny.CONFIG, phase, path).items()
        if count
    }
    assert launched == set(SPECS)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("config", [TINY, SimpleNamespace(**REAL)])
def test_what_is_asked_for_is_chosen(path, dtype, config):
    assert choose(path, config, dtype) == Plan(path, path)


@pytest.mark.parametrize(
    ("change", "dtype", "plan", "kernel", "reason"),
    [
        ({"num_experts_per_tok": 4}, "float32", "rows", "router_prefill", "4 experts per token"),
        ({"num_experts": 4}, "float32", "rows", "router_prefill", "4 experts"),
        ({"norm_topk_prob": False}, "float32", "rows", "router_prefill", "does not renormalise"),
        ({"head_dim": 256}, "float32", "rows", "qkv_prefill", "head_dim: 256"),
        ({"head_dim": 15}, "float32", "rows", "qkv_prefill", "head_dim: 15"),
        ({"num_experts": 256}, "float32", "rows", "experts_prefill", "up to 128"),
        ({"hidden_size": 4096}, "float32", "rows", "qkv_prefill", "16384"),
        ({}, "float16", "rows", "qkv_prefill", "float16"),
        ({"num_hidden_layers": 130}, "float32", "layered", "decoder_stack", "layers: 130"),
    ],
)
def test_what_kernels_cannot_take_has_a_reason(change, dtype, plan, kernel, reason):
    chosen = choose("fused", SimpleNamespace(**tiny.CONFIG | change), dtype)
    assert chosen.decode == plan
    assert chosen.prefill == ("rows" if plan == "rows" else "fused")
    assert reason in dict(chosen.fallbacks)[kernel]


def test_the_limits_are_the_kernels():
    from kernels import nki_decode_common, nki_prefill_moe_kernels, nki_prefill_projection_kernels
    from kernels.nki_common import PARTITIONS

    most = {(what, kernels[0]): size for what, kernels, size in MOST}
    assert most == {
        ("head_dim", "qkv"): PARTITIONS,
        ("experts", "experts_prefill"): nki_prefill_moe_kernels.EXPERTS_LIMIT,
        ("experts", "router"): nki_decode_common.BANK,
        ("bytes per row", "qkv_prefill"): nki_prefill_projection_kernels.ROW_BYTES,
        ("layers", "decoder"): PARTITIONS,
    }


@pytest.mark.parametrize(("dtype", "ranks", "kernel", "tokens"), [
    ("bfloat16", 4, "qkv_prefill", 2560),
    ("float32", 1, "output_projection_prefill", 640),
    ("bfloat16", 1, "output_projection_prefill", 1280),
])  # fmt: skip
def test_longer_prompts_have_a_reason(dtype, ranks, kernel, tokens):
    real = SimpleNamespace(**REAL)
    assert why_not_prompt(tokens, real, dtype, ranks) is None
    found = why_not_prompt(tokens + 1, real, dtype, ranks)
    assert found is not None and found.kernel == kernel
    assert f"up to {tokens};" in found.reason


def test_the_longest_prompt_is_the_kernels():
    from kernels import nki_matmul_stages, nki_token_grouping
    from kernels.nki_decode_common import BANK

    assert PROMPT_BYTES == nki_matmul_stages.COLUMNS_BYTES
    narrow = SimpleNamespace(**REAL | {"hidden_size": 128, "num_attention_heads": 4})
    found = why_not_prompt(9999, narrow, "bfloat16", 4)
    assert found is not None and found.kernel == "experts_prefill"
    longest = int(found.reason.partition("up to ")[2].partition(";")[0])
    slots = nki_token_grouping.block_slots(longest, 128)
    held = BANK - 2 * 2 * 2  # two buffers on two cores, twice
    assert slots == 64 and held == MOST_BLOCKS
    assert nki_token_grouping.most_blocks(longest, 128, slots) <= held
    assert nki_token_grouping.most_blocks(longest + 8, 128, slots) > held


def test_an_unknown_path_is_refused():
    with pytest.raises(ValueError, match="'quick'; use one of fused, layered, rows"):
        choose("quick", TINY, "float32")
    with pytest.raises(ValueError, match="'quick'; use one of fused, layered, rows"):
        expected_launches(tiny.CONFIG, "decode", "quick")


def test_the_real_models_packed_launches():
    assert expected_launches(REAL, "decode", "fused") == {"decoder_stack": 1, "lm_head": 1}
    layered = expected_launches(REAL, "decode", "layered")
    assert sum(layered.values()) == 5 * 48 + 1
    assert expected_launches(REAL, "decode", "layered", ranks=4) == layered | {"all_reduce": 96}
    assert expected_launches(REAL, "decode", "fused", ranks=4) == {
        "decoder_stack_ranks": 1, "lm_head": 1,
    }  # fmt: skip
    prefill = expected_launches(REAL, "prefill", "fused")
    assert prefill == expected_launches(REAL, "prefill", "layered")
    assert sum(prefill.values()) == 5 * 48 + 1


def test_the_real_models_launches():
    config = tiny.CONFIG | {"num_hidden_layers": 48, "num_experts": 128}
    assert expected_launches(config, "decode", "rows") == {
        "rmsnorm": 97,
        "rope": 48,
        "softmax": 48,
        "add_rmsnorm": 96,
        "router_softmax": 48,
        "top8": 48,
        "silu": 48,
        "expert_aggregation": 48,
    }


def test_a_final_norm_that_does_not_add():
    config = tiny.CONFIG | {"num_hidden_layers": 48}
    fused = expected_launches(config, "decode", "rows")
    apart = expected_launches(config, "decode", "rows", final_norm_fused=False)
    assert {name: apart[name] - fused[name] for name in fused if apart[name] != fused[name]} == {
        "rmsnorm": 1,
        "add_rmsnorm": -1,
    }


@pytest.mark.parametrize(
    ("change", "idle"),
    [
        ({"norm_topk_prob": False}, {"top8"}),
        ({"num_experts_per_tok": 4}, {"top8", "expert_aggregation"}),
    ],
)
def test_kernels_that_the_architecture_rules_out_are_not_expected(change, idle):
    expected = expected_launches(tiny.CONFIG | change, "decode", "rows")
    assert {name for name, count in expected.items() if count == 0} == idle


def test_an_unknown_phase_is_refused():
    with pytest.raises(ValueError, match="'training'"):
        expected_launches(tiny.CONFIG, "training")


def test_the_counts_in_the_documents_are_those_of_the_real_architecture() -> None:
    counts = expected_launches(REAL, "decode", "rows", final_norm_fused=False)
    text = (Path(__file__).resolve().parents[2] / "docs" / "neuron.md").read_text()
    others = {counts[name] for name in counts.keys() - {"rmsnorm", "add_rmsnorm"}}
    assert (
        f"has {counts['rmsnorm']} `rmsnorm`, {counts['add_rmsnorm']} `add_rmsnorm` and "
        f"{others.pop()} of each other kernel"
    ) in text
    assert not others
    layered = sum(expected_launches(REAL, "decode", "layered").values())
    assert layered == sum(expected_launches(REAL, "prefill", "layered").values())
    assert f"5 launches per layer and 1 for the LM head, {layered} in both phases" in text
