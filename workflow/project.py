"""What the rules are made from: files of each program, kernels, prompts, figures and tables."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from evaluation.bundle import PACKAGES, SINGLE_FILES
from evaluation.files import sha256_file, sha256_json
from evaluation.imports import closure, module_name
from evaluation.prompts import load_prompts
from evaluation.provenance import MODEL_MODULES, files_below, simulator_files, versions
from kernels.specs import SPECS
from report.captions import Caption, captions
from report.tables import tables_of

ROOT = Path(__file__).resolve().parents[1]

READS = {
    "evaluation/aggregation.py": "config/baselines.yaml",
    "evaluation/records.py": "workflow/schemas/benchmark_results.schema.json",
    "model/tiny.py": "model/tiny_corpus.txt",
    "report/captions.py": "report/captions.yaml",
}
"""Data files of the project that modules read: an edit there counts like one of the module."""

_ONLY_PRINTS = (
    "evaluation.console", "evaluation.explanation", "evaluation.notes", "evaluation.scores",
    "evaluation.scoring",
)  # fmt: skip
_ONLY_ON_DEVICE = tuple(
    f"evaluation.{name}"
    for name in (
        "doctor", "doctor_device", "findings", "hlo", "mac_ratio", "neuron", "neuron_artefact",
        "neuron_graphs", "own_process", "sdk", "timelimit",
    )
)  # fmt: skip
WITHOUT = {
    "compile": (
        *_ONLY_PRINTS, "evaluation.accuracy", "evaluation.evaluate", "evaluation.prompts",
        "evaluation.coverage", "evaluation.drift", "evaluation.errors", "evaluation.launches",
    ),
    "evaluate": _ONLY_PRINTS,
    "baseline": (
        "kernels", "nki_sim", "model.qwen_cpu", "model.dispatch", "model.plan",
        "evaluation.coverage", "evaluation.drift", "evaluation.launches", "evaluation.shapes",
        "evaluation.tracing",
    ),
    "nki": ("model.baseline",),
    "simulator": _ONLY_ON_DEVICE,
    "neuron-simulator": _ONLY_ON_DEVICE,
    "neuron": (
        "model.baseline", "model.qwen_cpu", "evaluation.doctor", "evaluation.doctor_device",
        "evaluation.findings",
    ),
}  # fmt: skip
"""Modules that main.py imports somewhere, but whose code does nothing for the result of a step, of
a variant or on a backend. Scores are only shown by main.py; the record computes them anew."""


def program_files(*programs: str, without: Iterable[str] = ()) -> list[str]:
    """Return the import closure of programs (see evaluation.imports) and the data that it reads."""
    modules = closure(ROOT, *programs, without=without)
    return sorted({*modules, *(READS[module] for module in modules if module in READS)})


def driver_files(step: str, variant: str, backend: str = "simulator") -> list[str]:
    """Return what the result of main.py depends on when it compiles or evaluates a variant."""
    programs = ["main.py", f"model/{MODEL_MODULES[backend][variant]}"]
    without = [*WITHOUT[step], *WITHOUT[variant], *WITHOUT[backend]]
    if variant == "baseline":
        return program_files(*programs, without=without)
    own = program_files(*programs, *kernel_sources(), without=without)
    return sorted({*own, *_simulator_files(times=False)})


def check_files() -> list[str]:
    """Return what a short run by a kernel path depends on, with its baseline and compilation."""
    steps = ("compile", "evaluate")
    return sorted({f for s in steps for v in ("baseline", "nki") for f in driver_files(s, v)})


def kernel_test_files(kernel: str) -> list[str]:
    """Return what the test of one kernel consists of: of the kernels, what its own file imports."""
    harness = program_files("test_nki_kernels.py", without=map(module_name, kernel_sources()))
    own = program_files(kernel_files()[kernel])
    return sorted({*harness, *own, *_simulator_files(times=False)})


def kernel_files() -> dict[str, str]:
    """Return {name of a kernel: its file, relative to the repository}."""
    return {name: f"kernels/{Path(spec.file).name}" for name, spec in SPECS.items()}


def device_launches() -> list[str]:
    """Return `kernel_lncN` for each kernel and number N of cores on which it has true shapes."""
    return [
        f"{name}_lnc{cores}"
        for name, spec in SPECS.items()
        for cores in sorted({n for case in spec.cases if case.kind == "true" for n in case.cores})
    ]


def tuning_files(kernel: str) -> list[str]:
    """Return what the result of a kernel's tuned variant depends on, whatever others there are."""
    named = {"decoder_stack_ranks": "kernels/nki_decode_ranks_kernels.py", **kernel_files()}
    sources = map(module_name, kernel_sources())
    harness = program_files("tuning/evaluation.py", without=[*sources, "kernels.variants"])
    return sorted({*harness, *program_files(named[kernel]), *_simulator_files(times=True)})


def kernel_sources() -> list[str]:
    """Return the files in kernels/ that hold NKI code."""
    return sorted(f"kernels/{file.name}" for file in (ROOT / "kernels").glob("nki_*.py"))


def submission_files() -> list[str]:
    """Return the files that the submission archive may hold, beside report and results."""
    inside = [file for package in PACKAGES for file in files_below(ROOT, package)]
    return sorted([*SINGLE_FILES, *inside])


def leaderboard_files() -> list[str]:
    """Return the sources of the leaderboard's one file."""
    return program_files("model/qwen_with_nki.py", *kernel_sources())


def content_sha256(files: Iterable[str]) -> str:
    """Return one hash over the paths and contents of files of the repository."""
    return sha256_json({file: _sha256(file) for file in files})


def prompt_hashes(path: str) -> dict[str, str]:
    """Return {position of a prompt: SHA-256 of its text}; PromptError for an unusable file."""
    return {str(prompt.id): prompt.sha256 for prompt in load_prompts(ROOT / path)}


def figure_captions(config: Mapping[str, Any]) -> dict[str, Caption]:
    """Return the captions of the report's figures by name, for a run that is configured so."""
    return captions("figures", platform=config["platform_target"])


def table_captions(config: Mapping[str, Any]) -> dict[str, Caption]:
    """Return the captions of the tables by name that a run has which is configured so."""
    found = captions("tables", platform=config["platform_target"])
    return {name: found[name] for name in tables_of(config["backend"])}


def environment() -> dict[str, str]:
    """Return the versions of what computes the results in this interpreter's environment."""
    return {name: version for name, version in versions().items() if name != "nki"}


def flags(**values: object) -> str:
    """Return `--name=value` for each value that is set, quoted for a shell."""
    words = (f"--{n.replace('_', '-')}={value}" for n, value in values.items() if value is not None)
    return shlex.join(words)


@cache
def _simulator_files(times: bool) -> tuple[str, ...]:
    return tuple(simulator_files(times=times))


@cache
def _sha256(file: str) -> str:
    return sha256_file(ROOT / file)
