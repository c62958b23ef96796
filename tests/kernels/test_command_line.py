"""`python3 test_nki_kernels.py`: what it prints, writes and returns, also where there is no nki."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import test_nki_kernels
from kernels.specs import SPECS

ROOT = Path(__file__).resolve().parents[2]


def report_of(path: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(path.read_text())
    return report


def test_report_holds_errors_refusals_and_cost(tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "report.json"
    assert test_nki_kernels.main(["--kernel", "top8", "rope", "--json", str(path)]) == 0
    report = report_of(path)
    assert report["schema_version"] == 1
    assert list(report["kernels"]) == ["rope", "top8"]
    rope, top8 = report["kernels"]["rope"], report["kernels"]["top8"]
    assert rope["passed"] is True
    assert set(rope["bfloat16"]) == {"cases", "max_abs_error", "max_ulp_error"}
    assert rope["float32"]["cases"] == len(SPECS["rope"].cases)
    assert rope["refusals"] == len(SPECS["rope"].refusals)
    assert rope["cost"]["shapes"]["x"] == [1, 32, 128]
    assert rope["cost"]["instructions"]["vector"] > 0
    assert rope["cost"]["hbm_write_bytes"] == 32 * 128 * 4
    assert "bfloat16" not in top8
    assert set(top8["inputs"]["kernels"]) >= {"kernels/nki_moe_kernels.py", "kernels/reference.py"}
    assert "kernels/nki_attention_kernels.py" not in top8["inputs"]["kernels"]
    printed = capsys.readouterr().out
    assert "SKIP  declared for float32 only" in printed
    assert "all 2 kernels pass" in printed


def test_report_is_the_same_bytes_again(tmp_path: Path) -> None:
    for name in ("first.json", "second.json"):
        test_nki_kernels.main(["--kernel", "add_rmsnorm", "--json", str(tmp_path / name)])
    assert (tmp_path / "first.json").read_bytes() == (tmp_path / "second.json").read_bytes()


def test_failure_is_printed_reported_and_returned(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = replace(SPECS["silu"], reference=lambda x: np.full_like(x, 3.0))
    monkeypatch.setitem(SPECS, "silu", broken)
    path = tmp_path / "report.json"
    assert test_nki_kernels.main(["--kernel", "silu", "--json", str(path)]) == 1
    entry = report_of(path)["kernels"]["silu"]
    assert entry["passed"] is False
    assert len(entry["failures"]) == 2 * len(broken.cases)
    assert "cost" not in entry
    printed = capsys.readouterr().out
    assert "FAILED: silu" in printed
    assert "elements beyond tolerance" in printed


def test_exception_in_a_kernel_is_a_failure_not_an_end(
    capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = replace(SPECS["silu"], function="nki_rms_kernel")
    monkeypatch.setattr(test_nki_kernels, "verify_refusal", lambda spec, refusal: None)
    result = test_nki_kernels.run_case(missing, missing.cases[0], "float32")
    assert not result.passed
    assert "nki_rms_kernel" in result.message


@pytest.mark.parametrize("arguments", [["--kernel", "rms"], ["--kernels", "silu"], ["silu"]])
def test_unknown_arguments_are_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        test_nki_kernels.main(arguments)
    assert stop.value.code == 2


def alone_without_nki(tmp_path: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a copy of the kernels and their test alone, with no `nki` to be found."""
    if importlib.util.find_spec("nki") and "nki_sim" not in str(find_nki()):
        pytest.skip("the Neuron SDK is installed here: there is no Python without nki to try")
    shutil.copytree(ROOT / "kernels", tmp_path / "kernels")
    shutil.copy(ROOT / "test_nki_kernels.py", tmp_path)
    environment = os.environ | {"PYTHONPATH": sysconfig.get_path("purelib")}
    return subprocess.run(  # -S: no .pth file of the environment puts the simulator in place
        [sys.executable, "-S", *command],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )


def find_nki() -> str | None:
    found = importlib.util.find_spec("nki")
    return found.origin if found else None


def test_without_any_nki_it_fails_and_says_so(tmp_path: Path) -> None:
    run = alone_without_nki(tmp_path, "test_nki_kernels.py")
    assert run.returncode == 2
    assert "no `nki` can be imported" in run.stderr
    assert "PASS" not in run.stdout


def test_without_any_nki_pytest_fails_and_says_so(tmp_path: Path) -> None:
    run = alone_without_nki(
        tmp_path,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "test_nki_kernels.py",
        "-k",
        "silu",
    )
    assert run.returncode == 1, run.stdout + run.stderr
    assert "no `nki` can be imported" in run.stdout
    assert "passed" not in run.stdout.splitlines()[-1]
    assert "skipped" not in run.stdout.splitlines()[-1]


# The SDK's own nki, on a double -----------------------------------------------------------------

SDK = '''
"""An `nki` as the SDK's: plain launches need a device with matching logical cores, and get copies;
`simulate` runs on the CPU and writes back. Both compute in nki_sim."""
import importlib, os, sys
import numpy as np
from nki_sim import kernel as ours

for name in ("language", "isa", "isa.constants", "collectives", "typing", "compiler", "dtype"):
    sys.modules["nki." + name] = importlib.import_module("nki_sim.nki." + name)

class jit:
    def __init__(self, function, grid=None):
        self.kernel, self.grid = ours.jit(function), grid
    def __getitem__(self, grid):
        return jit(self.kernel.function, grid)
    def on_cpu(self, *args, **kwargs):
        return (self.kernel if self.grid is None else self.kernel[self.grid])(*args, **kwargs)
    def __call__(self, *args, **kwargs):
        if os.environ["NEURON_LOGICAL_NC_CONFIG"] != str(self.grid or 1):
            raise RuntimeError("NCC_EVRF066: the grid is not the logical core's size")
        copies = {k: v.copy() if isinstance(v, np.ndarray) else v for k, v in kwargs.items()}
        return self.on_cpu(*args, **copies)

def simulate(kernel):
    print("simulated by the SDK")
    return kernel.on_cpu
'''
RUN = "import sys, pathlib, test_nki_kernels as t; t.DEVICES = pathlib.Path(sys.argv.pop(1)); "
RUN += "sys.exit(t.main(sys.argv[1:]))"


def with_sdk(
    folder: Path, *arguments: str, device: bool, nki: str = SDK
) -> subprocess.CompletedProcess[str]:
    """Run the tests where `import nki` is the SDK's, with or without a device."""
    (folder / "site/nki").mkdir(parents=True)
    (folder / "site/nki/__init__.py").write_text(nki)
    (folder / "dev").mkdir()
    if device:
        (folder / "dev/neuron0").touch()
    dropped = ("NKI_SIMULATOR", *test_nki_kernels.LOGICAL_CORES)
    environment = {name: value for name, value in os.environ.items() if name not in dropped}
    environment["PYTHONPATH"] = os.pathsep.join([str(folder / "site"), str(ROOT)])
    command = [sys.executable, "-c", RUN, str(folder / "dev"), *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize(("cores", "ran"), [(["--cores", "1"], 6), ([], 6)])
def test_on_a_device_launches_have_the_size_of_its_logical_cores(
    tmp_path: Path, cores: list[str], ran: int
) -> None:
    """One physical core where it is asked for, else two; updated arguments are copies there."""
    path = tmp_path / "report.json"
    words = ["--kernel", "attention_decode", "--kind", "model", "--json", str(path)]
    run = with_sdk(tmp_path, *words, *cores, device=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert ("2 cores  " in run.stdout) == (not cores) and "simulated" not in run.stdout
    report = report_of(path)
    assert report["backend"] == "neuron"
    entry = report["kernels"]["attention_decode"]
    assert entry["float32"]["cases"] + entry["bfloat16"]["cases"] == ran
    assert "cost" not in entry


@pytest.mark.parametrize("chosen", [[], ["--backend", "neuron-simulator"]])
def test_without_a_device_the_sdk_simulates(tmp_path: Path, chosen: list[str]) -> None:
    words = ["--kernel", "attention_decode", "silu", "--kind", "model", *chosen]
    run = with_sdk(tmp_path, *words, device=bool(chosen))
    assert run.returncode == 0, run.stdout + run.stderr
    assert "on neuron-simulator" in run.stdout and "simulated by the SDK" in run.stdout


def test_the_project_s_simulator_where_the_sdk_is(tmp_path: Path) -> None:
    run = with_sdk(tmp_path, "--kernel", "silu", "--backend", "simulator", device=True)
    assert run.returncode == 0 and "on simulator" in run.stdout


@pytest.mark.parametrize(
    ("words", "nki", "says"),
    [
        (["--backend", "neuron"], SDK, "there is no Neuron device: the kernels can run here on"),
        ([], "jit = None", "Neuron SDK 2.29 has it"),
    ],
)
def test_what_a_machine_cannot_do_is_said(
    tmp_path: Path, words: list[str], nki: str, says: str
) -> None:
    run = with_sdk(tmp_path, *words, device=False, nki=nki)
    assert run.returncode == 2 and says in run.stderr and "PASS" not in run.stdout


def test_a_kernel_without_such_a_case_is_no_success(capsys: Any) -> None:
    words = ["--kernel", "rmsnorm", "--cores", "2"]
    assert test_nki_kernels.main(words) == 2
    assert "rmsnorm: no case of this kind is launched on 2 core(s)" in capsys.readouterr().err


def test_nki_sim_is_no_device(capsys: Any) -> None:
    assert test_nki_kernels.main(["--kernel", "silu", "--backend", "neuron-simulator"]) == 2
    assert "the kernels can run here on simulator" in capsys.readouterr().err


def test_several_processes_print_and_report_what_one_does(tmp_path: Path, capsys: Any) -> None:
    outcomes = []
    for jobs in ("1", "2"):
        path = tmp_path / f"{jobs}.json"
        words = ["--kernel", "silu", "top8", "router_softmax", "--jobs", jobs, "--json", str(path)]
        assert test_nki_kernels.main(words) == 0
        outcomes.append((capsys.readouterr().out, path.read_bytes()))
    assert outcomes[0] == outcomes[1]


def test_a_killed_process_is_an_error_that_says_so(
    capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(test_nki_kernels, "check_printing", _end_without_a_word)
    assert test_nki_kernels.main(["--kernel", "silu", "top8", "--jobs", "2"]) == 2
    assert "--jobs 1" in capsys.readouterr().err


def _end_without_a_word(*_: object) -> None:
    os._exit(9)


def test_on_a_device_there_is_one_process() -> None:
    with pytest.raises(test_nki_kernels.NoNKI, match="one process"):
        test_nki_kernels._jobs(test_nki_kernels.parse(["--jobs", "2"]), "neuron")
    assert test_nki_kernels._jobs(test_nki_kernels.parse([]), "neuron") == 1


def test_no_process_is_refused(capsys: Any) -> None:
    with pytest.raises(SystemExit) as stop:
        test_nki_kernels.main(["--jobs", "0"])
    assert stop.value.code == 2
    assert "expected 1 or more" in capsys.readouterr().err
