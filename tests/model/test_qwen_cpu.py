"""The packed model with kernels against transformers' own, and faults that must not pass for it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import nki_sim
from kernels.specs import SPECS
from model import baseline, dispatch, qwen_cpu, tiny
from model.layers import Launching
from model.plan import bucket_of, expected_launches
from model.qwen_cpu import Qwen3MoeCPU
from model.qwen_rows import Qwen3MoeRows

# As in test_qwen_rows: logits are near 30, where float32 has a spacing of 2e-6, bfloat16 of 0.125.
FLOAT32_DRIFT = 5e-5
BFLOAT16_DRIFT = 1.0
STEPS = 6
PACKED = ("fused", "layered")


def prompt(length: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2048, (length,), generator=generator)


def drift(actual: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(actual - expected).max())


@pytest.mark.parametrize("path", PACKED)
@pytest.mark.parametrize("length", [1, 20, 128, 200])
def test_float32_logits_are_the_baselines(models, reference, path, length):
    expected = reference.generate(prompt(length), STEPS)
    actual = models[path].generate(prompt(length), STEPS)
    assert actual.tokens.tolist() == expected.tokens.tolist()
    assert drift(actual.logits, expected.logits) < FLOAT32_DRIFT


@pytest.mark.parametrize("path", PACKED)
def test_bfloat16_stays_close_to_the_baseline(checkpoint, path):
    expected = baseline.load(checkpoint, "bfloat16").generate(prompt(60), STEPS)
    forced = torch.from_numpy(expected.tokens)
    actual = qwen_cpu.load(checkpoint, "bfloat16", path).generate(prompt(60), STEPS, forced)
    assert actual.tokens.tolist() == expected.tokens.tolist()
    assert drift(actual.logits, expected.logits) < BFLOAT16_DRIFT


@pytest.mark.parametrize("cores", [1, 2])
@pytest.mark.parametrize("path", PACKED)
def test_on_a_grid_of_cores(checkpoint, models, reference, path, cores):
    """Launched as kernel[1] and kernel[2], as on a device with that many cores per rank."""
    plain = models[path]
    launching = Launching(cores=cores)
    model = Qwen3MoeCPU(plain.config, plain.weights, plain.plan, launching)
    expected = reference.generate(prompt(20), 3)
    actual = model.generate(prompt(20), 3)
    assert actual.tokens.tolist() == expected.tokens.tolist()
    assert drift(actual.logits, expected.logits) < FLOAT32_DRIFT


@torch.inference_mode()
def test_a_bucket_that_is_full(models):
    """At the last position of a bucket the next step needs the next bucket's cache."""
    model, tokens = models["fused"], prompt(130)
    whole = model.prefill(tokens, 130)
    model.prefill(tokens[:127], 130)
    for token in tokens[127:]:
        stepped = model.decode(int(token))
    assert drift(stepped.numpy(), whole.numpy()) < FLOAT32_DRIFT


@torch.inference_mode()
def test_a_prefill_forgets_what_came_before(models):
    model = models["fused"]
    first = model.prefill(prompt(30), 40)
    model.decode(3)
    assert torch.equal(model.prefill(prompt(30), 40), first)


@pytest.mark.parametrize("path", ["fused", "layered", "rows"])
def test_hidden_states_are_the_baselines(models, reference, path):
    expected = reference.hidden_states(prompt(20), 7)
    actual = models[path].hidden_states(prompt(20), 7)
    assert expected.shape == (2, 2, 64)
    relative = (actual - expected).norm(dim=-1) / expected.norm(dim=-1)
    assert float(relative.max()) < 2e-6


def test_the_choice_on_chip_is_the_largest_logit(models):
    model = models["fused"]
    states = torch.randn(2, 3, 64, generator=torch.Generator().manual_seed(1))
    logits, largest, token = model.head(*states)
    assert token[:, 0].long().tolist() == logits.argmax(dim=1).tolist()
    assert torch.equal(largest[:, 0], logits.max(dim=1).values)


@torch.inference_mode()
@pytest.mark.parametrize("path", PACKED)
@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_launches_counted_twice_equal_the_architectures(models, path, phase):
    model = models[path]
    if phase == "decode":
        model.prefill(prompt(20), 32)
    with nki_sim.record() as recording, dispatch.counting() as launched:
        if phase == "prefill":
            model.prefill(prompt(20), 32)
        else:
            model.decode(7)
    expected = expected_launches(tiny.CONFIG, phase, path)
    assert dict(launched) == expected
    names = {spec.function: name for name, spec in SPECS.items()}
    kernels = [names[launch.kernel] for launch in recording.launches]
    assert {name: kernels.count(name) for name in kernels} == expected
    assert dispatch.fallbacks() == []


def swap_gate_and_up(model: Qwen3MoeCPU) -> None:
    weights = model.weights.w_gate_up
    weights.copy_(weights.roll(weights.shape[-1] // 2, dims=-1))


def rotate_experts(model: Qwen3MoeCPU) -> None:
    for weights in (model.weights.w_gate_up, model.weights.w_down):
        weights.copy_(weights.roll(1, dims=1))


def swap_query_and_key_norms(model: Qwen3MoeCPU) -> None:
    query = model.weights.q_norm.clone()
    model.weights.q_norm.copy_(model.weights.k_norm)
    model.weights.k_norm.copy_(query)


def change_rope_base(model: Qwen3MoeCPU) -> None:
    model.config = type(model.config).from_dict(model.config.to_dict() | {"rope_theta": 10_000.0})


def forget_to_move_on(model: Qwen3MoeCPU) -> None:
    """Every new token is put where the last one is: a stale position of the cache."""
    decode = model.decode

    def stale(token: int) -> torch.Tensor:
        model.cache.length -= 1
        return decode(token)

    model.decode = stale


@dataclasses.dataclass(frozen=True)
class Faulty(Launching):
    """Launches with a fault in the arguments or the results of one kernel."""

    kernel: str = ""
    before: Callable[..., Any] = lambda *tensors: tensors
    after: Callable[..., Any] = lambda tensors, results: results

    def __call__(self, kernel: str, *tensors: Any, **scalars: Any) -> Any:
        if not kernel.startswith(self.kernel):
            return super().__call__(kernel, *tensors, **scalars)
        results = super().__call__(kernel, *self.before(*tensors), **scalars)
        return self.after(tensors, results)


def launch_with(model: Qwen3MoeCPU, faulty: Faulty) -> None:
    for block in (block for layer in model.layers for block in layer):
        block.launch = faulty


def shift_causal_mask(model: Qwen3MoeCPU, by: int) -> None:
    """Each query attends from a place `by` further on, so that it sees as many keys more."""

    def moved(query: torch.Tensor, *others: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return query.roll(by, dims=2), *others

    def back(tensors: tuple[torch.Tensor, ...], attended: torch.Tensor) -> torch.Tensor:
        return attended.roll(-by, dims=2)

    launch_with(model, Faulty(kernel="attention_prefill", before=moved, after=back))


def see_one_token_ahead(model: Qwen3MoeCPU) -> None:
    shift_causal_mask(model, 1)


def see_all_but_oneself(model: Qwen3MoeCPU) -> None:
    shift_causal_mask(model, -1)


def drop_renormalisation(model: Qwen3MoeCPU) -> None:
    """The shares are those among all experts, which sum to less than one."""

    def of_all(tensors: tuple[torch.Tensor, ...], results: tuple[torch.Tensor, ...]) -> Any:
        normed, total, weights, experts = results
        w_router = tensors[3]
        columns = w_router.swapaxes(0, 1).reshape(-1, w_router.shape[-1])
        probabilities = (normed @ columns).softmax(dim=1)
        chosen = probabilities.gather(1, experts.long()).sum(dim=1, keepdim=True)
        return normed, total, weights * chosen, experts

    launch_with(model, Faulty(kernel="router", after=of_all))


# Fault: the path it is in, and the prompt's length. Heads look back over fixed distances, so that a
# key more or less tells where there are few.
FAULTS = {
    swap_gate_and_up: ("fused", 40),
    rotate_experts: ("fused", 40),
    swap_query_and_key_norms: ("fused", 40),
    drop_renormalisation: ("layered", 40),
    change_rope_base: ("fused", 40),
    forget_to_move_on: ("fused", 40),
    see_one_token_ahead: ("fused", 2),
    see_all_but_oneself: ("fused", 2),
}
KEEPS_TOKENS = (drop_renormalisation,)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_is_far_from_the_baseline(
    checkpoint: Path,
    reference: baseline.Baseline,
    fault: Callable[[Qwen3MoeCPU], None],
) -> None:
    path, length = FAULTS[fault]
    expected = reference.generate(prompt(length), 12)
    mutant = qwen_cpu.load(checkpoint, "float32", path)
    fault(mutant)
    actual = mutant.generate(prompt(length), 12, torch.from_numpy(expected.tokens))
    gap = drift(actual.logits, expected.logits)
    print(f"{fault.__name__}: {gap:.2f}, {(actual.tokens != expected.tokens).sum()} other tokens")
    assert gap > 1e4 * FLOAT32_DRIFT
    assert gap > BFLOAT16_DRIFT
    if fault not in KEEPS_TOKENS:
        assert (actual.tokens != expected.tokens).any()


@pytest.mark.parametrize(
    ("change", "kernel", "reason"),
    [
        ({"norm_topk_prob": False}, "router_prefill", "does not renormalise"),
        ({"num_experts_per_tok": 4}, "router_prefill", "4 experts per token"),
    ],
)
def test_what_the_kernels_cannot_take_runs_in_rows_and_says_why(
    checkpoint, tmp_path, change, kernel, reason
):
    altered = shutil.copytree(checkpoint, tmp_path / "altered")
    config = json.loads((altered / "config.json").read_text()) | change
    (altered / "config.json").write_text(json.dumps(config))
    model = qwen_cpu.load(altered, "float32")
    assert isinstance(model, Qwen3MoeRows)
    expected = baseline.load(altered, "float32").generate(prompt(20), 3)
    assert drift(model.generate(prompt(20), 3).logits, expected.logits) < FLOAT32_DRIFT
    reasons = dict(dispatch.fallbacks())
    assert reason in reasons[kernel]


def test_buckets():
    assert [bucket_of(n) for n in (1, 128, 129, 256, 257, 640, 641)] == [
        128, 128, 256, 256, 640, 640, 768,
    ]  # fmt: skip
