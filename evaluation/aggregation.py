"""Collects evaluations, kernel tests and provenance into the results record.

Before anything enters the record it is compared with the sources, the model, the prompts and the
configuration as they are now (`evaluation.freshness`), and the record is validated before it is
returned: what cannot be trusted is named, with what to run again.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.artefact import VARIANTS
from evaluation.benchmark import summarise_ms
from evaluation.device_record import add_device_figures, device_launches, kernel_path
from evaluation.files import read_json, sha256_file, sha256_json
from evaluation.freshness import (
    Present,
    ResultFile,
    StaleInput,
    read_results,
    stale_artefacts,
    stale_checks,
    stale_evaluations,
    stale_kernel_tests,
)
from evaluation.migration import SCHEMA_VERSION
from evaluation.modelled import modelled, stale_modelled
from evaluation.prompts import load_prompts
from evaluation.provenance import REPOSITORY, git_state, variant_sources
from evaluation.records import RecordError, validate
from evaluation.scoring import CURRENT_FORMULA, load_baselines
from evaluation.shapes import Architecture
from kernels.specs import SPECS, KernelSpec
from model import manifest as checkpoint

COMPETITION = "AWS Trainium2/3 MoE Kernel Challenge - MLSys 2026"
BASELINES_FILE = REPOSITORY / "config" / "baselines.yaml"

OPTIMIZATION_TECHNIQUES = (
    "A decode step is one launch for all layers and one for the LM head; the residual stays on "
    "chip, and the next layer's weights come in while a layer works",
    "Decode keeps activations as columns, so that no transpose stands between two products; "
    "weights are packed once, at load, in the order in which they are read",
    "Only the chosen experts' weights are read, by dynamic address, several experts ahead",
    "New keys and values take part in attention from on-chip memory; caches are written last",
    "The LM head chooses the token on chip",
    "A prompt's tokens are grouped by expert on chip, in blocks whose number follows the routing",
    "Blockwise causal attention with online softmax; blocks in the future are never touched",
    "Work is shared by two cores without branches",
    "Sums and statistics in fp32; a second rounding schedule follows the unfused model",
    "Small kernels keep more than one lane busy in decode by cutting a row over partitions",
)
"""What the kernels do, as the submission's file lists it."""

NO_DEVICE = "no Trainium device took part: the kernels ran on a simulator, which has no latency"
_ABSENT = {
    "neuron_sdk_version": "no Neuron SDK took part: the kernels ran on this project's simulator",
    "summary.baseline_total_score": NO_DEVICE,
    "summary.nki_total_score": NO_DEVICE,
    "summary.improvement_percent": NO_DEVICE,
    "summary.nki_flops_ratio": "it is read from the compiled graphs of a device build",
    **{
        f"per_prompt_results[*].{side}.{figure}": NO_DEVICE
        for side in VARIANTS
        for figure in ("latency_ms", "throughput_tok_s", "score")
    },
    "per_prompt_results[*].improvement_percent": NO_DEVICE,
}


def aggregate(
    config: Mapping[str, Any],
    prompts: Path,
    evaluations: Sequence[Path],
    checks: Sequence[Path],
    artefacts: Sequence[Path],
    kernel_tests: Sequence[Path],
    predictions: Sequence[Path],
    validation: Path,
    ladder: Path,
    model_manifest: Path,
) -> dict[str, Any]:
    """Return the record of a build, on the simulator or on a device, fresh and valid.

    `config` is the configuration; the paths are the files that the other steps made. Raises
    StaleInput for files that do not belong together or to the present sources, ManifestError for a
    model manifest that cannot be read, and RecordError should the record not pass its own
    validation.
    """
    if config["backend"] not in ("simulator", "neuron"):
        raise ValueError(f"backend {config['backend']!r}: nothing here evaluates on it")
    manifest = ResultFile(model_manifest, checkpoint.read(model_manifest))
    present = Present(
        config,
        load_prompts(prompts),
        manifest.content["sha256"],
        {variant: variant_sources(variant, config["backend"]) for variant in VARIANTS},
    )
    results = read_results(evaluations)
    checked = read_results(checks)
    compiled = read_results(artefacts)
    tests = read_results(kernel_tests)
    predicted = read_results(predictions)
    validated, tuned = read_results([validation, ladder])
    problems = [
        *stale_artefacts(compiled, present),
        *stale_evaluations(results, compiled, present),
        *stale_checks(checked, present),
        *stale_kernel_tests(tests, list(SPECS)),
        *stale_modelled(predicted, validated, tuned),
        *_foreign_architecture(config, manifest),
    ]
    if problems:
        raise StaleInput(problems)
    record = _record(present, prompts, results, checked, compiled, tests, manifest)
    provenance = record.pop("provenance")
    provenance["results"] |= _hashes([*predicted, validated, tuned], manifest)
    record |= {"modelled": modelled(predicted, validated, tuned), "provenance": provenance}
    invalid = validate(record)
    if invalid:
        raise RecordError("the new record", invalid)
    return record


def _record(
    present: Present,
    prompts: Path,
    results: Sequence[ResultFile],
    checked: Sequence[ResultFile],
    compiled: Sequence[ResultFile],
    tests: Sequence[ResultFile],
    manifest: ResultFile,
) -> dict[str, Any]:
    config = present.config
    by_variant = {
        variant: sorted(
            (r.content for r in results if r.content["variant"] == variant),
            key=lambda evaluation: int(evaluation["prompt"]["id"]),
        )
        for variant in VARIANTS
    }
    baselines = load_baselines(BASELINES_FILE, config["platform_target"])
    architecture = _architecture(config)
    on_device = config["backend"] == "neuron"
    record = {
        "schema_version": SCHEMA_VERSION,
        "competition": COMPETITION,
        "model": _model_name(manifest.content["source"], architecture),
        "hardware": "CPU, kernels simulated (no Trainium)",
        "timestamp": max(result.content["evaluated_at"] for result in results),
        "team": dict(config["team"]),
        "backend": config["backend"],
        "platform_target": config["platform_target"],
        "summary": _summary(by_variant["nki"]),
        "scoring_formula": CURRENT_FORMULA.text,
        "score_baselines": baselines.to_record(),
        "per_prompt_results": [
            _prompt_result(*pair)
            for pair in zip(by_variant["baseline"], by_variant["nki"], strict=True)
        ],
        "path_checks": [_path_check(file.content) for file in checked],
        "nki_kernels_implemented": _kernels(
            tests, by_variant["nki"], [file.content for file in checked], architecture
        ),
        "optimization_techniques": list(OPTIMIZATION_TECHNIQUES),
        "test_configuration": _test_configuration(present, architecture),
        "absent": [] if on_device else [{"key": k, "reason": why} for k, why in _ABSENT.items()],
        "fallbacks": _fallbacks([*by_variant["nki"], *(file.content for file in checked)]),
        "provenance": _provenance(present, prompts, results, compiled, manifest)
        | {"results": _hashes([*results, *checked, *compiled, *tests], manifest)},
    }
    if on_device:
        add_device_figures(record, by_variant, baselines)
    return record


def _provenance(
    present: Present,
    prompts: Path,
    results: Sequence[ResultFile],
    compiled: Sequence[ResultFile],
    manifest: ResultFile,
) -> dict[str, Any]:
    """Return the sources as they are now, and the packages and machine of the evaluations."""
    ran_on = results[0].content["provenance"]
    return {
        **git_state(),
        "config": dict(present.config),
        "config_sha256": sha256_json(present.config),
        "model": {
            "source": manifest.content["source"],
            "manifest_sha256": manifest.content["sha256"],
            "files": manifest.content["files"],
        },
        "kernels": present.sources["nki"]["kernels"],
        "model_code": _merged(present.sources[v]["model_code"] for v in VARIANTS),
        "prompts_sha256": sha256_file(prompts),
        "artefacts": {file.content["variant"]: file.content["key"] for file in compiled},
        "versions": ran_on["versions"],
        "machine": ran_on["machine"],
    }


def _hashes(files: Sequence[ResultFile], manifest: ResultFile) -> dict[str, str]:
    """Return {path below the folder of results: SHA-256} of what the record is made from."""
    folder = manifest.path.resolve().parent
    return {
        f"results/{os.path.relpath(file.path.resolve(), folder)}": sha256_file(file.path)
        for file in sorted([*files, manifest], key=lambda file: file.path)
    }


def _summary(evaluations: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    reports = [evaluation["accuracy"] for evaluation in evaluations]
    passed = sum(report["passed"] for report in reports)
    return {
        "accuracy": passed / len(reports),
        "prompts_passed": passed,
        "prompts_total": len(reports),
        "tokens_checked": sum(report["tokens_checked"] for report in reports),
        "tokens_equal": sum(report["tokens_equal"] for report in reports),
    }


def _prompt_result(baseline: Mapping[str, Any], nki: Mapping[str, Any]) -> dict[str, Any]:
    prompt = nki["prompt"]
    return {
        "prompt_id": prompt["id"],
        "name": prompt["name"],
        "input_tokens": prompt["input_tokens"],
        "output_tokens": prompt["output_tokens"],
        "baseline": {"host_time": host_time(baseline["host_time"])},
        "nki": {
            "host_time": host_time(nki["host_time"]),
            **_proof(nki),
        },
    }


def _proof(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """Return what shows that a run with kernels is right, and that the kernels did the work.

    Of a device's run only the accuracy is known: its ratio comes from the compiled graphs.
    """
    accuracy = {"accuracy": {"basis": "measured", **evaluation["accuracy"]}}
    if evaluation["backend"] == "neuron":
        return accuracy
    return {
        "kernel_path": evaluation["kernel_path"],
        **accuracy,
        "drift": {"basis": "measured", "layers": evaluation["drift"]},
        "coverage": {"basis": "counted", **evaluation["coverage"]},
    }


def _path_check(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    prompt = evaluation["prompt"]
    return {
        "dtype": evaluation["settings"]["dtype"],
        "prompt_id": prompt["id"],
        "input_tokens": prompt["input_tokens"],
        "output_tokens": prompt["output_tokens"],
        **_proof(evaluation),
    }


def host_time(measured: Mapping[str, Any]) -> dict[str, Any]:
    """Return samples in milliseconds with their statistics, from samples in seconds."""
    end_to_end = [1e3 * seconds for seconds in measured["end_to_end_s"]]
    encoding = [1e3 * seconds for seconds in measured["context_encoding_s"]]
    generation = [1e3 * float(np.mean(steps)) for steps in measured["token_generation_s"]]
    statistics = summarise_ms(end_to_end)
    return {
        "basis": measured["basis"],
        "what": measured["what"],
        "samples_ms": end_to_end,
        "mean_ms": statistics.mean_ms,
        "p50_ms": statistics.p50_ms,
        "p99_ms": statistics.p99_ms,
        "context_encoding_samples_ms": encoding,
        "context_encoding_mean_ms": summarise_ms(encoding).mean_ms,
        "token_generation_samples_ms": generation,
        "token_generation_mean_ms": summarise_ms(generation).mean_ms,
    }


def _kernels(
    tests: Sequence[ResultFile],
    evaluations: Sequence[Mapping[str, Any]],
    checks: Sequence[Mapping[str, Any]],
    architecture: Mapping[str, Any],
) -> list[dict[str, Any]]:
    tested = _merged(file.content["kernels"] for file in tests)
    first = evaluations[0]
    if first["backend"] == "neuron":
        launches = device_launches(first, architecture)
        runs: list[Mapping[str, Any]] = [
            {**first, "kernel_path": kernel_path(first), "launches": launches}
        ]
    elif any(evaluation["launches"] != first["launches"] for evaluation in evaluations):
        raise StaleInput(["the evaluations counted different launches; evaluate nki again"])
    else:
        runs = [first, *checks]
    return [_kernel(spec, tested[name], _run_of(name, runs)) for name, spec in SPECS.items()]


def _run_of(kernel: str, runs: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the first run that launched a kernel; the evaluation, if none did."""
    for run in runs:
        if any(run["launches"][phase].get(kernel) for phase in ("prefill", "decode_step")):
            return run
    return runs[0]


def _kernel(spec: KernelSpec, tested: Mapping[str, Any], run: Mapping[str, Any]) -> dict[str, Any]:
    launches = run["launches"]
    errors = {dtype: tested[dtype] for dtype in ("float32", "bfloat16") if dtype in tested}
    return {
        "name": spec.title,
        "file": spec.file,
        "description": spec.description,
        "tile_size": spec.tile_size,
        "validation_max_diff": tested["float32"]["max_abs_error"],
        "kernel": spec.name,
        "function": spec.function,
        "validation": {
            "basis": "measured",
            "on": "nki_sim",
            **errors,
            "refusals": tested["refusals"],
        },
        "launches": {
            "kernel_path": run["kernel_path"],
            "dtype": run["settings"]["dtype"],
            "prefill": launches["prefill"].get(spec.name, 0),
            "prefill_expected": launches["expected_prefill"].get(spec.name, 0),
            "decode_step": launches["decode_step"].get(spec.name, 0),
            "decode_step_expected": launches["expected_decode_step"].get(spec.name, 0),
        },
        "cost": {"basis": "counted", "dtype": "float32", **tested["cost"]},
    }


def _fallbacks(evaluations: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Return each fallback once, in the order of its first occurrence."""
    found = [(f["kernel"], f["reason"]) for e in evaluations for f in e["fallbacks"]]
    return [{"kernel": kernel, "reason": reason} for kernel, reason in dict.fromkeys(found)]


def _architecture(config: Mapping[str, Any]) -> dict[str, Any]:
    content: dict[str, Any] = read_json(Path(config["model"]["path"]) / "config.json")
    return content


def _foreign_architecture(config: Mapping[str, Any], manifest: ResultFile) -> list[str]:
    path = Path(config["model"]["path"]) / "config.json"
    expected = manifest.content["files"].get("config.json", {}).get("sha256")
    if path.is_file() and sha256_file(path) == expected:
        return []
    return [f"{path}: not the file of {manifest.path}; fetch or make the model again"]


def _model_name(source: Mapping[str, Any], architecture: Mapping[str, Any]) -> str:
    if "repo_id" in source:
        return str(source["repo_id"])
    layers, experts = architecture["num_hidden_layers"], architecture["num_experts"]
    return f"tiny Qwen3-MoE ({layers} layers, {experts} experts)"


def _test_configuration(present: Present, architecture: Mapping[str, Any]) -> dict[str, Any]:
    settings = present.settings
    return {
        "warmup_iterations": settings["warmup_runs"],
        "test_iterations": settings["timed_runs"],
        "batch_size": 1,
        "num_experts": architecture["num_experts"],
        "active_experts_per_token": architecture["num_experts_per_tok"],
        "num_layers": architecture["num_hidden_layers"],
        "sequence_length": settings["sequence_length"],
        "max_new_tokens": settings["max_new_tokens"],
        "dtype": settings["dtype"],
        "kernel_path": present.config["model"]["kernel_path"],
        "architecture": asdict(Architecture.from_config(architecture)),
        "seed": settings["seed"],
    }


def _merged(parts: Any) -> dict[str, Any]:
    return {key: value for part in parts for key, value in sorted(part.items())}
