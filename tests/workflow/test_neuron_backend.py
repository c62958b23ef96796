"""The workflow on backend neuron: the real rules and programs, on the double of NxD Inference."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from checkout import ROOT, copy_repository

from tests import prepared
from tests.evaluation import neuron_machine
from workflow import interpreter, preflight

SETTINGS = """
backend: neuron
model: {path: results/model, dtype: float32}
evaluation: {prompts: prompts.txt, sequence_length: 192, max_new_tokens: 2, timed_runs: 1}
neuron: {tp_degree: 1}
"""


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A checkout on a machine with SDK and device, and the variables of its processes.

    Every program is the real one. Only what a device does not change lies there as if done.
    """
    folder = tmp_path_factory.mktemp("instance")
    checkout = copy_repository(folder / "repository").path
    (checkout / "sitecustomize.py").unlink()
    prepared.lay(checkout / "results")
    (checkout / "prompts.txt").write_text("One stone and eight stones.\n")
    (checkout / "device.yaml").write_text(SETTINGS)
    variables = neuron_machine.environment(folder / "machine")
    variables.pop("PYTHONDONTWRITEBYTECODE", None)  # a dozen processes would each compile it all
    return checkout, variables


def snakemake(
    checkout: Path, variables: dict[str, str], *arguments: str
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "snakemake", "--configfile", "device.yaml", "--cores", "1"]
    return subprocess.run(
        [*command, *arguments], cwd=checkout, env=variables, capture_output=True, text=True
    )


def test_the_record_of_a_device_comes_home(
    instance: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    """Measured through the rules, exported, taken in elsewhere, and drawn there."""
    checkout, variables = instance
    done = snakemake(checkout, variables, "results/benchmark_results.json")
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads((checkout / "results/benchmark_results.json").read_text())
    assert record["backend"] == "neuron" and record["neuron_sdk_version"] == "2.29"
    assert record["per_prompt_results"][0]["nki"]["latency"]["basis"] == "measured"
    assert record["summary"]["prompts_passed"] == 1

    again = snakemake(checkout, variables, "results/benchmark_results.json")
    assert "Nothing to be done" in again.stdout + again.stderr

    carry = [sys.executable, "-m", "evaluation.carry"]
    packed = str(tmp_path / "measured.zip")
    subprocess.run([*carry, "export", "--output", packed], cwd=checkout, check=True)
    laptop = copy_repository(tmp_path / "laptop").path
    (laptop / "sitecustomize.py").unlink()
    subprocess.run([*carry, "import", packed], cwd=laptop, check=True)
    command = [
        sys.executable, "-m", "snakemake", "--cores", "1", "--allowed-rules", "render_report",
        "plot_figure", "build_pdf", "--", "report/technical_report.tex",
    ]  # fmt: skip
    drawn = subprocess.run(command, cwd=laptop, capture_output=True, text=True)
    assert drawn.returncode == 0, drawn.stdout + drawn.stderr
    assert "measured" in (laptop / "report" / "technical_report.tex").read_text()


def test_another_sdk_makes_compiling_and_measuring_stale(
    instance: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    checkout, _ = instance
    if not (checkout / "results/benchmark_results.json").is_file():
        pytest.skip("nothing was measured")
    newer = neuron_machine.environment(tmp_path, "2.28")
    planned = snakemake(checkout, newer, "--dry-run", "--quiet", "rules")
    assert "compile_nki" in planned.stdout and "evaluate_baseline" in planned.stdout


def test_a_machine_that_is_not_ready_is_described_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(preflight.PreflightError, match="no checkpoint") as raised:
        preflight.require_health(sys.executable, ["--model-path", str(tmp_path / "absent")], ROOT)
    assert "nothing was started" in str(raised.value)


def fake_python(folder: Path, site: Path) -> str:
    """An interpreter that has what lies in `site`, and no simulator's start-up file."""
    program = folder / "python"
    program.write_text(f"#!/bin/sh\nPYTHONPATH='{site}' exec '{sys.executable}' -S \"$@\"\n")
    program.chmod(0o755)
    return str(program)


def test_nki_may_be_a_module_of_any_distribution(tmp_path: Path) -> None:
    """As on SDK 2.27, where it may come with the compiler."""
    neuron_machine.environment(tmp_path, "2.28")
    site = tmp_path / "site"
    (site / "sitecustomize.py").unlink()
    python = fake_python(tmp_path, site)
    for backend in ("neuron", "neuron-simulator", "simulator"):
        preflight.require_sdk(backend, python)
    for described in site.glob("nki-*"):
        described.rename(site / f"other{described.name}")
    (site / "othernki-0.2.0.dist-info/METADATA").write_text("Name: other\nVersion: 1\n")
    for backend in ("neuron", "neuron-simulator"):
        with pytest.raises(preflight.PreflightError, match="lacks: nki"):
            preflight.require_sdk(backend, python)
    (site / "nki.py").touch()
    preflight.require_sdk("neuron", python)
    shutil.rmtree(next(site.glob("torch_neuronx-*")))
    with pytest.raises(preflight.PreflightError, match="lacks: torch-neuronx"):
        preflight.require_sdk("neuron", python)


def test_the_interpreter_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert interpreter.model_python("simulator", "/other/python") == sys.executable
    assert interpreter.model_python("neuron", "/other/python") == "/other/python"
    for version in ("2_8", "2_10", "2_9"):
        python = tmp_path / f"aws_neuronx_venv_pytorch_{version}_nxd_inference" / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.touch()
    listed = tmp_path / "neuron.yaml"
    pattern = f"{tmp_path}/aws_neuronx_venv_pytorch_*_nxd_inference/bin/python"
    listed.write_text(f"image_python: {pattern}\nreleases: {{}}\n")
    monkeypatch.setattr(interpreter, "RELEASES_FILE", listed)
    assert interpreter.model_python("neuron", None) == pattern.replace("*", "2_10")
    listed.write_text(f"image_python: {tmp_path}/none*\nreleases: {{}}\n")
    assert interpreter.model_python("neuron", None) == sys.executable


def test_versions_of_an_interpreter() -> None:
    assert "torch" in interpreter.sdk_versions(sys.executable)
    assert interpreter.sdk_versions("/bin/false") == {}
    assert interpreter.sdk_versions("/nowhere/python") == {}
