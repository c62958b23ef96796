"""`main.py --mode doctor`: everything a run needs, looked at before anything expensive starts.

Each finding says what to do. Times are estimates with their source, or said to be unknown.
"""

from __future__ import annotations

import csv
import platform
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from evaluation import neuron_artefact
from evaluation.commandline import DONE, FAILED, MAKE_MODEL, Options
from evaluation.doctor_device import device_findings
from evaluation.files import FileError, read_json
from evaluation.findings import (
    GIB,
    NOTE,
    OK,
    PROBLEM,
    Finding,
    available_memory_bytes,
    enough,
    summary,
    writable,
)
from evaluation.flags import NEURON, ROOT
from evaluation.prompts import PromptError, load_prompts
from evaluation.provenance import nki_version
from evaluation.scoring import BASELINES_FILE, ScoringError, load_baselines

PYTHON = (3, 10)
CPU_PACKAGES = ("torch", "transformers", "numpy", "ml_dtypes", "yaml", "google.protobuf")
DEVICE_TIMED_RUNS = 20
_FULL_MODEL_BYTES = 61_000_000_000
"""Weights of Qwen3-30B-A3B in bfloat16, as the hub lists its files."""


def run(options: Options) -> int:
    """Print what was found; FAILED when something keeps the asked backend from running."""
    weights = _weights_bytes(options.model_path)
    own = [*_python(), *_model(options, weights)]
    if options.backend == NEURON:
        own += [*device_findings(options, weights), *_artefacts(options)]
        print(f"--backend neuron, {options.platform_target}:\n{summary(own)}")
        print(f"\nHow long it takes:\n{summary(_device_times(options))}")
    else:
        own += _simulator(options)
        print(f"--backend {options.backend}:\n{summary(own)}")
        print(f"\nHow long it takes:\n{summary(_simulator_times())}")
        needed = device_findings(options, max(weights or 0, _FULL_MODEL_BYTES))
        print(f"\nWhat Qwen3-30B-A3B on a Trainium needs (--backend neuron):\n{summary(needed)}")
    problems = [finding for finding in own if finding.state == PROBLEM]
    if problems:
        print(f"main.py: {len(problems)} problem(s), see above", file=sys.stderr)
    return FAILED if problems else DONE


def _python() -> Iterator[Finding]:
    version = platform.python_version()
    if sys.version_info[:2] < PYTHON:
        yield Finding(PROBLEM, "Python", version, "3.10 or newer is needed")
    else:
        yield Finding(OK, "Python", f"{version} ({sys.executable})")
    missing = [name for name in CPU_PACKAGES if not _is_there(name)]
    if missing:
        yield Finding(
            PROBLEM, "packages", f"missing: {', '.join(missing)}",
            "`./run setup` makes an environment with them; on a Neuron image use its own",
        )  # fmt: skip
    else:
        yield Finding(OK, "packages", f"{', '.join(CPU_PACKAGES)} are there")


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of a package above it
        return False


def _model(options: Options, weights_bytes: int | None) -> Iterator[Finding]:
    from model import manifest

    path = options.model_path
    if not (path / "config.json").is_file():
        made_by_workflow = (ROOT / "results").resolve() in path.resolve().parents
        yield Finding(
            NOTE if made_by_workflow else PROBLEM, f"model in {path}",
            "no checkpoint (config.json) there",
            f"`{MAKE_MODEL}` makes the configured one; model.repo_id chooses which",
        )  # fmt: skip
        return
    if weights_bytes is None:
        yield Finding(
            PROBLEM, f"model in {path}", "config.json, but no *.safetensors beside it",
            "the download is incomplete: fetch it again, it resumes",
        )  # fmt: skip
        return
    found = f"{weights_bytes / GIB:.2f} GiB of weights"
    if options.model_manifest is None:
        yield Finding(
            NOTE, f"model in {path}", f"{found}, hashes not compared",
            "--model-manifest results/model_manifest.json compares every file",
        )  # fmt: skip
        return
    try:
        manifest.verify(path, manifest.read(options.model_manifest))
        yield Finding(OK, f"model in {path}", f"{found}, every hash as in {options.model_manifest}")
    except (manifest.ManifestError, FileError, OSError) as error:
        yield Finding(PROBLEM, f"model in {path}", str(error), "fetch the model again")


def _weights_bytes(path: Path) -> int | None:
    """Return the size of a checkpoint's weights, or None where there are none."""
    sizes = [file.stat().st_size for file in path.glob("*.safetensors")] if path.is_dir() else []
    return sum(sizes) if sizes else None


def _simulator(options: Options) -> Iterator[Finding]:
    yield Finding(OK, "import nki", f"gives {nki_version()}; the kernels run in nki_sim")
    available, weights = available_memory_bytes(), _weights_bytes(options.model_path)
    if available is not None and weights is not None:
        yield enough(
            "memory", available, 2 * weights + GIB, "the weights in both models, and the programs",
            "a smaller model, such as the built-in one (model.repo_id: null)",
        )  # fmt: skip
    if not writable(options.compiled_model_path):
        yield Finding(
            PROBLEM, f"folder {options.compiled_model_path}", "cannot be written to",
            "name another with --compiled-model-path",
        )  # fmt: skip


def _artefacts(options: Options) -> Iterator[Finding]:
    """Say which compiled models lie in the store, and which compilations were interrupted."""
    store = options.compiled_model_path
    folders = sorted(store.glob("*-" + "?" * 12)) if store.is_dir() else []
    for folder in folders:
        try:
            compiled_s = read_json(folder / neuron_artefact.MANIFEST)["compile_s"]
            yield Finding(
                OK, f"artefact {folder.name}", f"complete, compiled in {compiled_s:.0f} s"
            )
        except (FileError, KeyError, TypeError):
            yield Finding(
                NOTE, f"artefact {folder.name}", "interrupted; never used",
                "compiling the same again takes it up; it may be deleted",
            )  # fmt: skip
    if not folders:
        yield Finding(NOTE, f"artefacts in {store}", "none: the first run compiles")


def _device_times(options: Options) -> Iterator[Finding]:
    yield _compile_time(options)
    try:
        published = load_baselines(BASELINES_FILE, options.platform_target)
        ids = range(len(load_prompts(options.prompts_file)))
        latencies = [published.for_prompt(prompt).latency_ms for prompt in ids]
    except (ScoringError, PromptError) as error:
        yield Finding(NOTE, "evaluating all prompts", f"unknown: {error}")
        return
    runs = options.warmup_runs + options.timed_runs + 1
    minutes = sum(latencies) / 1e3 / 60 * runs
    yield Finding(
        NOTE, "evaluating all prompts", f"about {minutes:.0f} min per variant",
        f"{runs} runs of {len(latencies)} prompts at the published baseline's latencies "
        f"({published.source}); every divergence from the baseline costs another run",
    )  # fmt: skip
    yield Finding(NOTE, "loading the model", "unknown here: no source for the time of resharding")


def _compile_time(options: Options) -> Finding:
    """Estimate a compilation: as it was here before, else as others report it."""
    store = options.compiled_model_path
    measured = []
    for path in store.glob(f"*/{neuron_artefact.MANIFEST}") if store.is_dir() else ():
        try:
            measured.append(float(read_json(path)["compile_s"]))
        except (FileError, KeyError, TypeError, ValueError):
            continue
    if measured:
        return Finding(
            NOTE, "compiling", f"about {max(measured) / 60:.0f} min per variant",
            f"the longest of {len(measured)} compilation(s) in {store}",
        )  # fmt: skip
    return Finding(
        NOTE, "compiling", "5 to 30 min per variant",
        "250 s is reported for tracing and compiling (aws-neuron/nki-moe, pull request 1), up to "
        "30 min for larger graphs; nothing was compiled here yet",
    )  # fmt: skip


def _simulator_times() -> Iterator[Finding]:
    """Yield what the workflow's jobs took here, as Snakemake measured them last."""
    for step in ("compile", "evaluate", "test_kernel"):
        seconds = [_job_s(file) for file in sorted((ROOT / "logs" / step).glob("*.tsv"))]
        known = [value for value in seconds if value is not None]
        if known:
            found = f"{sum(known):.0f} s for {len(known)} jobs in the last run here"
            yield Finding(NOTE, step.replace("_", " "), found)
        else:
            yield Finding(NOTE, step.replace("_", " "), "unknown: no run was logged here yet")


def _job_s(file: Path) -> float | None:
    with file.open(encoding="utf-8") as stream:
        rows: list[dict[str, Any]] = list(csv.DictReader(stream, delimiter="\t"))
    try:
        return float(rows[-1]["s"])
    except (IndexError, KeyError, ValueError):
        return None
