"""What each figure of the record derives from, as a table that `--explain` walks.

A row names keys by a pattern: {name} stands for one step or index and may be used again in what
the row refers to; {rest...} stands for everything below. A row tells how the figure is computed
(`how`), from which keys of the record (`inputs`), by which function (`code`), or in which result
file it stands and which rule made that (`source`). The first row that fits holds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from evaluation.problems import lookup


@dataclass(frozen=True)
class Source:
    """A result file, the key in it, and the rule that makes the file; {names} are filled in."""

    file: str
    key: str
    rule: str


@dataclass(frozen=True)
class Derivation:
    """One row: a pattern of keys and where their values come from."""

    pattern: str
    how: str
    inputs: tuple[str, ...] = ()
    code: str = ""
    source: Source | None = None


PROMPT = "per_prompt_results[{i}]"
SIDE = PROMPT + ".{side}"
HOST = SIDE + ".host_time"
CHECK = "path_checks[{i}]"
KERNEL = "nki_kernels_implemented[{i}]"
_SUMMARISE = "evaluation.benchmark:summarise_ms"
_FORMULA = "accuracy x (base latency / latency) x (throughput / base throughput) x f(NKI ratio)"


def _evaluation(key: str, side: str = "{side}") -> Source:
    return Source(f"results/evaluations/{side}/prompt_{{prompt}}.json", key, f"evaluate_{side}")


def _check(key: str) -> Source:
    return Source("results/path_checks/{check}.json", key, "check_path")


def _test(key: str) -> Source:
    return Source("results/kernel_tests/{kernel}.json", f"kernels.{{kernel}}.{key}", "test_kernel")


_SUMMARY = (
    Derivation("summary.accuracy", "prompts_passed / prompts_total",
               ("summary.prompts_passed", "summary.prompts_total"),
               "evaluation.aggregation:_summary"),
    Derivation("summary.prompts_passed", "number of prompts that pass",
               ("per_prompt_results[*].nki.accuracy.passed",), "evaluation.aggregation:_summary"),
    Derivation("summary.prompts_total", "number of prompts", ("per_prompt_results[*].prompt_id",),
               "evaluation.aggregation:_summary"),
    Derivation("summary.tokens_{which}", "sum over the prompts",
               ("per_prompt_results[*].nki.accuracy.tokens_{which}",),
               "evaluation.aggregation:_summary"),
    Derivation("summary.{side}_total_score", "sum of the prompts' scores",
               ("per_prompt_results[*].{side}.score",), "evaluation.scoring:total_score"),
    Derivation("summary.improvement_percent",
               "100 x (nki_total_score / baseline_total_score - 1)",
               ("summary.nki_total_score", "summary.baseline_total_score"),
               "evaluation.scoring:improvement_percent"),
    Derivation("summary.nki_flops_ratio", "MACs in NKI / all MACs of the compiled graphs, as the "
               "challenge counts them", (), "evaluation.mac_ratio:challenge_ratio",
               Source("results/evaluations/nki/prompt_{first_prompt}.json",
                      "mac_ratio.challenge_ratio", "evaluate_nki")),
)  # fmt: skip

_DEVICE = (
    Derivation(f"{PROMPT}.improvement_percent", "100 x (nki score / baseline score - 1)",
               (f"{PROMPT}.nki.score", f"{PROMPT}.baseline.score"),
               "evaluation.scoring:improvement_percent"),
    Derivation(f"{PROMPT}.nki.score", _FORMULA,
               (f"{PROMPT}.nki.accuracy.passed", f"{PROMPT}.nki.latency_ms",
                f"{PROMPT}.nki.throughput_tok_s", f"{PROMPT}.nki.nki_flops_ratio",
                "score_baselines.per_prompt[{i}].latency_ms",
                "score_baselines.per_prompt[{i}].throughput_tok_s", "scoring_formula"),
               "evaluation.scoring:score"),
    Derivation(f"{PROMPT}.baseline.score", _FORMULA + "; a baseline is accurate by definition",
               (f"{PROMPT}.baseline.latency_ms", f"{PROMPT}.baseline.throughput_tok_s",
                f"{PROMPT}.baseline.nki_flops_ratio", "score_baselines.per_prompt[{i}].latency_ms",
                "score_baselines.per_prompt[{i}].throughput_tok_s", "scoring_formula"),
               "evaluation.scoring:score"),
    Derivation(f"{SIDE}.latency_ms", "99th percentile of the samples, linear interpolation",
               (f"{SIDE}.latency.samples_ms",), _SUMMARISE),
    Derivation(f"{SIDE}.throughput_tok_s", "sequence length x batch size / mean latency",
               (f"{SIDE}.latency.samples_ms", "test_configuration.sequence_length",
                "test_configuration.batch_size"), "evaluation.benchmark:throughput_tok_s"),
    Derivation(f"{SIDE}.nki_flops_ratio", "MACs in NKI / all MACs of the compiled graphs, as the "
               "challenge counts them", (), "evaluation.mac_ratio:challenge_ratio",
               _evaluation("mac_ratio.challenge_ratio")),
    Derivation(f"{SIDE}.latency.basis", "the backend is a device", ("backend",),
               "evaluation.device_record:_figures"),
    Derivation(f"{SIDE}.latency.samples_ms", "raw: wall-clock time of each timed run, in s in the "
               "file", (), "evaluation.benchmark:run_benchmark",
               _evaluation("host_time.end_to_end_s")),
    Derivation("statistics.{rest...}", "seeded bootstrap of the samples",
               ("per_prompt_results[*].baseline.latency.samples_ms",
                "per_prompt_results[*].nki.latency.samples_ms", "test_configuration.seed"),
               "evaluation.uncertainty:statistics_of"),
)  # fmt: skip

_TIMES = (
    Derivation(f"{HOST}.samples_ms", "raw: wall-clock time of each timed run, in s in the file", (),
               "evaluation.benchmark:run_benchmark", _evaluation("host_time.end_to_end_s")),
    Derivation(f"{HOST}.{{phase}}_samples_ms", "raw: time of the phase in each timed run (of a "
               "decode step: its mean), in s in the file", (),
               "evaluation.aggregation:host_time", _evaluation("host_time.{phase}_s")),
    Derivation(f"{HOST}.mean_ms", "mean of the samples", (f"{HOST}.samples_ms",), _SUMMARISE),
    Derivation(f"{HOST}.p50_ms", "median of the samples", (f"{HOST}.samples_ms",), _SUMMARISE),
    Derivation(f"{HOST}.p99_ms", "99th percentile of the samples, linear interpolation",
               (f"{HOST}.samples_ms",), _SUMMARISE),
    Derivation(f"{HOST}.{{phase}}_mean_ms", "mean of the samples",
               (f"{HOST}.{{phase}}_samples_ms",), _SUMMARISE),
    Derivation(f"{HOST}.{{rest...}}", "as the evaluation tells it", (), "",
               _evaluation("host_time.{rest}")),
)  # fmt: skip


def _proof(place: str, source: Any) -> tuple[Derivation, ...]:
    """Rows of what an evaluation with kernels shows, in the record at `place`."""
    accuracy, phase = f"{place}.accuracy", f"{place}.coverage.{{phase}}"
    return (
        Derivation(f"{accuracy}.top_k[{{k}}].fraction_of_tolerance",
                   "worst_relative_error / allowed_relative_error",
                   (f"{accuracy}.top_k[{{k}}].worst_relative_error",
                    f"{accuracy}.top_k[{{k}}].allowed_relative_error"),
                   "evaluation.accuracy:_summarise_top_k"),
        Derivation(f"{accuracy}.tokens_equal", "tokens checked - divergences",
                   (f"{accuracy}.tokens_checked", f"{accuracy}.divergences"),
                   "evaluation.accuracy:compare_logits"),
        Derivation(f"{accuracy}.basis", "logits were compared in this run", (),
                   "evaluation.aggregation:_proof"),
        Derivation(f"{accuracy}.{{rest...}}", "logits of the NKI model on the baseline's tokens, "
                   "against the baseline's logits", (), "evaluation.accuracy:compare_logits",
                   source("accuracy.{rest}")),
        Derivation(f"{place}.drift.basis", "hidden states were compared in this run", (),
                   "evaluation.aggregation:_proof"),
        Derivation(f"{place}.drift.layers{{rest...}}", "hidden states after each layer against the "
                   "baseline's", (), "evaluation.drift:drift", source("drift{rest}")),
        Derivation(f"{phase}.useful_macs.{{operation}}", "from the model's dimensions",
                   ("test_configuration.architecture", f"{phase}.tokens"),
                   "evaluation.coverage:useful_macs",
                   source("coverage.{phase}.useful_macs.{operation}")),
        Derivation(f"{phase}.counted_macs.{{operation}}", "raw: MACs of the launches of a step, "
                   "counted instruction by instruction", (), "evaluation.launches:step_account",
                   source("coverage.{phase}.counted_macs.{operation}")),
        *(Derivation(f"{phase}.{name}", "of the run", (), "evaluation.launches:step_account",
                     source(f"coverage.{{phase}}.{name}")) for name in ("tokens", "padded_tokens")),
        Derivation(f"{phase}.{{rest...}}", "shares of useful and counted MACs",
                   (f"{phase}.useful_macs.*", f"{phase}.counted_macs.*"),
                   "evaluation.coverage:coverage", source("coverage.{phase}.{rest}")),
        Derivation(f"{place}.coverage.basis", "instructions were counted", (),
                   "evaluation.aggregation:_proof"),
        Derivation(f"{place}.kernel_path", "as configured", ("test_configuration.kernel_path",), "",
                   source("kernel_path")),
    )  # fmt: skip


_CHECKS = (
    Derivation(f"{CHECK}.dtype", "as run", (), "", _check("settings.dtype")),
    Derivation(f"{CHECK}.prompt_id", "as run", (), "", _check("prompt.id")),
    Derivation(f"{CHECK}.{{which}}_tokens", "as run", (), "", _check("prompt.{which}_tokens")),
)
_PROMPTS = (
    Derivation(f"{PROMPT}.prompt_id", "position in the prompts file", (),
               "evaluation.prompts:load_prompts", _evaluation("prompt.id", "nki")),
    Derivation(f"{PROMPT}.{{rest...}}", "as evaluated", (), "evaluation.evaluate:_describe",
               _evaluation("prompt.{rest}", "nki")),
)  # fmt: skip
_KERNELS = (
    Derivation(f"{KERNEL}.validation_max_diff", "validation.float32.max_abs_error",
               (f"{KERNEL}.validation.float32.max_abs_error",), "evaluation.aggregation:_kernel"),
    Derivation(f"{KERNEL}.validation.basis", "compared in this run", (),
               "evaluation.aggregation:_kernel"),
    Derivation(f"{KERNEL}.validation.on", "where kernels are tested", (),
               "evaluation.aggregation:_kernel"),
    Derivation(f"{KERNEL}.validation.{{rest...}}", "raw: the kernel against its NumPy oracle over "
               "all cases of the dtype", (), "kernels.verification:verify", _test("{rest}")),
    Derivation(f"{KERNEL}.cost.basis", "instructions were counted", (),
               "evaluation.aggregation:_kernel"),
    Derivation(f"{KERNEL}.cost.{{rest...}}", "raw: counted in one launch, instruction by "
               "instruction", (), "nki_sim.trace:Launch", _test("cost.{rest}")),
    Derivation(f"{KERNEL}.launches.{{phase}}_expected", "from the model's dimensions and the "
               "kernel path", ("test_configuration.num_layers",), "model.plan:expected_launches",
               Source("{launched}", "launches.expected_{phase}.{kernel}", "{launched_by}")),
    Derivation(f"{KERNEL}.launches.kernel_path", "of the run that launched it", (), "",
               Source("{launched}", "kernel_path", "{launched_by}")),
    Derivation(f"{KERNEL}.launches.dtype", "of the run that launched it", (), "",
               Source("{launched}", "settings.dtype", "{launched_by}")),
    Derivation(f"{KERNEL}.launches.{{phase}}", "raw: launches counted in a run of the model", (),
               "evaluation.launches:counted",
               Source("{launched}", "launches.{phase}.{kernel}", "{launched_by}")),
    Derivation(f"{KERNEL}.{{rest...}}", "as the kernel's spec states", (), "kernels.specs:SPECS"),
)  # fmt: skip
_STATED = (
    Derivation("score_baselines.{rest...}", "published by the organisers: config/baselines.yaml",
               (), "evaluation.scoring:load_baselines"),
    *(Derivation(f"test_configuration.architecture{rest}", "from the checkpoint's config.json", (),
                 "evaluation.shapes:Architecture") for rest in ("", ".{rest...}")),
    Derivation("test_configuration.{rest...}", "configured, or from the checkpoint's config.json",
               ("provenance.config_sha256",), "evaluation.aggregation:_test_configuration"),
    Derivation("provenance.{rest...}", "read when the record was made", (),
               "evaluation.aggregation:_provenance"),
    Derivation("team.{rest...}", "configured", ("provenance.config_sha256",), ""),
    Derivation("absent[{i}].{rest...}", "what this build cannot give", (),
               "evaluation.aggregation:_record"),
    Derivation("fallbacks[{i}].{rest...}", "noted by the model while it ran", (),
               "evaluation.aggregation:_fallbacks"),
    Derivation("optimization_techniques[{i}]", "stated", (), "evaluation.aggregation:_record"),
    *(Derivation(key, "configured", ("provenance.config_sha256",), "evaluation.aggregation:_record")
      for key in ("backend", "platform_target")),
    *(Derivation(key, "as the builds of this project state it", (),
                 "evaluation.aggregation:_record")
      for key in ("schema_version", "competition", "scoring_formula", "hardware", "timestamp",
                  "neuron_sdk_version")),
    Derivation("model", "the checkpoint's source", (), "evaluation.aggregation:_model_name"),
)  # fmt: skip

_MODELLED = (
    Derivation("modelled.basis", "as this section's figures are made", (),
               "evaluation.modelled:modelled"),
    Derivation("modelled.predictions.{platform}.{rest...}", "the latency model's, from traces of "
               "the kernels and constants of the platform; see docs/latency.md", (),
               "prediction.whole:predict_model",
               Source("results/predictions/{platform}.json", "{rest}", "predict_latency")),
    Derivation("modelled.validation.{rest...}", "the latency model's time of a program, and the "
               "published one", (), "validation.comparison:compare",
               Source("results/validation/latency.json", "{rest}", "validate_latency")),
    Derivation("modelled.ladders.{rest...}", "the latency model's time of a kernel's variant", (),
               "tuning.evaluation:evaluate",
               Source("results/tuning_ladder.json", "{rest}", "collect_ladder")),
)  # fmt: skip

DERIVATIONS = (
    *_SUMMARY, *_DEVICE, *_TIMES,
    *_proof(f"{PROMPT}.nki", lambda key: _evaluation(key, "nki")), *_PROMPTS,
    *_proof(CHECK, _check), *_CHECKS, *_KERNELS, *_MODELLED,
    *_STATED,
)  # fmt: skip


def derivation(key: str) -> tuple[Derivation, dict[str, str]] | None:
    """Return the row that holds for a key, and what its {names} stand for there.

    A single sample derives from what the list of samples does.
    """
    key = re.sub(r"(?<=samples_ms)\[\d+\]$", "", key)
    for row in DERIVATIONS:
        if match := _expression(row.pattern).fullmatch(key):
            return row, match.groupdict()
    return None


def names(record: Any, found: Mapping[str, str]) -> dict[str, str]:
    """Return `found` with the names of result files added: prompt, kernel, check."""
    index = found.get("i", "0")
    kernel = str(lookup(record, f"nki_kernels_implemented[{index}].kernel"))
    launches = f"nki_kernels_implemented[{index}].launches"
    own = {"prompt": str(lookup(record, f"per_prompt_results[{index}].prompt_id"))}
    own["first_prompt"] = str(lookup(record, "per_prompt_results[0].prompt_id"))
    own["kernel"] = kernel
    own["check"] = _check_name(record, f"path_checks[{index}]")
    launched = _check_name(record, launches)
    is_check = f"results/path_checks/{launched}.json" in (
        lookup(record, "provenance.results") or ()
    )
    own["launched"] = (
        f"results/path_checks/{launched}.json" if is_check
        else f"results/evaluations/nki/prompt_{own['first_prompt']}.json"
    )  # fmt: skip
    own["launched_by"] = "check_path" if is_check else "evaluate_nki"
    return own | dict(found)


def _check_name(record: Any, place: str) -> str:
    return "_".join(str(lookup(record, f"{place}.{name}")) for name in ("kernel_path", "dtype"))


@cache
def _expression(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+(?:\.\.\.)?)\}", pattern)
    text = re.escape(parts[0])
    for name, literal in zip(parts[1::2], parts[2::2], strict=True):
        step = ".+" if name.endswith("...") else r"[^.\[\]]+"
        text += f"(?P<{name.rstrip('.')}>{step}){re.escape(literal)}"
    return re.compile(text)
