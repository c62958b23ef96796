"""What the results record holds of a device beyond what a simulator tells: latency, score, SDK."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evaluation import scores, sdk
from evaluation.scoring import (
    Baselines,
    improvement_percent,
    score,
    total_score,
)
from evaluation.uncertainty import add_statistics
from model.plan import NEURON_PATHS, Phase, expected_launches

Evaluations = Sequence[Mapping[str, Any]]

_PHASES: dict[str, Phase] = {"prefill": "prefill", "decode_step": "decode"}
SIDES = ("baseline", "nki")
_NOT_PUBLISHED = "the organisers publish no baseline for prompt {}: a total would leave it out"
_SCORES = (
    *(f"per_prompt_results[*].{side}.score" for side in SIDES),
    "per_prompt_results[*].improvement_percent",
    *(f"summary.{side}_total_score" for side in SIDES),
    "summary.improvement_percent",
)
RATIOS = (
    "challenge_ratio", "executed_ratio", "useful_ratio_at_least", "useful_ratio_at_most",
    "uncounted_calls",
)  # fmt: skip
_NO_RELEASE = "the installed packages belong to no release that envs/neuron.yaml states"


def add_device_figures(
    record: dict[str, Any], by_variant: Mapping[str, Evaluations], baselines: Baselines
) -> None:
    """Add to a record what its evaluations measured on a device; samples come first, in full."""
    device = by_variant["nki"][0]["device"]
    record["hardware"] = (
        f"{device['instance_type']}, {device['neuron_devices']} Neuron device(s), "
        f"{device['tp_degree']} rank(s)"
    )
    if device["sdk_release"] != sdk.UNKNOWN:
        record["neuron_sdk_version"] = device["sdk_release"]
    else:
        record["absent"].append({"key": "neuron_sdk_version", "reason": _NO_RELEASE})
    record["summary"]["nki_flops_ratio"] = by_variant["nki"][0]["mac_ratio"]["challenge_ratio"]
    for side in SIDES:
        for prompt, evaluation in zip(record["per_prompt_results"], by_variant[side], strict=True):
            prompt[side] |= _figures(evaluation)
    published = {base.prompt_id for base in baselines.per_prompt}
    measured = [prompt["prompt_id"] for prompt in record["per_prompt_results"]]
    if unknown := [str(prompt) for prompt in measured if prompt not in published]:
        reason = _NOT_PUBLISHED.format(", ".join(unknown))
        record["absent"] += [{"key": key, "reason": reason} for key in _SCORES]
    else:
        _add_scores(record, by_variant, baselines)
    machines = [e["provenance"]["machine"] for side in SIDES for e in by_variant[side]]
    add_statistics(record, machines)


def _figures(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """Return one side of a prompt: latency with its samples, throughput, the ratios."""
    measured = scores.measurement(evaluation)
    counted = {name: evaluation["mac_ratio"][name] for name in RATIOS}
    samples_ms = [1e3 * second for second in evaluation["host_time"]["end_to_end_s"]]
    return {
        "latency": {"basis": "measured", "samples_ms": samples_ms},
        "latency_ms": measured.latency_ms,
        "throughput_tok_s": measured.throughput_tok_s,
        "nki_flops_ratio": measured.nki_flops_ratio,
        "mac_ratio": {"basis": "counted", **counted},
    }


def _add_scores(
    record: dict[str, Any], by_variant: Mapping[str, Evaluations], baselines: Baselines
) -> None:
    """Add the score of each prompt, the totals, and what the kernels improve."""
    prompts, summary = record["per_prompt_results"], record["summary"]
    for side in SIDES:
        for prompt, evaluation in zip(prompts, by_variant[side], strict=True):
            base = baselines.for_prompt(prompt["prompt_id"])
            prompt[side]["score"] = score(scores.measurement(evaluation), base)
        summary[f"{side}_total_score"] = total_score([prompt[side]["score"] for prompt in prompts])
    for prompt in prompts:
        pair = (prompt[side]["score"] for side in SIDES)
        prompt["improvement_percent"] = improvement_percent(*pair)
    totals = (summary[f"{side}_total_score"] for side in SIDES)
    summary["improvement_percent"] = improvement_percent(*totals)


def kernel_path(evaluation: Mapping[str, Any]) -> str:
    """Return the path that a device's model took: the layered one, unless a reason against it."""
    best, other = NEURON_PATHS
    against = any(entry["kernel"] == best for entry in evaluation["fallbacks"])
    return other if against else best


def device_launches(
    evaluation: Mapping[str, Any], architecture: Mapping[str, Any]
) -> dict[str, dict[str, int]]:
    """Return the launches of a device's run beside those that the architecture demands.

    The demand holds for a kernel that stands in all of its hooks. Where a fallback is listed for
    one, what was counted is all that can be expected of it.
    """
    path = kernel_path(evaluation)
    excused = {entry["kernel"] for entry in evaluation["fallbacks"]}
    launches: dict[str, dict[str, int]] = {}
    for phase, named in _PHASES.items():
        counted = evaluation["launches"][phase]
        demanded = expected_launches(architecture, named, path, final_norm_fused=False)
        launches[phase] = counted
        launches[f"expected_{phase}"] = {
            kernel: counted.get(kernel, 0) if kernel in excused else demand
            for kernel, demand in demanded.items()
        }
    return launches
