"""What the report derives from the record's modelled times."""

from __future__ import annotations

from typing import Any

from report.fields import Fields
from report.trace import count

PLATFORMS = ("trn2", "trn3")
PATHS = ("fused", "layered")
TRACKS = {
    "tensor": "PE", "vector": "VE", "scalar": "ACT", "gpsimd": "Pool", "sync": "SP",
    "meeting": "waiting", "DMA issue": "DMA issue", "DMA": "DMA",
}  # fmt: skip
"""Rows of a timeline by their names in a record, with the hardware's short names."""

_HOST = ("host_launch", "host_loop")
_SUMS = "all_reduce"


def final_step(record: Fields, platform: str, path: str) -> Fields:
    """Return the decode step at the largest bucket."""
    step: Fields = record["modelled"]["predictions"][platform]["paths"][path]["decode"][-1]
    return step


def token_parts(step: Fields) -> dict[str, float]:
    """Return a step's nominal time in us by what it is spent on; the parts add up to the total.

    Kernels' time is parted into what their bytes take at HBM's full rate, and the rest.
    """
    names = "HBM", "kernels beyond HBM", "sums over ranks", "other", "host"
    parts = dict.fromkeys(names, 0.0)
    for term in step["terms"]:
        time_us = term["time_us"]["nominal"]
        if "hbm_us" in term:
            parts["HBM"] += term["hbm_us"]
            parts["kernels beyond HBM"] += time_us - term["hbm_us"]
        elif term["name"] == _SUMS:
            parts["sums over ranks"] += time_us
        elif term["name"] in _HOST:
            parts["host"] += time_us
        else:
            parts["other"] += time_us
    return parts


def prompt_label(record: Fields, prompt: Fields) -> str:
    """Return the name of a prompt that was evaluated here, else its number."""
    number = prompt["prompt_id"]
    names = [p["name"] for p in record["per_prompt_results"] if p["prompt_id"] == number]
    return names[0] if names else f"prompt {number}"


def modelled_facts(record: Fields) -> dict[str, Any]:
    """Return what the template says of the modelled times; nothing when the record has none."""
    if "modelled" not in record:
        return {"modelled": None}
    predictions, validation = record["modelled"]["predictions"], record["modelled"]["validation"]
    groups = validation["summary"]["groups"]
    ladders = validation["summary"]["ladders"]
    return {
        "modelled": {
            "platforms": {platform: _platform(record, platform) for platform in PLATFORMS},
            "ranks": predictions["trn2"]["ranks"],
            "cores": predictions["trn2"]["cores_per_rank"],
            "prompts": [
                (prompt_label(record, prompt), prompt, _on_both(predictions, index))
                for index, prompt in enumerate(predictions["trn2"]["paths"]["fused"]["prompts"])
            ],
            "buckets": [step["bucket"] for step in predictions["trn2"]["prefill"]],
            "groups": {name: one for name, one in groups.items() if one["held_out"]["points"]},
            "ladders": _ladders(record["modelled"]["ladders"]["kernels"]),
            "points": count(validation["points"]),
            "held_out": count([point for point in validation["points"] if not point["used"]]),
            "missed": [name for name, group in groups.items() if group["met"] is False],
            "rankings": list(ladders.values()),
            "ladders_met": [one for one in ladders.values() if one["met"]],
            "ladders_missed": [(name, one) for name, one in ladders.items() if not one["met"]],
        }
    }


def _ladders(kernels: Fields) -> list[dict[str, Any]]:
    """Return each kernel's steps, and per platform its speedup and the step that gained most."""
    return [
        {
            "kernel": kernel,
            "steps": found["steps"],
            "workload": found["workload"],
            "speedup": {p: _nominal(found, 0, p) / _nominal(found, -1, p) for p in PLATFORMS},
            "best": {p: max(found["steps"], key=lambda s: s["gain_us"][p]) for p in PLATFORMS},
            "idle": [s for s in found["steps"][1:] if max(s["gain_us"].values()) <= 0],
        }
        for kernel, found in kernels.items()
    ]


def _nominal(found: Fields, step: int, platform: str) -> float:
    nominal: float = found["steps"][step]["time_us"][platform]["nominal"]
    return nominal


def _on_both(predictions: Fields, index: int) -> list[Fields]:
    return [predictions[platform]["paths"]["fused"]["prompts"][index] for platform in PLATFORMS]


def _platform(record: Fields, platform: str) -> dict[str, Any]:
    """Return one platform's figures, times in us, and what its steps consist of."""
    prediction = record["modelled"]["predictions"][platform]
    fused = final_step(record, platform, "fused")
    prefill, padded = prediction["prefill"][0], prediction["padded_baseline"]["buckets"][0]
    return {
        "prediction": prediction,
        "fused": fused,
        "layered": final_step(record, platform, "layered"),
        "device_us": fused["device_us"]["nominal"],
        "device_ratio": prediction["paths"]["fused"]["device_bound_ratio"],
        "parts": token_parts(fused),
        "prefill": prefill,
        "experts_share": _share(prefill, "experts"),
        "padded": padded,
        "published_times": 1e3 * prediction["padded_baseline"]["published_intercept_ms"]
        / prefill["total_us"]["nominal"],
        "layered_score": prediction["paths"]["layered"]["total_score"],
        "total_score": prediction["paths"]["fused"]["total_score"],
        "hbm_limited": [
            point["kernel"] for point in prediction["roofline"]["points"] if point["kind"] == "HBM"
        ],
    }  # fmt: skip


def _share(step: Fields, name: str) -> float:
    """Return a term's share of a step's nominal time."""
    share: float = (
        sum(t["time_us"]["nominal"] for t in step["terms"] if t["name"] == name)
        / step["total_us"]["nominal"]
    )
    return share
