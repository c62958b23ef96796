"""Compiled models of a device: a store keyed by everything that determines them.

`--compiled-model-path` is the store. Each artefact has a folder of its own in it, named by variant
and key, so that baseline and NKI model, and models of several settings, lie side by side and a
switch between them deletes nothing. Inside: what NxD Inference writes, the HLO of both graphs
(copied as soon as they exist, from a work folder that no other process uses), the compiler's
cache, and last the manifest. A folder without a manifest is an interrupted compilation, never used.
The store's own manifest.json repeats the one that was compiled or found last.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from evaluation import hlo, neuron, sdk
from evaluation.artefact import SCHEMA_VERSION, ArtefactMismatch, differing
from evaluation.benchmark import Progress
from evaluation.files import FileError, read_json, sha256_file, sha256_json, write_json
from evaluation.language import check_language, kernel_sources
from evaluation.mac_ratio import GRAPHS, Bucket
from evaluation.provenance import variant_sources

MANIFEST, MODEL_FILE = "manifest.json", "model.pt"
WORK, CACHE, HLO = "work", "cache", "hlo"
_HASHED_BYTES = 1 << 30  # larger files (sharded weights) are known by their size alone


class CompileError(RuntimeError):
    """A compilation that did not leave what an artefact must hold."""


def artefact_inputs(
    variant: str,
    model_manifest_sha256: str,
    platform_target: str,
    configuration: Mapping[str, Any],
) -> dict[str, Any]:
    """Return everything that determines a compiled model, as it is now, in this Python."""
    return {
        "variant": variant,
        "backend": "neuron",
        "platform_target": platform_target,
        "dtype": configuration["torch_dtype"],
        "model_manifest_sha256": model_manifest_sha256,
        **variant_sources(variant, "neuron"),
        "neuron_config": dict(configuration),
        "sdk": sdk.installed(),
    }


def folder_of(store: Path, inputs: Mapping[str, Any]) -> Path:
    """Return the folder of the artefact that is made from these inputs."""
    return store / f"{inputs['variant']}-{sha256_json(inputs)[:12]}"


def find(store: Path, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the manifest of the artefact made from `inputs`, with every file that it names whole.

    ArtefactMismatch, with the differences to what the store does hold, unless there is one.
    """
    folder = folder_of(store, inputs)
    try:
        manifest = _read(folder / MANIFEST)
    except FileError:
        raise ArtefactMismatch(_nothing_fits(store, folder, inputs)) from None
    problems = [*differing(manifest["inputs"], inputs), *_damages(folder, manifest)]
    if problems:
        raise ArtefactMismatch(f"{folder}: {'; '.join(problems)}. Compile again")
    return manifest


def compile_artefact(
    application: Any,
    store: Path,
    inputs: Mapping[str, Any],
    progress: Progress,
    debug: bool = False,
) -> dict[str, Any]:
    """Compile NxD Inference's `application`, write the artefact and return its manifest.

    An interrupted compilation of the same inputs is started over, with the compiler's cache that
    it left. Raises CompileError for graphs that are missing or cannot be read, and for a full disk;
    what NxD Inference raises passes through. No manifest is written then.
    """
    folder = folder_of(store, inputs)
    with _locked(folder), _disk_errors(folder):
        _clear(folder)
        started = time.monotonic()
        language = check_language(kernel_sources() if inputs["variant"] == "nki" else ())
        with _own_compiler_folders(folder):
            progress("tracing and compiling both graphs")
            neuron.compile_model(application, folder, debug)
            graphs = _keep_graphs(folder, neuron.buckets(application))
        if not (folder / MODEL_FILE).is_file():
            raise CompileError(f"{folder}: NxD Inference left no {MODEL_FILE}; see its messages")
        manifest = {
            "schema_version": SCHEMA_VERSION,
            "key": sha256_json(inputs),
            "variant": inputs["variant"],
            "backend": "neuron",
            "platform_target": inputs["platform_target"],
            "inputs": dict(inputs),
            "language": language,
            "compile_s": time.monotonic() - started,
            "graphs": graphs,
            "fallbacks": neuron.why_not(application),
            "files": _files(folder),
        }
        if not debug:
            shutil.rmtree(folder / WORK)
        write_json(folder / MANIFEST, manifest)
    return manifest


def publish(store: Path, manifest: Mapping[str, Any]) -> None:
    """Make the store's manifest.json that of the artefact in use."""
    write_json(store / MANIFEST, dict(manifest))


def is_store(directory: Path) -> bool:
    """Say whether a folder holds nothing but artefacts of this module and their manifest."""
    names = [path.name for path in directory.iterdir()]
    return all(name == MANIFEST or name.startswith((".", "baseline-", "nki-")) for name in names)


def read_buckets(store: Path, manifest: Mapping[str, Any]) -> list[Bucket]:
    """Return the counted graphs of an artefact, from the HLO beside it."""
    folder = folder_of(store, manifest["inputs"])
    return [
        Bucket(entry["graph"], entry["tokens"], hlo.count_file(folder / entry["file"]))
        for entry in manifest["graphs"]
    ]


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of one artefact; CompileError while another process compiles it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{folder.name}.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CompileError(
                f"{folder}: another process is compiling this artefact; wait for it or end it"
            ) from None
        yield


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise CompileError(
            f"{folder}: the disk is full ({error}). Free space there, or name another folder with "
            "--compiled-model-path; `main.py --mode doctor` says how much is needed"
        ) from error


@contextmanager
def _own_compiler_folders(folder: Path) -> Iterator[None]:
    """Give NxD Inference and the compiler's cache folders that belong to this artefact alone.

    The defaults are shared by all users of a machine, and each compilation empties the first.
    """
    own = {
        "BASE_COMPILE_WORK_DIR": f"{folder / WORK}/",
        "NEURON_COMPILE_CACHE_URL": str(folder / CACHE),
    }
    before = {name: os.environ.get(name) for name in own}
    os.environ.update(own)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _clear(folder: Path) -> None:
    """Remove what an interrupted compilation left, but for the compiler's cache; make folders."""
    folder.mkdir(exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    for path in folder.iterdir():
        if path.name != CACHE:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    for name in (WORK, CACHE):
        (folder / name).mkdir(exist_ok=True)


def _keep_graphs(folder: Path, buckets: Mapping[str, Sequence[int]]) -> list[dict[str, Any]]:
    """Copy the HLO of every bucket beside the compiled model and return what they are."""
    kept = []
    for graph in GRAPHS:
        for index, tokens in enumerate(buckets[graph]):
            source = _only_module(folder / WORK / graph / f"_tp0_bk{index}")
            name = f"{HLO}/{graph}_bk{index}.pb"
            (folder / HLO).mkdir(exist_ok=True)
            shutil.copyfile(source, folder / name)
            macs = hlo.count_file(folder / name)  # a module that cannot be counted ends it here
            kept.append(
                {
                    "graph": graph,
                    "tokens": tokens,
                    "file": name,
                    "sha256": sha256_file(folder / name),
                    "dot_macs": macs.dot_macs,
                    "nki_macs": macs.nki_macs,
                    "nki_calls": len(macs.calls),
                    "uncounted_calls": macs.uncounted_calls,
                }
            )
    return kept


def _only_module(folder: Path) -> Path:
    """Return the one HLO module of a bucket's work folder, found as the challenge's driver does."""
    found = sorted(folder.glob("*")) if folder.is_dir() else []
    modules = [path for path in found if "hlo_module" in path.name.lower()]
    if len(modules) != 1:
        names = ", ".join(path.name for path in modules) or "none"
        raise CompileError(
            f"{folder}: expected one HLO module (*hlo_module*), found {names}; without it the "
            "NKI ratio cannot be counted"
        )
    return modules[0]


def _files(folder: Path) -> dict[str, dict[str, Any]]:
    """Return {path: size and hash} of an artefact's files, without work folder and cache."""
    described = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name.split("/")[0] not in (WORK, CACHE, MANIFEST):
            size_bytes = path.stat().st_size
            described[name] = {"size_bytes": size_bytes}
            if size_bytes <= _HASHED_BYTES:
                described[name]["sha256"] = sha256_file(path)  # type: ignore[assignment]
    return described


def _damages(folder: Path, manifest: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is missing from an artefact's folder or differs from its manifest."""
    for name, stated in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            yield f"{name} is missing"
        elif path.stat().st_size != stated["size_bytes"]:
            yield f"{name} has another size than when it was compiled"
        elif "sha256" in stated and sha256_file(path) != stated["sha256"]:
            yield f"{name} was changed since it was compiled"


def _read(path: Path) -> dict[str, Any]:
    manifest = read_json(path)
    keys = {"schema_version", "key", "variant", "inputs", "graphs", "files"}
    whole = isinstance(manifest, dict) and keys <= manifest.keys()
    if not whole or manifest["key"] != sha256_json(manifest["inputs"]):
        raise FileError(f"{path}: not the manifest of a compiled model")
    return dict(manifest)


def _nothing_fits(store: Path, folder: Path, inputs: Mapping[str, Any]) -> str:
    """Say what the store holds instead, and in what the nearest of it differs."""
    others = []
    for path in sorted(store.glob(f"{inputs['variant']}-*/{MANIFEST}")):
        try:
            others.append((path, list(differing(_read(path)["inputs"], inputs))))
        except FileError:
            continue
    if folder.is_dir():
        return f"{folder}: its compilation was interrupted; compile again (--compile-only)"
    if not others:
        return (
            f"{store}: holds no compiled {inputs['variant']} model; compile first (--compile-only)"
        )
    path, differences = min(others, key=lambda other: len(other[1]))
    return f"{path}: compiled from something else: {'; '.join(differences)}. Compile again"
