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
