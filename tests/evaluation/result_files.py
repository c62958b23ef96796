"""A set of result files that fit together, with invented figures, for tests of the record."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.accuracy import compare_logits
from evaluation.aggregation import aggregate, host_time
from evaluation.artefact import VARIANTS, CompileSettings, artefact_inputs
from evaluation.checks import CHECKED_PROMPT, CHECKED_TOKENS, Check, path_checks
from evaluation.coverage import coverage, useful_macs
from evaluation.device_record import RATIOS
from evaluation.drift import drift
from evaluation.files import read_json, sha256_file, sha256_json, write_json
from evaluation.prompts import Prompt, load_prompts
from evaluation.provenance import kernel_test_inputs, variant_sources
from evaluation.shapes import Architecture
from evaluation.uncertainty import add_statistics
from kernels.specs import SPECS
from model.plan import expected_launches
from model.tiny import CONFIG
from tests import modelled_sample

SETTINGS = {
    "sequence_length": 640, "max_new_tokens": 8, "warmup_runs": 1, "timed_runs": 3,
    "dtype": "float32", "seed": 0,
}  # fmt: skip
LAUNCHES = {name: 2 for name in SPECS}


@dataclass
class Results:
    """Paths of all result files below one folder, and the configuration that they follow."""

    folder: Path
    config: dict[str, Any]

    @property
    def model_manifest(self) -> Path:
        return self.folder / "model_manifest.json"

    def evaluation(self, variant: str, prompt: int) -> Path:
        return self.folder / "evaluations" / variant / f"prompt_{prompt}.json"

    def check(self, name: str) -> Path:
        return self.folder / "path_checks" / f"{name}.json"

    def artefact(self, variant: str) -> Path:
        return self.folder / "compiled" / variant / "manifest.json"

    def kernel_test(self, name: str) -> Path:
        return self.folder / "kernel_tests" / f"{name}.json"

    def prediction(self, platform: str) -> Path:
        return self.folder / "predictions" / f"{platform}.json"

    @property
    def validation(self) -> Path:
        return self.folder / "validation" / "latency.json"

    @property
    def ladder(self) -> Path:
        return self.folder / "tuning_ladder.json"

    def change(self, path: Path, keys: str, value: Any) -> None:
        """Set a value, by keys separated by ">", in one of the files; None deletes it."""
        content = read_json(path)
        *outer, last = keys.split(">")
        place = content
        for key in outer:
            place = place[key]
        if value is None:
            del place[last]
        else:
            place[last] = value
        write_json(path, content)

    def record(self, **changes: Any) -> dict[str, Any]:
        """Aggregate the files."""
        arguments: dict[str, Any] = {
            "config": self.config,
            "prompts": Path(self.config["evaluation"]["prompts"]),
            "evaluations": sorted(self.folder.glob("evaluations/*/*.json")),
            "checks": sorted(self.folder.glob("path_checks/*.json")),
            "artefacts": sorted(self.folder.glob("compiled/*/manifest.json")),
            "kernel_tests": sorted(self.folder.glob("kernel_tests/*.json")),
            "predictions": sorted(self.folder.glob("predictions/*.json")),
            "validation": self.validation,
            "ladder": self.ladder,
            "model_manifest": self.model_manifest,
        }
        return aggregate(**{**arguments, **changes})


def make(folder: Path, backend: str = "simulator") -> Results:
    """Write a complete set of files for two prompts."""
    prompts_file = folder / "prompts.txt"
    prompts_file.write_text("the first prompt\n\nthe second prompt\n")
    results = Results(folder, _config(folder, prompts_file) | {"backend": backend})
    write_json(folder / "model" / "config.json", CONFIG)
    files = {
        "config.json": {
            "sha256": sha256_file(folder / "model" / "config.json"),
            "size_bytes": (folder / "model" / "config.json").stat().st_size,
        }
    }
    manifest = {
        "schema_version": 1,
        "source": {"kind": "tiny", "seed": 0},
        "files": files,
        "sha256": sha256_json(files),
    }
    write_json(results.model_manifest, manifest)
    for name in SPECS:
        write_json(results.kernel_test(name), kernel_test(name))
    for platform in ("trn2", "trn3"):
        write_json(results.prediction(platform), modelled_sample.prediction(platform))
    write_json(results.validation, modelled_sample.validation())
    write_json(results.ladder, modelled_sample.ladders())
    for variant in VARIANTS:
        inputs = artefact_inputs(variant, manifest["sha256"], CompileSettings(backend))
        if backend == "neuron":
            inputs |= {"sdk": {"torch-neuronx": "2.9"}, "neuron_config": {"seq_len": 640}}
        artefact = {"schema_version": 1, "key": sha256_json(inputs), "variant": variant}
        write_json(results.artefact(variant), {**artefact, "inputs": inputs, "kernels": []})
        for prompt in load_prompts(prompts_file):
            evaluation = _evaluation(variant, prompt, manifest["sha256"], artefact["key"])
            if backend == "neuron":
                _make_measured(evaluation, CONFIG)
            write_json(results.evaluation(variant, prompt.id), evaluation)
    for check in path_checks(results.config):
        write_json(results.check(check.name), _check(check, prompts_file, manifest["sha256"]))
    return results


def _check(check: Check, prompts_file: Path, model: str) -> dict[str, Any]:
    settings = CompileSettings(dtype=check.torch_dtype)
    key = sha256_json(artefact_inputs("nki", model, settings))
    evaluation = _evaluation("nki", load_prompts(prompts_file)[CHECKED_PROMPT], model, key)
    evaluation["kernel_path"] = check.kernel_path
    evaluation["settings"] |= {
        "dtype": check.torch_dtype, "max_new_tokens": CHECKED_TOKENS, "warmup_runs": 0,
        "timed_runs": 1,
    }  # fmt: skip
    return evaluation


def _config(folder: Path, prompts_file: Path) -> dict[str, Any]:
    return {
        "team": {
            "name": "T", "members": ["A", "B"], "email": None, "team_id": None, "member_id": None,
        },
        "backend": "simulator",
        "platform_target": "trn2",
        "model": {
            "path": str(folder / "model"), "dtype": "float32", "kernel_path": "fused", "seed": 0,
        },
        "evaluation": {
            "prompts": str(prompts_file),
            **{key: value for key, value in SETTINGS.items() if key != "dtype"},
            "divergence_difference_tolerance": 0.001,
            "tolerance_map": {
                "all": [1e-5, 0.05], "1000": [1e-5, 0.03], "50": [1e-5, 0.03], "5": [1e-5, 0.03],
            },
        },
    }  # fmt: skip


def _evaluation(variant: str, prompt: Prompt, model: str, artefact_key: str) -> dict[str, Any]:
    rng = np.random.default_rng(prompt.id)
    expected = rng.normal(0, 5, (8, 100)).astype(np.float32)
    tokens = expected.argmax(axis=1)
    logits_sha256 = f"{prompt.id}" * 64
    evaluation: dict[str, Any] = {
        "schema_version": 1,
        "variant": variant,
        "backend": "simulator",
        "platform_target": "trn2",
        "evaluated_at": f"2026-05-0{prompt.id + 1}T10:00:00Z",
        "prompt": {
            "id": prompt.id, "name": prompt.name, "sha256": prompt.sha256,
            "input_tokens": 3, "output_tokens": 8,
        },
        "settings": dict(SETTINGS),
        "host_time": {
            "basis": "measured", "what": "wall time",
            "end_to_end_s": [1.0, 1.5, 1.25],
            "context_encoding_s": [0.25, 0.5, 0.25],
            "token_generation_s": [[0.1, 0.2], [0.3, 0.1], [0.2, 0.2]],
        },
        "tokens": tokens.tolist(),
        "text": "x",
        "inputs": {
            "model_manifest_sha256": model, "artefact_key": artefact_key,
            **variant_sources(variant),
        },
        "provenance": {
            "commit": None, "dirty": None, "versions": {"python": "3.11.7"},
            "machine": {"platform": "Linux x86_64", "cpu": "a CPU", "cores": 2},
        },
    }  # fmt: skip
    if variant == "baseline":
        evaluation["logits"] = {"file": f"prompt_{prompt.id}.npz", "sha256": logits_sha256}
        return evaluation
    noise = rng.normal(0, 1e-6, expected.shape).astype(np.float32)
    evaluation["accuracy"] = compare_logits(tokens, expected, expected + noise).to_dict()
    evaluation["launches"] = {
        phase: dict(LAUNCHES)
        for phase in ("prefill", "decode_step", "expected_prefill", "expected_decode_step")
    }
    evaluation["kernel_path"] = "fused"
    evaluation["coverage"] = _coverage()
    evaluation["drift"] = drift(np.ones((2, 2, 4)), np.full((2, 2, 4), 1.25), "float32")
    evaluation["fallbacks"] = []
    evaluation["inputs"]["baseline_logits_sha256"] = logits_sha256
    return evaluation


def _coverage() -> dict[str, Any]:
    useful = useful_macs(Architecture.from_config(CONFIG), 3)
    step = useful_macs(Architecture.from_config(CONFIG), 1, seen=3)
    return {
        "prefill": coverage(useful, {"qkv_prefill": 2 * useful["qkv"]}, 3, 128),
        "decode_step": coverage(step, {"decoder_stack": 2 * sum(step.values())}, 1, 1),
    }


def _make_measured(evaluation: dict[str, Any], architecture: dict[str, Any]) -> None:
    """Turn an evaluation of the simulator into one of a device."""
    variant = evaluation["variant"]
    evaluation["backend"] = "neuron"
    evaluation["inputs"] |= variant_sources(variant, "neuron")
    share = 0.25 if variant == "nki" else 0.0
    evaluation["mac_ratio"] = dict.fromkeys(RATIOS, share) | {"uncounted_calls": 0}
    evaluation["device"] = {
        "instance_type": "trn2.3xlarge", "neuron_devices": 1, "sdk_release": "2.29",
        "tp_degree": 4,
    }  # fmt: skip
    if variant == "nki":
        evaluation["launches"] = {"source": "graphs"} | {
            "prefill": expected_launches(architecture, "prefill", "layered"),
            "decode_step": expected_launches(architecture, "decode", "layered"),
        }
        for key in ("kernel_path", "coverage", "drift"):
            del evaluation[key]


def kernel_test(name: str) -> dict[str, Any]:
    """Return what the tests of one kernel would have left."""
    errors = {"cases": 3, "max_abs_error": 1e-7, "max_ulp_error": 2}
    result: dict[str, Any] = {"passed": True, "float32": errors, "bfloat16": dict(errors)}
    if "bfloat16" not in SPECS[name].dtypes:
        del result["bfloat16"]
    result["refusals"] = 4
    result["cost"] = {
        "shapes": {"x": [1, 8]}, "dtype": "float32", "instructions": {"vector": 3, "dma": 2},
        "macs": 0, "hbm_read_bytes": 32, "hbm_write_bytes": 32,
        "sbuf_peak_bytes_per_partition": 64, "psum_peak_banks": 0,
    }  # fmt: skip
    result["inputs"] = kernel_test_inputs(name)
    return {"schema_version": 1, "kernels": {name: result}}


def _timed(seconds: list[float]) -> dict[str, Any]:
    """The times of runs on a device as a record holds them."""
    return host_time(
        {
            "basis": "measured",
            "what": "runs on the device",
            "end_to_end_s": seconds,
            "context_encoding_s": [0.1 * run for run in seconds],
            "token_generation_s": [[0.002 * run] * 5 for run in seconds],
        }
    )


def on_a_device(record: dict[str, Any], gain: float = 1.25, ratio: float = 0.5) -> dict[str, Any]:
    """Return the record as a device would have left it, every figure consistent."""
    record = copy.deepcopy(record)
    record |= {"backend": "neuron", "hardware": "AWS Trainium2", "neuron_sdk_version": "2.29"}
    record["test_configuration"]["test_iterations"] = 5
    record["provenance"]["config"]["backend"] = "neuron"
    record["provenance"]["config"]["evaluation"]["timed_runs"] = 5
    record["provenance"]["config_sha256"] = sha256_json(record["provenance"]["config"])
    totals = {"baseline": 0.0, "nki": 0.0}
    bases = record["score_baselines"]["per_prompt"]
    for prompt, base in zip(record["per_prompt_results"], bases, strict=False):
        for side, speed, share in (("baseline", 1.0, 0.0), ("nki", gain, ratio)):
            timed = _timed(
                [base["latency_ms"] / speed / 1e3 * f for f in (1.0, 1.01, 0.99, 1.005, 0.995)]
            )
            samples, latency_ms = timed["samples_ms"], timed["p99_ms"]
            throughput = 640e3 / float(np.mean(samples))
            value = (
                base["latency_ms"]
                / latency_ms
                * throughput
                / base["throughput_tok_s"]
                * (1 + share)
            )
            ratios = dict.fromkeys(RATIOS, share) | {"uncounted_calls": 0}
            prompt[side] |= {
                "host_time": timed,
                "latency": {"basis": "measured", "samples_ms": [*samples]},
                "latency_ms": latency_ms, "throughput_tok_s": throughput,
                "nki_flops_ratio": share, "score": value,
                "mac_ratio": {"basis": "counted", **ratios},
            }  # fmt: skip
            totals[side] += value
        scores = prompt["nki"]["score"], prompt["baseline"]["score"]
        prompt["improvement_percent"] = 100 * (scores[0] / scores[1] - 1)
    record["summary"] |= {
        "baseline_total_score": totals["baseline"], "nki_total_score": totals["nki"],
        "improvement_percent": 100 * (totals["nki"] / totals["baseline"] - 1),
        "nki_flops_ratio": ratio,
    }  # fmt: skip
    record["absent"] = []
    add_statistics(record, [record["provenance"]["machine"]] * 2)
    return record
