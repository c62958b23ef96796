"""Every kernel is really launched, as often as the architecture demands."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from model.launches import expected_launches

import nki_sim
from kernels.specs import SPECS
from model import dispatch, tiny

PROMPT = torch.arange(100, 120)


def by_function(launches: dict[str, int]) -> Counter[str]:
    return Counter({SPECS[name].function: count for name, count in launches.items()})


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_launches_counted_twice_equal_the_architectures(model, phase):
    with torch.inference_mode():
        if phase == "decode":
            model.prefill(PROMPT, 32)
        with nki_sim.record() as recording, dispatch.counting() as launched:
            if phase == "prefill":
                model.prefill(PROMPT, 32)
            else:
                model.decode(7)
    expected = expected_launches(tiny.CONFIG, phase)
    assert dict(launched) == expected
    assert Counter(launch.kernel for launch in recording.launches) == by_function(expected)
    assert dispatch.fallbacks() == []


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_no_kernel_is_left_out(phase):
    expected = expected_launches(tiny.CONFIG, phase)
    assert set(expected) == set(SPECS)
    assert all(count > 0 for count in expected.values())


def test_the_real_models_launches():
    config = tiny.CONFIG | {"num_hidden_layers": 48, "num_experts": 128}
    assert expected_launches(config, "decode") == {
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
    fused = expected_launches(config, "decode")
    apart = expected_launches(config, "decode", final_norm_fused=False)
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
    expected = expected_launches(tiny.CONFIG | change, "decode")
    assert {name for name, count in expected.items() if count == 0} == idle


def test_an_unknown_phase_is_refused():
    with pytest.raises(ValueError, match="'training'"):
        expected_launches(tiny.CONFIG, "training")


def test_the_counts_in_the_documents_are_those_of_the_real_architecture() -> None:
    real = {
        "num_hidden_layers": 48, "num_experts": 128, "num_experts_per_tok": 8,
        "norm_topk_prob": True,
    }  # fmt: skip
    counts = expected_launches(real, "decode", final_norm_fused=False)
    text = (Path(__file__).resolve().parents[2] / "docs" / "neuron.md").read_text()
    others = {counts[name] for name in counts.keys() - {"rmsnorm", "add_rmsnorm"}}
    assert (
        f"has {counts['rmsnorm']} `rmsnorm`, {counts['add_rmsnorm']} `add_rmsnorm` and "
        f"{others.pop()} of each other kernel"
    ) in text
    assert not others
