"""The results as tables: rows derived from the results record alone.

A table is a list of rows, each {column: value}; a quantity's column ends in its unit. Measured,
counted, modelled and published values never share a column; the basis stands with the caption.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from report.device import SIDES, against_modelled, device_facts
from report.facts import (
    PHASES,
    accuracy_of,
    engines,
    facts,
    families,
    runs,
    top_k_entry,
    top_k_keys,
    total_useful_macs,
    work,
)
from report.fields import Fields
from report.modelled_tables import (
    Row,
    assumptions,
    modelled_prompts,
    modelled_steps,
    roofline,
    token_time,
    tuning_ladder,
    validation,
)

SIMULATORS = ("simulator", "neuron-simulator")
DEVICES = ("neuron",)


def prompts(record: Fields) -> list[Row]:
    """Return what became of each prompt: tokens, the accuracy rule, errors and margins."""
    keys = top_k_keys(record)
    rows = []
    for prompt in record["per_prompt_results"]:
        accuracy = accuracy_of(prompt)
        entries = [top_k_entry(prompt, key) for key in keys]
        rows.append(
            _prompt(prompt)
            | {
                "input_tokens": prompt["input_tokens"],
                "output_tokens": prompt["output_tokens"],
                "passed": accuracy["passed"],
                "checked_tokens": accuracy["tokens_checked"],
                "equal_tokens": accuracy["tokens_equal"],
                "worst_fraction_of_tolerance": max(e["fraction_of_tolerance"] for e in entries),
                "largest_error_logits": accuracy["max_abs_logit_error"],
                "smallest_gap_logits": accuracy["smallest_baseline_gap"],
                "divergences": len(accuracy["divergences"]),
            }
        )
    return rows


def tolerances(record: Fields) -> list[Row]:
    """Return the worst error of each prompt in each set of most likely tokens, with its limit."""
    names = (
        "absolute_tolerance", "relative_tolerance", "worst_relative_error",
        "allowed_relative_error", "fraction_of_tolerance", "passed",
    )  # fmt: skip
    return [
        _prompt(prompt) | {"set": key, "set_tokens": entry["k"]} | {n: entry[n] for n in names}
        for prompt in record["per_prompt_results"]
        for key in top_k_keys(record)
        for entry in [top_k_entry(prompt, key)]
    ]


def paths(record: Fields) -> list[Row]:
    """Return the evaluation and the short runs by other kernel paths and types, one row each."""
    return [
        {
            "kernel_path": run["kernel_path"],
            "dtype": run["dtype"],
            "prompts": len(run["results"]),
            "passed": run["passed"],
            "checked_tokens": run["tokens_checked"],
            "equal_tokens": run["tokens_equal"],
            "worst_fraction_of_tolerance": run["fraction"],
            "largest_error_logits": run["logit_error"],
            "largest_relative_drift": run["drift"],
            "largest_drift_ulps": run["ulps"],
        }
        for run in facts(record)["runs"]
    ]


def drift(record: Fields) -> list[Row]:
    """Return how far the hidden state is from the baseline's after each layer of each run."""
    return [
        {
            "kernel_path": path,
            "dtype": dtype,
            "prompt_id": prompt_id,
            "phase": layer["phase"],
            "layer": layer["layer"],
            "relative_drift": layer["relative"],
            "largest_drift_ulps": layer["largest_ulps"],
        }
        for path, dtype, prompt_id, result in _results(record)
        for layer in result["drift"]["layers"]
    ]


def coverage(record: Fields) -> list[Row]:
    """Return the MACs that the model needs, and how many of them the kernels carried out."""
    return [
        {
            "kernel_path": path,
            "dtype": dtype,
            "prompt_id": prompt_id,
            "phase": phase,
            "tokens": found["tokens"],
            "padded_tokens": found["padded_tokens"],
            "useful_macs": total_useful_macs(found),
            "counted_macs": sum(found["counted_macs"].values()),
            "useful_share": found["useful_share"],
            "useful_share_of_layers": found["useful_share_of_layers"],
            "issued_share": found["issued_share"],
            "counted_over_useful": found["overhead"],
        }
        for path, dtype, prompt_id, result in _results(record)
        for phase in PHASES
        for found in [result["coverage"][phase]]
    ]


def kernel_errors(record: Fields) -> list[Row]:
    """Return each kernel's largest error against its oracle, by type."""
    return [
        kernel
        | {
            "file": entry["file"],
            "validated_on": validation["on"],
            "dtype": dtype,
            "cases": found["cases"],
            "largest_error": found["max_abs_error"],
            "largest_error_ulps": found["max_ulp_error"],
        }
        for kernel, entry in _kernels(record)
        for validation in [entry["validation"]]
        for dtype, found in validation.items()
        if isinstance(found, dict)
    ]


def launches(record: Fields) -> list[Row]:
    """Return each kernel's launches in a prefill and a decode step, counted and expected."""
    return [
        kernel
        | {
            "kernel_path": found["kernel_path"],
            "prefill_launches": found["prefill"],
            "prefill_expected_launches": found["prefill_expected"],
            "decode_step_launches": found["decode_step"],
            "decode_step_expected_launches": found["decode_step_expected"],
        }
        for kernel, entry in _kernels(record)
        for found in [entry["launches"]]
    ]


def kernel_work(record: Fields) -> list[Row]:
    """Return what one launch of each kernel costs at the shapes of the record."""
    rows, used = [], engines(record)
    for kernel, entry in _kernels(record):
        cost, done = entry["cost"], work(entry["cost"])
        shapes = (f"{name} {'x'.join(map(str, shape))}" for name, shape in cost["shapes"].items())
        rows.append(
            kernel
            | {
                "dtype": cost["dtype"],
                "macs": cost["macs"],
                "hbm_read_bytes": cost["hbm_read_bytes"],
                "hbm_write_bytes": cost["hbm_write_bytes"],
                "macs_per_hbm_byte": done.macs_per_byte,
                "read_over_input": done.read_factor,
                "sbuf_peak_bytes_per_partition": cost["sbuf_peak_bytes_per_partition"],
                "psum_peak_banks": cost["psum_peak_banks"],
            }
            | {f"{name}_instructions": cost["instructions"].get(name, 0) for name in used}
            | {"shapes": ", ".join(shapes)}
        )
    return rows


def device_times(record: Fields) -> list[Row]:
    """Return latency, throughput and score of each prompt and side, with bootstrap intervals."""
    found = record["statistics"]["per_prompt"] if "statistics" in record else []
    known = {entry["prompt_id"]: entry for entry in found}
    return [
        _prompt(prompt)
        | {
            "side": side,
            "runs": len(prompt[side]["latency"]["samples_ms"]),
            "latency_p99_ms": prompt[side]["latency_ms"],
            "throughput_tok_s": prompt[side]["throughput_tok_s"],
            "score": prompt[side]["score"],
        }
        | _intervals(known[prompt["prompt_id"]][side] if prompt["prompt_id"] in known else {})
        for prompt in record["per_prompt_results"]
        for side in SIDES
    ]


def device_comparison(record: Fields) -> list[Row]:
    """Return how much faster each prompt is with kernels on one machine, and all together."""
    comparison = record["statistics"].get("comparison") if "statistics" in record else None
    if comparison is None:
        return []
    names = {prompt["prompt_id"]: prompt["name"] for prompt in record["per_prompt_results"]}
    rows = [
        {"prompt_id": prompt_id, "prompt": names[prompt_id], "speedup": entry["speedup"]}
        | _ends("speedup", entry["speedup_interval"])
        | {"latency_ratio": entry["latency_ratio"]}
        | _ends("latency_ratio", entry["latency_ratio_interval"])
        | {"share_of_pairs_faster": entry["share_of_pairs_faster"]}
        for entry in comparison["per_prompt"]
        for prompt_id in [entry["prompt_id"]]
    ]
    mean = {"prompt": "geometric mean", "speedup": comparison["geometric_mean_speedup"]}
    return [*rows, mean | _ends("speedup", comparison["geometric_mean_speedup_interval"])]


def device_phases(record: Fields) -> list[Row]:
    """Return the parts of a run's mean time: in the graphs and outside of them."""
    return [
        _prompt(prompt) | {"side": side} | parts
        for prompt, both in device_facts(record)["phases_of_runs"]
        for side, parts in zip(SIDES, both, strict=True)
    ]


def device_against_modelled(record: Fields) -> list[Row]:
    """Return measured and modelled latency of each prompt, where what was modelled ran here."""
    return [
        _prompt(one["prompt"])
        | {"measured_median_ms": one["measured_ms"]}
        | {f"modelled_{end}_ms": one["modelled_ms"][end] for end in ("low", "nominal", "high")}
        | {"modelled_over_measured": one["ratio"], "inside_range": one["inside"]}
        for one in against_modelled(record)
    ]


def baselines(record: Fields) -> list[Row]:
    """Return the published values that scores divide by."""
    found = record["score_baselines"]
    return [
        {
            "platform": found["platform"],
            "prompt_id": entry["prompt_id"],
            "latency_ms": entry["latency_ms"],
            "throughput_tok_s": entry["throughput_tok_s"],
            "source": found["source"],
        }
        for entry in found["per_prompt"]
    ]


def absent(record: Fields) -> list[Row]:
    """Return what the record does not hold, and why."""
    return [{"key": entry["key"], "reason": entry["reason"]} for entry in record["absent"]]


def provenance(record: Fields) -> list[Row]:
    """Return what was run on what: keys of the record and their values, hashes among them."""
    root = {key: value for key, value in record.items() if not isinstance(value, dict | list)}
    parts = {key: record[key] for key in ("team", "test_configuration", "fallbacks", "provenance")}
    return [
        {"key": key, "value": value if isinstance(value, str) else json.dumps(value)}
        for key, value in _leaves(root | parts)
    ]


TABLES: dict[str, Callable[[Fields], list[Row]]] = {
    "prompts": prompts,
    "tolerances": tolerances,
    "paths": paths,
    "drift": drift,
    "kernel_errors": kernel_errors,
    "device_times": device_times,
    "device_comparison": device_comparison,
    "device_phases": device_phases,
    "device_against_modelled": device_against_modelled,
    "launches": launches,
    "kernel_work": kernel_work,
    "coverage": coverage,
    "modelled_steps": modelled_steps,
    "modelled_prompts": modelled_prompts,
    "token_time": token_time,
    "tuning_ladder": tuning_ladder,
    "roofline": roofline,
    "validation": validation,
    "assumptions": assumptions,
    "baselines": baselines,
    "absent": absent,
    "provenance": provenance,
}
"""Every table by name; the files are called after it."""

_ONLY_ON = {
    "paths": SIMULATORS,
    "drift": SIMULATORS,
    "coverage": SIMULATORS,
    "device_times": DEVICES,
    "device_comparison": DEVICES,
    "device_phases": DEVICES,
    "device_against_modelled": DEVICES,
}
"""Tables of what only some backends tell."""


def tables_of(backend: str) -> list[str]:
    """Return the names of the tables that a run on `backend` has, in the order of `TABLES`."""
    return [name for name in TABLES if backend in _ONLY_ON.get(name, (*SIMULATORS, *DEVICES))]


def _prompt(prompt: Fields) -> Row:
    return {"prompt_id": prompt["prompt_id"], "prompt": prompt["name"]}


def _results(record: Fields) -> Iterator[tuple[str, str, int, Fields]]:
    """Yield (kernel path, dtype, prompt, result) of the evaluation and of each shorter run."""
    evaluated = [prompt["prompt_id"] for prompt in record["per_prompt_results"]]
    for index, (path, dtype, results) in enumerate(runs(record)):
        ids = evaluated if index == 0 else [result["prompt_id"] for result in results]
        for prompt_id, result in zip(ids, results, strict=True):
            yield path, dtype, prompt_id, result


def _kernels(record: Fields) -> Iterator[tuple[Row, Fields]]:
    """Yield what names a kernel in a table, and its entry in the record."""
    for family, members in families(record["nki_kernels_implemented"]):
        for entry in members:
            yield {"family": family, "kernel": entry["kernel"]}, entry


def _ends(name: str, interval: list[float], unit: str = "") -> Row:
    ending = f"_{unit}" if unit else ""
    return {f"{name}_{end}{ending}": v for end, v in zip(("from", "to"), interval, strict=True)}


def _intervals(found: Mapping[str, Any]) -> Row:
    """Return the median and the intervals of one side of a prompt; nothing where there are none."""
    if not found:
        return {}
    return {
        "latency_median_ms": found["median_ms"],
        **_ends("latency_p99", found["latency_interval_ms"], "ms"),
        **_ends("throughput", found["throughput_interval_tok_s"], "tok_s"),
        **_ends("score", found["score_interval"]),
    }


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (key, value) of every scalar below a JSON value; keys as `--explain` takes them."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves(inner, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _leaves(inner, f"{path}[{index}]")
    else:
        yield path, value
