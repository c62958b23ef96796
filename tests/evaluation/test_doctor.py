"""main.py --mode doctor: what is found, what it says to do, how it ends."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from evaluation import doctor, doctor_device, driver, findings, sdk
from evaluation.findings import GIB
from model import manifest
from model.tiny import write_tiny_checkpoint
from tests.evaluation import neuron_machine


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    write_tiny_checkpoint(directory)
    return directory


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        *doctor_device._LNC_VARIABLES, *doctor_device._OVERRIDDEN, *doctor_device._PORTS,
        "NEURON_CC_FLAGS", "NEURON_RT_VISIBLE_CORES",
    ):  # fmt: skip
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Trainium on which nothing is wrong; what neuron-ls tells is in the file returned."""
    devices = tmp_path / "dev"
    devices.mkdir()
    (devices / "neuron0").touch()
    (tmp_path / "version").write_text("2.26.10.0\n")
    (tmp_path / "product").write_text("trn2.3xlarge\n")
    listing = tmp_path / "neuron-ls.json"
    listing.write_text(json.dumps([{"neuron_device": 0, "memory_size": 96 * GIB}]))
    program = tmp_path / "bin" / "neuron-ls"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ncat '{listing}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    monkeypatch.setattr(sdk, "_DEVICES", devices)
    monkeypatch.setattr(sdk, "_INSTANCE_FILE", tmp_path / "product")
    monkeypatch.setattr(doctor_device, "DRIVER_VERSION_FILE", tmp_path / "version")
    monkeypatch.setattr(sdk, "version_of", neuron_machine.VERSIONS["2.29"].get)
    return listing


def look(checkpoint: Path, tmp_path: Path, *arguments: str, backend: str = "neuron") -> int:
    return driver.main([
        "--mode", "doctor", "--backend", backend, "--model-path", str(checkpoint),
        "--compiled-model-path", str(tmp_path / "compiled"), *arguments,
    ])  # fmt: skip


def test_this_machine_is_described_truly(checkpoint: Path, tmp_path: Path, capsys) -> None:
    """On the simulator everything is there; of a Trainium it says what is lacking."""
    assert look(checkpoint, tmp_path, backend="simulator") == 0
    own, _, device = capsys.readouterr().out.partition("What Qwen3-30B-A3B on a Trainium needs")
    assert "import nki: gives nki_sim" in own and "PROBLEM" not in own
    if not sdk.devices():
        assert "PROBLEM Neuron device: none" in device
    if sdk.version_of("torch-neuronx") is None:
        assert "this Python lacks torch-neuronx" in device
    assert not (tmp_path / "compiled").exists()


def test_a_machine_without_sdk_fails_for_the_device(checkpoint, tmp_path, capsys) -> None:
    if sdk.devices():
        pytest.skip("this machine has a Trainium")
    assert look(checkpoint, tmp_path) == 1
    captured = capsys.readouterr()
    assert "problem(s), see above" in captured.err and "rent an instance" in captured.out


def test_a_sound_machine_passes(checkpoint: Path, tmp_path: Path, machine: Path, capsys) -> None:
    assert look(checkpoint, tmp_path) == 0
    out = capsys.readouterr().out
    assert "PROBLEM" not in out
    for told in (
        "Neuron device: 1, instance type trn2.3xlarge", "driver: 2.26.10.0", "Neuron SDK: 2.29: ",
        "device memory: 96.0 GiB", "device in use: by nobody", "logical cores (LNC): 2",
        "22 runs of 5 prompts", "compiling: 5 to 30 min",
    ):  # fmt: skip
        assert told in out, told


def test_estimates_follow_what_is_asked(checkpoint, tmp_path, machine: Path, capsys) -> None:
    look(checkpoint, tmp_path, "--timed-runs", "1", "--warmup-runs", "0")
    assert "2 runs of 5 prompts" in capsys.readouterr().out
    folder = tmp_path / "compiled" / "nki-0123456789ab"
    folder.mkdir(parents=True)
    look(checkpoint, tmp_path)
    assert "artefact nki-0123456789ab: interrupted" in capsys.readouterr().out
    (folder / "manifest.json").write_text('{"compile_s": 900.0}')
    look(checkpoint, tmp_path)
    out = capsys.readouterr().out
    assert "about 15 min per variant" in out and "complete, compiled in 900 s" in out


@pytest.mark.parametrize("variable, value, says", [
    ("NEURON_LOGICAL_NC_CONFIG", "1", "while the model is compiled for 2"),
    ("NEURON_CC_FLAGS", "--cache_dir=/shared", "may hand out another kernel's code"),
])  # fmt: skip
def test_a_variable_that_spoils_the_run(
    checkpoint, tmp_path, machine, monkeypatch, capsys, variable: str, value: str, says: str
) -> None:
    monkeypatch.setenv(variable, value)
    assert look(checkpoint, tmp_path) == 1
    assert says in capsys.readouterr().out


def test_what_uses_the_device_is_named(checkpoint, tmp_path, machine: Path, capsys) -> None:
    process = {"pid": 4711, "command": "python3 other.py"}
    machine.write_text(json.dumps([{"memory_size": 96 * GIB, "neuron_processes": [process]}]))
    assert look(checkpoint, tmp_path) == 1
    assert "PROBLEM device in use: 4711 (python3 other.py)" in capsys.readouterr().out


@pytest.mark.parametrize("listing", ["", "no json", "{}"])
def test_a_tool_that_tells_nothing_is_no_problem(
    checkpoint, tmp_path, machine: Path, capsys, listing: str
) -> None:
    machine.write_text(listing)
    assert look(checkpoint, tmp_path) == 0
    assert "neuron-ls does not answer" in capsys.readouterr().out


def test_too_little_of_anything_is_a_problem(
    checkpoint, tmp_path, machine: Path, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(doctor_device, "available_memory_bytes", lambda: 1)
    monkeypatch.setattr(doctor_device, "free_disk_bytes", lambda path: GIB)
    machine.write_text(json.dumps([{"memory_size": GIB}]))
    assert look(checkpoint, tmp_path) == 1
    out = capsys.readouterr().out
    for what in ("host memory", "disk of", "device memory"):
        assert f"PROBLEM {what}" in out


def test_a_mixture_of_releases_is_a_problem(
    checkpoint, tmp_path, machine, monkeypatch, capsys
) -> None:
    mixed = {**neuron_machine.VERSIONS["2.29"], "nki": "0.2.0"}
    monkeypatch.setattr(sdk, "version_of", mixed.get)
    assert look(checkpoint, tmp_path) == 1
    assert "nki 0.2.0 is not of SDK 2.29, which has 0.3" in capsys.readouterr().out


def test_a_port_in_use_is_a_problem(checkpoint, tmp_path, machine, monkeypatch, capsys) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setenv("NEURON_RT_ROOT_COMM_ID", f"localhost:{taken.getsockname()[1]}")
        assert look(checkpoint, tmp_path) == 1
    assert "is in use" in capsys.readouterr().out


def test_the_model_s_files_are_compared(checkpoint, tmp_path, machine, capsys) -> None:
    described = tmp_path / "manifest.json"
    manifest.write_manifest(checkpoint, described, {"kind": "tiny", "seed": 0})
    assert look(checkpoint, tmp_path, "--model-manifest", str(described)) == 0
    assert "every hash as in" in capsys.readouterr().out
    content = json.loads(described.read_text())
    content["files"]["config.json"]["sha256"] = "0" * 64
    described.write_text(json.dumps(content))
    assert look(checkpoint, tmp_path, "--model-manifest", str(described)) == 1
    assert look(tmp_path / "nowhere", tmp_path) == 1
    assert "no checkpoint (config.json) there" in capsys.readouterr().out


def test_releases() -> None:
    assert sdk.release_of(neuron_machine.VERSIONS["2.28"]) == "2.28"
    assert sdk.release_of({"neuronx-distributed-inference": "0.70.1"}) == sdk.UNKNOWN
    assert sdk.release_of({}) == sdk.UNKNOWN
    for versions in neuron_machine.VERSIONS.values():
        assert sdk.strangers(versions) == []


def test_sizes_and_places(tmp_path: Path) -> None:
    assert findings.free_disk_bytes(tmp_path / "a" / "b") > 0
    (tmp_path / "file").touch()
    assert findings.writable(tmp_path / "a" / "b")
    assert not findings.writable(tmp_path / "file" / "b")
    assert doctor.summary([findings.Finding("ok", "a", "b", "c")]).splitlines() == [
        "  ok      a: b", "          -> c",
    ]  # fmt: skip
