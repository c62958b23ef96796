"""The manifest of a checkpoint: which files make it up, and the hash of each.

Weights are too large to be copied, committed or hashed by the workflow, so a small JSON file stands
for them: it is written last, when every file is in place, and whoever uses the checkpoint verifies
the files against it. The same checkpoint always gives the same manifest, byte for byte.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

SCHEMA_VERSION = 1

# What transformers and NxD Inference read from a checkpoint folder. Everything else there (a model
# card, a licence, the downloader's own notes) changes no result and is not described.
CHECKPOINT_FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "model-*-of-*.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
_CHUNK_BYTES = 4 << 20


class ManifestError(RuntimeError):
    """A checkpoint does not agree with its manifest, or one of the two cannot be read."""


def is_checkpoint_file(name: str) -> bool:
    """Say whether a file of this name, at the top of a checkpoint folder, is part of the model."""
    return any(fnmatchcase(name, pattern) for pattern in CHECKPOINT_FILES)


def checkpoint_names(directory: Path) -> list[str]:
    """Return the sorted names of the files in `directory` that belong to a checkpoint.

    Raises ManifestError when there is no such folder.
    """
    try:
        entries = list(directory.iterdir())
    except OSError as error:
        raise ManifestError(
            f"{directory}: no such checkpoint folder: {error.strerror}; check model.path"
        ) from error
    return sorted(e.name for e in entries if is_checkpoint_file(e.name) and e.is_file())


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal, reading it in pieces of a few megabytes."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(_CHUNK_BYTES))
    with path.open("rb", buffering=0) as stream:
        while count := stream.readinto(buffer):
            digest.update(buffer[:count])
    return digest.hexdigest()


def describe(directory: Path) -> dict[str, Any]:
    """Hash the checkpoint in `directory`.

    Returns {"files": {name: {"sha256", "size_bytes"}}, "sha256": hash of that listing}, names
    sorted. Raises ManifestError when the folder is missing or holds no checkpoint.
    """
    names = checkpoint_names(directory)
    if not names:
        raise ManifestError(
            f"{directory}: holds no file of a checkpoint (config.json, *.safetensors, ...); "
            "make or download the model first"
        )
    return _listing(_hash_files(directory, names))


def write_manifest(
    directory: Path,
    path: Path,
    source: dict[str, Any],
    files: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Describe the checkpoint in `directory` and write its manifest atomically to `path`.

    `source` says where the checkpoint comes from and must hold nothing that changes between two
    identical runs. `files` are entries that the caller has hashed already, so that tens of
    gigabytes are not read twice; they must be all files of the checkpoint (ManifestError if not).
    Returns what was written: schema_version, source, files, sha256.
    """
    if files is None:
        description = describe(directory)
    elif problems := _compare_listing(directory, files):
        raise ManifestError(f"{directory} changed meanwhile: {'; '.join(problems)}; run it again")
    else:
        description = _listing(files)
    manifest = {"schema_version": SCHEMA_VERSION, "source": source, **description}
    _write_atomically(path, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
    return manifest


def read(path: Path) -> dict[str, Any]:
    """Read a manifest; raises ManifestError when it is missing, damaged or of another version."""
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ManifestError(
            f"{path}: no manifest; the checkpoint was not made or downloaded to the end"
        ) from None
    except (OSError, ValueError) as error:
        raise ManifestError(f"{path}: not a readable manifest: {error}") from error
    _check_shape(path, manifest)
    return manifest


def verify(directory: Path, manifest: Mapping[str, Any]) -> None:
    """Raise ManifestError unless `directory` holds exactly the checkpoint of `manifest`.

    Every difference is named: a missing file, one that loaders would read and the manifest does not
    know, another size, another hash. Sizes are compared first, so that a cut file is found at once.
    """
    expected: Mapping[str, Mapping[str, Any]] = manifest["files"]
    problems = _compare_listing(directory, expected)
    if not problems:
        problems = [
            f"{name} has SHA-256 {actual['sha256']}, not {expected[name]['sha256']}"
            for name, actual in _hash_files(directory, expected).items()
            if actual["sha256"] != expected[name]["sha256"]
        ]
    if problems:
        raise ManifestError(
            f"{directory} is not the checkpoint of its manifest: {'; '.join(problems)}. "
            "Fetch or make the model again; for the workflow to do it, delete its manifest first"
        )


def _compare_listing(directory: Path, expected: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Compare names and sizes, which takes no time even where hashing would take minutes."""
    present = set(checkpoint_names(directory))
    problems = [f"{name} is missing" for name in sorted(expected.keys() - present)]
    problems += [
        f"{name} is not in the manifest, but loaders would read it"
        for name in sorted(present - expected.keys())
    ]
    for name in sorted(expected.keys() & present):
        size_bytes = (directory / name).stat().st_size
        if size_bytes != expected[name]["size_bytes"]:
            problems.append(f"{name} has {size_bytes} bytes, not {expected[name]['size_bytes']}")
    return problems


def _hash_files(directory: Path, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Hash several files at a time: hashlib lets other threads run while it works on a chunk."""
    paths = [directory / name for name in names]
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        hashes = pool.map(sha256_file, paths)
        return {
            path.name: {"sha256": sha256, "size_bytes": path.stat().st_size}
            for path, sha256 in zip(paths, hashes, strict=True)
        }


def _listing(files: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {"files": dict(files), "sha256": _listing_sha256(files)}


def _listing_sha256(files: Mapping[str, Mapping[str, Any]]) -> str:
    canonical = json.dumps(files, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("utf-8")).hexdigest()


def _check_shape(path: Path, manifest: Any) -> None:
    """Refuse a manifest that `verify` could misread, one edited by hand included."""
    version = manifest.get("schema_version") if isinstance(manifest, dict) else None
    if version != SCHEMA_VERSION:
        raise ManifestError(
            f"{path}: schema_version is {version!r}, this program reads {SCHEMA_VERSION}; "
            "fetch or make the model again"
        )
    files = manifest.get("files")
    sound = isinstance(files, dict) and all(
        is_checkpoint_file(name)
        and isinstance(entry, dict)
        and set(entry) == {"sha256", "size_bytes"}
        for name, entry in files.items()
    )
    if not (sound and files and _listing_sha256(files) == manifest.get("sha256")):
        raise ManifestError(
            f"{path}: the list of files does not have the hash that the manifest states; "
            "it was edited or damaged: fetch or make the model again"
        )


def _write_atomically(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        with temporary.open("x", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
