"""The manifest of a checkpoint: what it covers, and every difference it must notice."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from model import manifest
from model.manifest import ManifestError

FILES = {
    "config.json": b"{}",
    "tokenizer.json": b'{"model": {}}',
    "model-00001-of-00002.safetensors": bytes(range(256)) * 33_000,  # more than two read chunks
    "model-00002-of-00002.safetensors": b"second",
    "model.safetensors.index.json": b'{"weight_map": {}}',
}
SHARD = "model-00002-of-00002.safetensors"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def manifest_path(checkpoint: Path) -> Path:
    path = checkpoint.parent / "results" / "model_manifest.json"
    manifest.write_manifest(checkpoint, path, {"kind": "test"})
    return path


def test_describe_gives_the_true_hashes_and_sizes(checkpoint: Path) -> None:
    description = manifest.describe(checkpoint)
    assert description["files"] == {
        name: {"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}
        for name, content in FILES.items()
    }
    assert list(description["files"]) == sorted(FILES)


def test_only_what_a_loader_reads_is_described(checkpoint: Path) -> None:
    before = manifest.describe(checkpoint)
    (checkpoint / "README.md").write_text("a card")
    (checkpoint / "pytorch_model.bin").write_bytes(b"pickle")
    (checkpoint / ".cache").mkdir()
    (checkpoint / ".cache" / "config.json").write_text("{}")
    assert manifest.describe(checkpoint) == before


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("model.safetensors", True),
        ("model-00003-of-000163.safetensors", True),
        ("merges.txt", True),
        ("consolidated.safetensors", False),
        ("onnx/config.json", False),
        ("training_args.json", False),
    ],
)
def test_is_checkpoint_file(name: str, part: bool) -> None:
    assert manifest.is_checkpoint_file(name) is part


def test_the_manifest_depends_on_content_alone(checkpoint: Path, manifest_path: Path) -> None:
    first = manifest_path.read_bytes()
    for path in checkpoint.iterdir():
        os.utime(path, (1, 1))
    manifest.write_manifest(checkpoint, manifest_path, {"kind": "test"})
    assert manifest_path.read_bytes() == first
    (checkpoint / SHARD).write_bytes(b"Second")
    assert manifest.describe(checkpoint)["sha256"] != json.loads(first)["sha256"]


def test_what_was_written_verifies_and_leaves_nothing_else(
    checkpoint: Path, manifest_path: Path
) -> None:
    content = manifest.read(manifest_path)
    manifest.verify(checkpoint, content)
    assert content["source"] == {"kind": "test"}
    assert [path.name for path in manifest_path.parent.iterdir()] == [manifest_path.name]


def _remove(folder: Path) -> None:
    (folder / SHARD).unlink()


def _add(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"would be preferred by loaders")


def _cut(folder: Path) -> None:
    (folder / SHARD).write_bytes(b"secon")


def _flip(folder: Path) -> None:
    (folder / SHARD).write_bytes(b"seconD")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_remove, f"{SHARD} is missing"),
        (_add, "model.safetensors is not in the manifest"),
        (_cut, f"{SHARD} has 5 bytes, not 6"),
        (_flip, f"{SHARD} has SHA-256 "),
    ],
)
def test_verify_names_the_file_and_the_difference(
    checkpoint: Path, manifest_path: Path, change: Callable[[Path], None], message: str
) -> None:
    change(checkpoint)
    with pytest.raises(ManifestError, match=message):
        manifest.verify(checkpoint, manifest.read(manifest_path))


def test_verify_names_every_difference(checkpoint: Path, manifest_path: Path) -> None:
    (checkpoint / "config.json").unlink()
    (checkpoint / "tokenizer.json").write_text("{}")
    with pytest.raises(ManifestError, match=r"config\.json is missing; tokenizer\.json has 2"):
        manifest.verify(checkpoint, manifest.read(manifest_path))


def test_known_hashes_are_taken_but_not_for_another_set_of_files(
    checkpoint: Path, tmp_path: Path
) -> None:
    files = manifest.describe(checkpoint)["files"]
    path = tmp_path / "manifest.json"
    assert manifest.write_manifest(checkpoint, path, {}, files)["files"] == files
    path.unlink()
    (checkpoint / SHARD).unlink()
    with pytest.raises(ManifestError, match=f"{SHARD} is missing"):
        manifest.write_manifest(checkpoint, path, {}, files)
    assert not path.exists()


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir()])
def test_describe_refuses_a_folder_without_a_model(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    make(tmp_path / "absent")
    with pytest.raises(ManifestError, match="absent"):
        manifest.describe(tmp_path / "absent")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no manifest"),
        ('{"schema_version": 1, "files": {"config.js', "not a readable manifest"),
        ("[]", "schema_version is None"),
        ('{"schema_version": 2}', "schema_version is 2"),
        ('{"schema_version": 1, "files": {}}', "edited or damaged"),
        ('{"schema_version": 1, "files": {"../x": {"sha256": "0", "size_bytes": 1}}}', "edited"),
    ],
)
def test_read_refuses(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "manifest.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ManifestError, match=message):
        manifest.read(path)


def test_read_refuses_an_edited_hash(manifest_path: Path) -> None:
    text = manifest_path.read_text()
    edited = text.replace(hashlib.sha256(FILES[SHARD]).hexdigest(), "0" * 64)
    assert edited != text
    manifest_path.write_text(edited)
    with pytest.raises(ManifestError, match="edited or damaged"):
        manifest.read(manifest_path)
