"""What `compile` leaves behind on the simulator: every kernel traced, keyed by what went into it.

An artefact is a folder with one file, manifest.json. Its key is a hash over everything that
determines it, so that an artefact of other kernels, another model or another simulator is refused,
never reused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from evaluation.benchmark import Progress
from evaluation.files import FileError, read_json, sha256_json, write_json
from evaluation.language import check_language, kernel_sources
from evaluation.provenance import simulator_hash, variant_sources
from evaluation.shapes import QWEN3_30B_A3B, Architecture, traces_of
from evaluation.tracing import run_traced

VARIANTS = ("baseline", "nki")
SCHEMA_VERSION = 1
_MANIFEST = "manifest.json"
TRUE = "Qwen3-30B-A3B, rank of 4"


class ArtefactMismatch(RuntimeError):
    """A compiled artefact is missing, damaged, or was made from something else."""


@dataclass(frozen=True)
class CompileSettings:
    """What a compilation is for: the backend, the platform it stands for, the model's dtype."""

    backend: str = "simulator"
    platform_target: str = "trn2"
    dtype: str = "float32"


def artefact_inputs(
    variant: str, model_manifest_sha256: str, settings: CompileSettings
) -> dict[str, Any]:
    """Return everything that determines an artefact, as it stands in the sources now."""
    inputs: dict[str, Any] = {
        "variant": variant,
        **asdict(settings),
        "model_manifest_sha256": model_manifest_sha256,
        **variant_sources(variant, settings.backend),
    }
    if variant == "nki" and settings.backend == "simulator":
        inputs["nki_sim"] = simulator_hash()
    return inputs


def compile_artefact(
    variant: str,
    model_path: Path,
    manifest: Mapping[str, Any],
    settings: CompileSettings,
    directory: Path,
    progress: Progress = lambda line: None,
) -> dict[str, Any]:
    """Compile a variant for the simulator, write <directory>/manifest.json and return it.

    For "nki" the kernels' sources are checked against the compiler's language, and every kernel
    runs once at each of the model's own shapes and, without numbers, of those of one rank in four
    of Qwen3-30B-A3B, which checks it and counts its instructions, bytes and multiply-accumulates.
    The baseline has no kernels. `manifest` is the model's ("sha256" is read). LanguageError and
    errors of a kernel pass through; nothing is written then.
    """
    if variant not in VARIANTS:
        raise ValueError(f"expected a variant of {VARIANTS}, received {variant!r}")
    if settings.backend != "simulator":
        raise ValueError(f"this compiles for the simulator, not for {settings.backend!r}")
    inputs = artefact_inputs(variant, str(manifest["sha256"]), settings)
    traces = _architectures(model_path) if variant == "nki" else {}
    compiled = {
        "schema_version": SCHEMA_VERSION,
        "key": sha256_json(inputs),
        "variant": variant,
        "backend": settings.backend,
        "platform_target": settings.platform_target,
        "inputs": inputs,
        "language": check_language(kernel_sources() if variant == "nki" else ()),
        "kernels": list(_trace_all(traces, settings.dtype, progress)),
    }
    write_json(directory / _MANIFEST, compiled)
    return compiled


def check_artefact(
    directory: Path, variant: str, manifest: Mapping[str, Any], settings: CompileSettings
) -> dict[str, Any]:
    """Return the artefact's manifest; ArtefactMismatch, naming what differs, unless it fits."""
    path = directory / _MANIFEST
    try:
        compiled = read_json(path)
    except FileError as error:
        raise ArtefactMismatch(f"{error}; compile first (--compile-only)") from error
    if not isinstance(compiled, dict) or compiled.get("schema_version") != SCHEMA_VERSION:
        raise ArtefactMismatch(f"{path}: not an artefact of this version; compile again")
    recorded = compiled.get("inputs")
    if not isinstance(recorded, dict) or compiled.get("key") != sha256_json(recorded):
        raise ArtefactMismatch(f"{path}: the key is not the hash of the inputs; compile again")
    present = artefact_inputs(variant, str(manifest["sha256"]), settings)
    differences = list(differing(recorded, present))
    if differences:
        raise ArtefactMismatch(
            f"{path}: compiled from something else: {'; '.join(differences)}. Compile again"
        )
    return compiled


def differing(
    recorded: Mapping[str, Any], present: Mapping[str, Any], prefix: str = ""
) -> Iterator[str]:
    """Yield "name is X here, Y now" for each entry in which two nested mappings differ."""
    for name in sorted({*recorded, *present}):
        old, new = recorded.get(name), present.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from differing(old, new, f"{prefix}{name}: ")
        elif old != new:
            yield f"{prefix}{name} is {_brief(old)} there, {_brief(new)} now"


def _brief(value: Any) -> str:
    if isinstance(value, str) and len(value) == 64:
        return value[:12]
    return "absent" if value is None else f"{value}"


def _architectures(model_path: Path) -> dict[str, Architecture]:
    config = json.loads((model_path / "config.json").read_text(encoding="utf-8"))
    return {"own": Architecture.from_config(config), TRUE: QWEN3_30B_A3B.of_rank(4)}


def _trace_all(
    architectures: Mapping[str, Architecture], dtype: str, progress: Progress
) -> Iterator[dict[str, Any]]:
    for model, architecture in architectures.items():
        for trace in traces_of(architecture):
            progress(f"trace {trace.kernel} for {model}, {trace.phase} of {trace.tokens} tokens")
            yield {
                "model": model,
                "kernel": trace.kernel,
                "phase": trace.phase,
                "tokens": trace.tokens,
                "shapes": {name: list(shape) for name, shape in trace.shapes.items()},
                "scalars": dict(trace.scalars),
                "dtype": dtype,
                "summary": run_traced(trace, dtype, numbers=model != TRUE),
            }
