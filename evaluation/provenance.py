"""Where a figure comes from: the commit, the code's hashes, the versions, the machine.

Nothing here names the host, its users or its folders.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from evaluation.files import sha256_file, sha256_json
from evaluation.imports import closure

REPOSITORY = Path(__file__).resolve().parent.parent

_ON_CPU = {"baseline": "baseline.py", "nki": "qwen_cpu.py"}
MODEL_MODULES = {
    "simulator": _ON_CPU,
    "neuron-simulator": _ON_CPU,
    "neuron": {"baseline": "qwen.py", "nki": "qwen_with_nki.py"},
}
"""The module in model/ that each variant is loaded from, by backend."""

_PACKAGES = (
    "torch", "transformers", "numpy", "ml_dtypes", "snakemake", "torch-neuronx", "neuronx-cc",
    "neuronx-distributed", "neuronx-distributed-inference", "libneuronxla",
)  # fmt: skip
_NKI_DISTRIBUTIONS = ("nki", "neuronx-cc")
_ONLY_TIMES = ("latency", "hardware")
"""Folders of the simulator that decide no result but modelled times."""


def provenance() -> dict[str, Any]:
    """Return commit, dirty flag, package versions and machine, as evaluation files hold them."""
    return {**git_state(), "versions": versions(), "machine": machine()}


def git_state(repository: Path = REPOSITORY) -> dict[str, Any]:
    """Return {"commit": hash or None, "dirty": bool or None}.

    `dirty` is true when a tracked file differs from the commit or a file is neither tracked nor
    ignored. Where this is no git repository of its own, or git is not installed, both are None and
    "commit_absent" says why.
    """
    try:
        root = _git(repository, "rev-parse", "--show-toplevel")
        if Path(root).resolve() != repository.resolve():
            return _no_commit("the sources lie inside another repository, not in their own")
        commit = _git(repository, "rev-parse", "--verify", "HEAD")
        dirty = bool(_git(repository, "status", "--porcelain"))
    except FileNotFoundError:
        return _no_commit("git is not installed")
    except subprocess.CalledProcessError:
        return _no_commit("git finds no readable repository with a commit here")
    return {"commit": commit, "dirty": dirty}


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages in use; absent packages are left out."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        version = _version(package)
        if version is not None:
            found[package] = version
    found["nki"] = nki_version()
    return found


def nki_version() -> str:
    """Return "nki_sim" where `import nki` gives this project's simulator, else the SDK's version.

    Nothing is imported to find out: the loader of what would be imported tells, or the name of
    what was. Without either, "none".
    """
    spec = importlib.util.find_spec("nki")
    if spec is None:
        return "none"
    if "nki_sim" in (spec.name.split(".")[0], type(spec.loader).__module__.split(".")[0]):
        return "nki_sim"
    return next((v for v in map(_version, _NKI_DISTRIBUTIONS) if v is not None), "unknown")


def machine() -> dict[str, Any]:
    """Return operating system, CPU model, usable cores and memory of this machine."""
    described: dict[str, Any] = {
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
    }
    memory_bytes = _memory_bytes()
    if memory_bytes is not None:
        described["memory_bytes"] = memory_bytes
    return described


def variant_sources(
    variant: str, backend: str = "simulator", repository: Path = REPOSITORY
) -> dict[str, dict[str, str]]:
    """Return {"kernels": {relative path: SHA-256}, "model_code": {...}} of what a variant runs.

    These are the model's entry module and whatever it imports from model/ and kernels/, directly or
    not, and for the variant "nki" the kernels' own files, which are loaded by name.
    """
    programs = [f"model/{MODEL_MODULES[backend][variant]}"]
    if variant == "nki":
        from kernels.specs import SPECS

        programs += [f"kernels/{spec.file}" for spec in SPECS.values()]
    return {
        "kernels": _hashes(programs, repository, "kernels"),
        "model_code": _hashes(programs, repository, "model"),
    }


def kernel_test_inputs(kernel: str, repository: Path = REPOSITORY) -> dict[str, Any]:
    """Return what the test of a kernel depends on: {"kernels": {path: SHA-256}, "nki": ...}.

    "kernels" covers the kernel's file, its oracle, specs and verification with their imports; "nki"
    is the simulator with the hash of its sources, or the SDK's version.
    """
    from kernels.specs import SPECS

    programs = [f"kernels/{SPECS[kernel].file}", "kernels/verification.py"]
    nki = nki_version()
    return {
        "kernels": _hashes(programs, repository, "kernels"),
        "nki": f"{nki} {simulator_hash(repository)}" if nki == "nki_sim" else nki,
    }


def simulator_hash(repository: Path = REPOSITORY) -> str:
    """Return one hash over the simulator's Python that decides results (see `simulator_files`)."""
    files = simulator_files(repository, times=False)
    return _hash_of([file for file in files if file.endswith(".py")], repository)


def simulator_files(repository: Path = REPOSITORY, times: bool = True) -> list[str]:
    """Return the files of the simulator, but for its manual: `import nki` may load any of them.

    Without `times` those are left out that only predict how long something takes.
    """
    only_times = tuple(f"nki_sim/{folder}/" for folder in _ONLY_TIMES)
    files = _sources_below(repository, "nki_sim")
    return [file for file in files if times or not file.startswith(only_times)]


def prediction_files(repository: Path = REPOSITORY) -> list[str]:
    """Return what modelled times of the whole model depend on."""
    kernels = [file for file in files_below(repository, "kernels") if "/nki_" in file]
    programs = closure(repository, "prediction/__main__.py", *kernels)
    own = [*_sources_below(repository, "prediction"), *simulator_files(repository)]
    return sorted({*programs, *own, "config/baselines.yaml"})


def validation_files(repository: Path = REPOSITORY) -> list[str]:
    """Return what the comparison of modelled with published times depends on."""
    programs = closure(repository, "validation/__main__.py", without=["kernels"])
    own = [*_sources_below(repository, "validation"), *simulator_files(repository)]
    return sorted({*programs, *own})


def modelled_inputs(files: Sequence[str], repository: Path = REPOSITORY) -> dict[str, str]:
    """Return what a file of modelled times says that it was made from."""
    return {"sources_sha256": _hash_of(files, repository)}


def files_below(repository: Path, folder: str) -> list[str]:
    """Return all files of a folder, relative to the repository, but for compiled Python."""
    files = (file for file in (repository / folder).rglob("*") if "__pycache__" not in file.parts)
    return sorted(file.relative_to(repository).as_posix() for file in files if file.is_file())


def _sources_below(repository: Path, folder: str) -> list[str]:
    return [file for file in files_below(repository, folder) if not file.endswith(".md")]


def _hash_of(files: Sequence[str], repository: Path) -> str:
    return sha256_json({file: sha256_file(repository / file) for file in files})


def _hashes(programs: Sequence[str], repository: Path, folder: str) -> dict[str, str]:
    """Return {path: SHA-256} of those files in `folder` that running `programs` may import."""
    files = [file for file in closure(repository, *programs) if file.startswith(f"{folder}/")]
    return {file: sha256_file(repository / file) for file in files}


def _git(repository: Path, *arguments: str) -> str:
    # Without that option, asking for the status would rewrite the index.
    command = ["git", "--no-optional-locks", "-C", str(repository), *arguments]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    return result.stdout.strip()


def _no_commit(reason: str) -> dict[str, Any]:
    return {"commit": None, "dirty": None, "commit_absent": reason}


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    """Return the CPU's name from the kernel; platform.processor() is empty on most Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None
