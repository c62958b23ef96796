"""The prediction for a platform, as a file holds it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from evaluation.provenance import REPOSITORY, modelled_inputs, prediction_files
from evaluation.scoring import Baselines, load_baselines
from evaluation.shapes import QWEN3_30B_A3B, Architecture
from model.plan import BUCKETS, bucket_of
from nki_sim.latency import Constant, Range
from prediction.baseline import padded_experts, padded_prefill
from prediction.costs import ZERO
from prediction.launches import ASSUMPTIONS, CORES, DTYPE, MODEL, RANKS, Rank
from prediction.prompts import (
    PROMPT_TOKENS,
    baseline_intercept_ms,
    nki_flops_ratio,
    prompt_figures,
)
from prediction.roofline import roofline
from prediction.steps import ELEMENT_BYTES, PATHS, Step, decode_steps, prefill
from prediction.timeline import layer_timeline

SCHEMA_VERSION = 1
Json = dict[str, Any]


def predict_model(platform: str, model: Architecture = QWEN3_30B_A3B) -> Json:
    """Everything that is predicted for ``trn2`` or ``trn3``, for JSON."""
    rank = Rank(platform, model)
    baselines = load_baselines(REPOSITORY / "config" / "baselines.yaml", platform)
    encodings = [prefill(rank, bucket_of(tokens), tokens) for tokens in PROMPT_TOKENS]
    full = [prefill(rank, bucket, bucket) for bucket in BUCKETS]
    return {
        "schema_version": SCHEMA_VERSION,
        "basis": "modelled",
        "platform": platform,
        "model": MODEL,
        "dtype": DTYPE,
        "ranks": RANKS,
        "cores_per_rank": CORES,
        "bound": bound(rank),
        "paths": {path: _path(rank, path, encodings, baselines) for path in PATHS},
        "prefill": [step.as_dict() for step in full],
        "padded_baseline": _padded(rank, full, baselines),
        "layer_timeline": layer_timeline(rank),
        "roofline": roofline(rank),
        "assumptions": [
            *_assumptions(rank.hardware.assumptions()),
            *_assumptions(ASSUMPTIONS.assumptions()),
        ],
        "inputs": modelled_inputs(prediction_files()),
    }


def bound(rank: Rank) -> Json:
    """The least time of a step: the weights that a token needs, once, at HBM's documented rate.

    Where documents differ, at the lower one.
    """
    a = rank.model
    attention = a.hidden * (2 * a.heads + 2 * a.kv_heads) * a.head_dim
    experts = a.experts_per_token * 3 * a.hidden * a.expert_hidden + a.hidden * a.experts
    weight_bytes = ELEMENT_BYTES * (a.layers * (attention + experts) + a.hidden * a.vocabulary)
    rate = RANKS * rank.hardware.constants["memory.hbm_rate"].slowest
    return {
        "weight_bytes": weight_bytes,
        "hbm_bytes_per_us": 1e3 * rate,
        "time_us": weight_bytes / (1e3 * rate),
    }


def _path(rank: Rank, path: str, encodings: list[Step], baselines: Baselines) -> Json:
    steps = decode_steps(rank, path)
    ratio, least_us = nki_flops_ratio(path, rank.model), bound(rank)["time_us"]
    prompts = [
        prompt_figures(number, encoding, steps, baselines.for_prompt(number), ratio)
        for number, encoding in enumerate(encodings)
    ]
    total = ZERO
    for prompt in prompts:
        total = total + Range(**prompt["score"])
    return {
        "decode": [step.as_dict() for step in steps],
        "bound_ratio": steps[-1].total_us.nominal / least_us,
        "device_bound_ratio": steps[-1].device_us.nominal / least_us,
        "prompts": prompts,
        "total_score": total.as_dict(),
    }


def _padded(rank: Rank, full: list[Step], baselines: Baselines) -> Json:
    buckets = []
    for ours in full:
        padded = padded_prefill(rank, ours)
        buckets.append(
            {
                **padded.as_dict(),
                "experts_per_layer": asdict(padded_experts(rank, ours.bucket)),
                "times_ours": padded.total_us.nominal / ours.total_us.nominal,
            }
        )
    return {
        "buckets": buckets,
        "published_intercept_ms": baseline_intercept_ms(baselines),
        "published_source": f"{baselines.source}, {baselines.date}",
    }


def _assumptions(constants: dict[str, Constant]) -> list[Json]:
    return [{"name": name, **asdict(constant)} for name, constant in constants.items()]


def summary(result: Json) -> str:
    """A few lines for people."""
    lines = [f"{result['model']} on {result['platform']}, modelled"]
    for name, path in result["paths"].items():
        step = Range(**path["decode"][-1]["total_us"]) * 1e-3
        score = Range(**path["total_score"])
        lines.append(
            f"{name}: a decode step {step} ms, {path['bound_ratio']:.2f} times the HBM bound, "
            f"{path['device_bound_ratio']:.2f} times without the host; total score {score}"
        )
    for step in result["prefill"]:
        lines.append(f"prefill of {step['bucket']}: {Range(**step['total_us']) * 1e-3} ms")
    return "\n".join(lines)
