"""Provenance names commit, code, packages and machine, and nothing private."""

from __future__ import annotations

import getpass
import json
import platform
import subprocess
from pathlib import Path

import pytest

from evaluation import provenance as module
from evaluation.provenance import (
    git_state,
    machine,
    modelled_inputs,
    nki_version,
    provenance,
    simulator_hash,
    validation_files,
    variant_sources,
    versions,
)


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(
        ["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True
    )


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / "file").write_text("one")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "first")
    return tmp_path


def test_a_clean_commit(repository: Path) -> None:
    state = git_state(repository)
    assert len(state["commit"]) == 40 and state["dirty"] is False


@pytest.mark.parametrize("name", ["file", "new"])
def test_edited_and_new_files_make_it_dirty(repository: Path, name: str) -> None:
    (repository / name).write_text("two")
    assert git_state(repository)["dirty"] is True


def test_ignored_files_do_not(repository: Path) -> None:
    (repository / ".git" / "info" / "exclude").write_text("results\n")
    (repository / "results").write_text("x")
    assert git_state(repository)["dirty"] is False


def test_no_commit_is_said(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    state = git_state(tmp_path)
    assert state["commit"] is None and state["dirty"] is None and state["commit_absent"]


def test_another_repository_around_is_not_ours(repository: Path) -> None:
    (repository / "unpacked").mkdir()
    assert "another repository" in git_state(repository / "unpacked")["commit_absent"]


def test_without_git_it_says_so(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert git_state(repository)["commit_absent"] == "git is not installed"


def test_versions_and_machine_are_filled() -> None:
    assert {"python", "torch", "numpy", "ml_dtypes", "nki"} <= versions().keys()
    assert nki_version() == "nki_sim"
    described = machine()
    assert described["cores"] >= 1 and described["cpu"] and described["memory_bytes"] > 2**28


def test_nothing_private_is_in_it() -> None:
    text = json.dumps(provenance())
    for private in (platform.node(), str(Path.home()), str(module.REPOSITORY), getpass.getuser()):
        assert len(private) < 4 or private not in text


def test_the_baseline_depends_on_no_kernel() -> None:
    sources = variant_sources("baseline")
    assert sources["kernels"] == {}
    assert {"model/baseline.py", "model/generation.py"} <= sources["model_code"].keys()
    assert "model/layers.py" not in sources["model_code"]


def test_the_nki_variant_depends_on_kernels_and_layers() -> None:
    sources = variant_sources("nki")
    assert {"model/qwen_cpu.py", "model/layers.py", "model/qwen_rows.py"} <= sources[
        "model_code"
    ].keys()
    assert {"kernels/nki_custom_rmsnorm.py", "kernels/nki_common.py"} <= sources["kernels"].keys()
    assert "model/baseline.py" not in sources["model_code"]


def test_the_simulators_hash_follows_its_sources(tmp_path: Path) -> None:
    (tmp_path / "nki_sim").mkdir()
    source = tmp_path / "nki_sim" / "a.py"
    source.write_text("x = 1")
    before = simulator_hash(tmp_path)
    source.write_text("x = 2")
    after = simulator_hash(tmp_path)
    source.rename(source.with_name("b.py"))
    assert len({before, after, simulator_hash(tmp_path)}) == 3


@pytest.mark.parametrize("file", ["latency/scheduler.py", "hardware/trn2.yaml", "README.md"])
def test_what_only_predicts_times_decides_no_result(tmp_path: Path, file: str) -> None:
    for name in ("errors.py", "latency/scheduler.py", "hardware/trn2.yaml", "README.md"):
        path = tmp_path / "nki_sim" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("a: 1")
    (tmp_path / "validation").mkdir()
    (tmp_path / "validation" / "__main__.py").write_text("")
    before = simulator_hash(tmp_path), modelled_inputs(validation_files(tmp_path), tmp_path)
    (tmp_path / "nki_sim" / file).write_text("a: 2")
    after = simulator_hash(tmp_path), modelled_inputs(validation_files(tmp_path), tmp_path)
    assert after[0] == before[0]
    assert (after[1] == before[1]) == file.endswith(".md")
