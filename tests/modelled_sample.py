"""Files of modelled times with invented figures that fit together, for tests of the record."""

from __future__ import annotations

from typing import Any

from evaluation.provenance import REPOSITORY, modelled_inputs, prediction_files, validation_files
from evaluation.scoring import load_baselines
from kernels.variants import TUNED, name_of, steps

Json = dict[str, Any]
ENDS = ("low", "nominal", "high")
TOKENS = (20, 192, 54, 14, 512)
BUCKETS = (128, 256, 640)


def spread(nominal: float) -> Json:
    """A range around a nominal value."""
    return {"low": 0.75 * nominal, "nominal": nominal, "high": 1.5 * nominal}


def step(bucket: int, layers_us: float) -> Json:
    """A graph of three terms."""
    terms = [
        {
            "name": "layers", "what": "all layers", "time_us": spread(layers_us),
            "hbm_us": 0.5 * layers_us, "hbm_bytes": 1000, "macs": 2000, "launches": 1,
        },
        {"name": "all_reduce", "what": "sums over the ranks", "time_us": spread(900.0)},
        {"name": "host_launch", "what": "the runtime", "time_us": spread(500.0)},
    ]  # fmt: skip
    device, total = (
        {end: sum(term["time_us"][end] for term in parts) for end in ENDS}
        for parts in (terms[:-1], terms)
    )
    return {"bucket": bucket, "terms": terms, "device_us": device, "total_us": total}


def prompt(number: int, decode: list[Json], base: Any) -> Json:
    """A prompt's figures, from the steps of a path."""
    tokens = TOKENS[number]
    counts = dict.fromkeys(map(str, BUCKETS), 0)
    for position in range(tokens, 639):
        counts[str(next(b for b in BUCKETS if position < b))] += 1
    bucket = next(b for b in BUCKETS if tokens <= b)
    prefill = {end: value / 1e3 for end, value in step(bucket, 40e3)["total_us"].items()}
    spent = {
        end: sum(counts[str(one["bucket"])] * one["total_us"][end] for one in decode) / 1e3
        for end in ENDS
    }
    latency = {end: prefill[end] + spent[end] for end in ENDS}
    rate = dict(zip(ENDS, (640e3 / latency[end] for end in reversed(ENDS)), strict=True))
    gain = base.latency_ms / base.throughput_tok_s * 2.0
    scores = {
        end: gain * rate[end] / latency[other]
        for end, other in zip(ENDS, reversed(ENDS), strict=True)
    }
    return {
        "prompt_id": number, "input_tokens": tokens, "output_tokens": 640 - tokens,
        "prefill_bucket": bucket, "decode_steps": counts, "prefill_ms": prefill,
        "decode_ms": spent, "latency_ms": latency, "throughput_tok_s": rate,
        "nki_flops_ratio": 1.0, "score": scores,
    }  # fmt: skip


def path(platform: str, layers_us: float, bound_us: float) -> Json:
    """A path, of steps that take as long at every bucket."""
    baselines = load_baselines(REPOSITORY / "config" / "baselines.yaml", platform)
    decode = [step(bucket, layers_us + bucket) for bucket in BUCKETS]
    prompts = [prompt(n, decode, baselines.for_prompt(n)) for n in range(len(TOKENS))]
    return {
        "decode": decode,
        "bound_ratio": decode[-1]["total_us"]["nominal"] / bound_us,
        "device_bound_ratio": decode[-1]["device_us"]["nominal"] / bound_us,
        "prompts": prompts,
        "total_score": {end: sum(one["score"][end] for one in prompts) for end in ENDS},
    }


def prediction(platform: str) -> Json:
    """The file of one platform."""
    speed = {"trn2": 1.0, "trn3": 0.625}[platform]
    moved, rate = 6_000_000_000, 3e6 / speed
    ours = [step(bucket, speed * 40e3) for bucket in BUCKETS]
    return {
        "schema_version": 1,
        "basis": "modelled",
        "platform": platform,
        "model": "Qwen/Qwen3-30B-A3B",
        "dtype": "bfloat16",
        "ranks": 4,
        "cores_per_rank": 2,
        "bound": {"weight_bytes": moved, "hbm_bytes_per_us": rate, "time_us": moved / rate},
        "paths": {
            "layered": path(platform, speed * 4500.0, moved / rate),
            "fused": path(platform, speed * 3200.0, moved / rate),
        },
        "prefill": ours,
        "padded_baseline": {
            "buckets": [_padded(one, speed) for one in ours],
            "published_intercept_ms": 500.0,
            "published_source": "invented",
        },
        "layer_timeline": _timeline(),
        "roofline": _roofline(speed),
        "assumptions": [
            {
                "name": "dma.start", "value": 770.0, "unit": "ns", "source": "invented",
                "confidence": "assumed", "fastest": 740.0, "slowest": 900.0,
            }
        ],
        "inputs": modelled_inputs(prediction_files()),
    }  # fmt: skip


def _padded(ours: Json, speed: float) -> Json:
    padded = step(ours["bucket"], speed * 50e3)
    return {
        **padded,
        "experts_per_layer": {
            "blocks": 129, "macs": 10**9, "weight_bytes": 10**8, "tensor_us": 990.0,
            "hbm_us": 420.0,
        },
        "times_ours": padded["total_us"]["nominal"] / ours["total_us"]["nominal"],
    }  # fmt: skip


def _timeline() -> Json:
    return {
        "kernel": "decoder_stack_ranks", "bucket": 640, "layer": 4, "layers": 8, "core": 0,
        "time_us": 90.0,
        "halves": [{"name": "attention", "end_us": 36.0}, {"name": "experts", "end_us": 90.0}],
        "merged_below_us": 0.1,
        "rows": [
            {"engine": "tensor", "busy_us": 30.0, "intervals_us": [[0.0, 10.0], [20.0, 40.0]]},
            {"engine": "meeting", "busy_us": 20.0, "intervals_us": [[26.0, 36.0], [80.0, 90.0]]},
            {"engine": "DMA", "busy_us": 40.0, "intervals_us": [[5.0, 45.0]]},
        ],
    }  # fmt: skip


def _roofline(speed: float) -> Json:
    points = [
        ("lm_head", 77_824_000, 155_683_024, 282.0), ("silu", 0, 24_576, 3.3),
        ("qkv_prefill", 369_098_752, 10_027_008, 38.0),
    ]  # fmt: skip
    return {
        "roofs": {"macs_per_us_and_core": 39.3e6, "hbm_bytes_per_us_and_stack": 0.725e6 / speed},
        "points": [
            {
                "kernel": name, "case": "true", "dtype": "bfloat16", "cores": 2, "macs": macs,
                "elements": 1000, "hbm_bytes": moved, "hbm_us": speed * moved / 0.725e6,
                "time_us": spread(speed * time_us), "bound": "HBM", "kind": "latency",
            }
            for name, macs, moved, time_us in points
        ],
    }  # fmt: skip


def validation() -> Json:
    """The file of the comparison with published points."""
    rows = [_validated(number, used) for number, used in ((1, ""), (2, ""), (3, "dma.start"))]
    errors = {"points": 2, "median": 0.1, "p90": 0.1, "bias": 0.1, "in_range": 1.0}
    return {
        "schema_version": 1,
        "basis": "modelled",
        "points": rows,
        "summary": {
            "groups": {
                "decode": {
                    "held_out": errors, "used": {**errors, "points": 1}, "target": 0.2, "met": True,
                }
            },
            "ladders": {"mlp": {"points": 3, "rank_correlation": 1.0, "met": True}},
        },
        "inputs": modelled_inputs(validation_files()),
    }  # fmt: skip


def _validated(number: int, used: str) -> Json:
    published = 20.0 * number
    return {
        "id": f"mlp-{number}", "group": "decode", "platform": "trn2", "program": "mlp",
        "arguments": {"hidden": 2048}, "unit": "us", "published": published,
        "modelled": spread(1.1 * published), "error": 1.1 * published / published - 1,
        "in_range": True, "used": used, "ladder": "mlp", "note": "", "source": "invented",
    }  # fmt: skip


def ladders() -> Json:
    """The file of the steps of tuning."""
    kernels = {
        kernel: {
            "workload": "a layer",
            "unit": "us per layer",
            "steps": _ladder(
                [(stage.name, name_of(tuned, given)) for stage, given in steps(tuned)]
            ),
        }
        for kernel, tuned in TUNED.items()
        if tuned.ladder
    }
    return {"schema_version": 1, "basis": "modelled", "kernels": kernels}


def _ladder(names: list[tuple[str, str]]) -> list[Json]:
    ladder, before = [], {"trn2": 0.0, "trn3": 0.0}
    for number, (step_name, variant) in enumerate(names):
        times = {
            p: 100.0 * speed / (1 + 0.2 * number) for p, speed in (("trn2", 1.0), ("trn3", 0.7))
        }
        gains = {p: before[p] - time if number else 0.0 for p, time in times.items()}
        ladder.append(
            {
                "step": step_name, "idea": "an idea", "change": {"buffers": number + 1},
                "variant": variant,
                "time_us": {p: spread(time) for p, time in times.items()}, "gain_us": gains,
            }
        )  # fmt: skip
        before = times
    return ladder


def section() -> Json:
    """What a record has of these files."""
    files = {platform: prediction(platform) for platform in ("trn2", "trn3")}
    for content in (*files.values(), checked := validation()):
        del content["schema_version"], content["inputs"]
    tuned = {name: value for name, value in ladders().items() if name != "schema_version"}
    return {"basis": "modelled", "predictions": files, "validation": checked, "ladders": tuned}
