"""What the report derives from the times of a device."""

from __future__ import annotations

from typing import Any

from report.fields import Fields
from report.modelled import PLATFORMS

SIDES = ("baseline", "nki")
_MODELLED_PATH = "layered"
"""The modelled path that NxD Inference can launch."""


def device_facts(record: Fields) -> dict[str, Any]:
    """Return what only a run on a device can tell: gains and losses, phases, the model's error."""
    prompts = record["per_prompt_results"]
    changes = [(p["improvement_percent"], p) for p in prompts if "improvement_percent" in p]
    timed = all("host_time" in prompt[side] for prompt in prompts for side in SIDES)
    phases = [(p, [_phases(p, side) for side in SIDES]) for p in prompts] if timed else []
    return {
        "gains": [prompt for change, prompt in changes if change > 0],
        "losses": [prompt for change, prompt in changes if change < 0],
        "intervals": {
            row["prompt_id"]: row
            for row in (record["statistics"]["per_prompt"] if "statistics" in record else [])
        },
        "phases_of_runs": phases,
        "host_percent": [
            sorted(100 * both[side]["host_share"] for _prompt, both in phases) for side in range(2)
        ],
        "against_modelled": against_modelled(record),
    }


def _phases(prompt: Fields, side: str) -> dict[str, float]:
    """Return the mean times in ms of a prompt's runs: in the two graphs, and outside of them.

    The first token comes from the prefill, each further one from a decode step. What the end-to-end
    time holds beside the graphs is the host's, per token.
    """
    host, tokens = prompt[side]["host_time"], prompt["output_tokens"]
    prefill_ms, step_ms = host["context_encoding_mean_ms"], host["token_generation_mean_ms"]
    outside_ms = host["mean_ms"] - prefill_ms - (tokens - 1) * step_ms
    return {
        "prefill_ms": prefill_ms,
        "step_ms": step_ms,
        "host_ms_per_token": outside_ms / tokens,
        "host_share": outside_ms / host["mean_ms"],
    }


def against_modelled(record: Fields) -> list[dict[str, Any]]:
    """Return what was modelled of each prompt beside the median that was measured here.

    Empty unless this run is what was modelled: the same model, type and ranks, by the layered path,
    over the whole window.
    """
    platform, run = record["platform_target"], record["test_configuration"]
    if record["backend"] != "neuron" or "modelled" not in record or platform not in PLATFORMS:
        return []
    prediction = record["modelled"]["predictions"][platform]
    ranks = record["provenance"]["config"].get("neuron", {}).get("tp_degree")
    path = record["nki_kernels_implemented"][0]["launches"]["kernel_path"]
    ran = (record["model"], run["dtype"], ranks, run["max_new_tokens"], path)
    if ran != (prediction["model"], prediction["dtype"], prediction["ranks"], None, _MODELLED_PATH):
        return []
    modelled = {p["prompt_id"]: p for p in prediction["paths"][_MODELLED_PATH]["prompts"]}
    return [
        {
            "prompt": prompt,
            "measured_ms": (measured := prompt["nki"]["host_time"]["p50_ms"]),
            "modelled_ms": (latency := modelled[prompt["prompt_id"]]["latency_ms"]),
            "ratio": latency["nominal"] / measured,
            "inside": latency["low"] <= measured <= latency["high"],
        }
        for prompt in record["per_prompt_results"]
        if prompt["prompt_id"] in modelled and "host_time" in prompt["nki"]
    ]
