"""The programs of the rules: small, without effect when imported, and of this repository."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from checkout import ROOT, Checkout, copy_repository

from kernels.specs import SPECS
from report import build
from report.figures import FIGURES
from report.tables import tables_of
from workflow import preflight, project

SCRIPTS = sorted(p.stem for p in (ROOT / "workflow/scripts").glob("*.py") if p.stem != "__init__")
RULES = "\n".join(file.read_text() for file in sorted((ROOT / "workflow/rules").glob("*.smk")))


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_is_short_and_has_the_name_of_its_rule(script: str) -> None:
    lines = (ROOT / "workflow/scripts" / f"{script}.py").read_text().splitlines()
    assert len(lines) <= 40
    assert re.search(rf"^ *rule {script}:", RULES, re.M)
    assert f"-m workflow.scripts.{script} " in RULES


@pytest.mark.parametrize("script", SCRIPTS)
def test_importing_a_script_does_nothing(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["program", "--no-such-flag"])
    name = f"workflow.scripts.{script}"
    sys.modules.pop(name, None)
    importlib.import_module(name)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_explains_its_flags_and_refuses_others(script: str) -> None:
    main = importlib.import_module(f"workflow.scripts.{script}").main
    with pytest.raises(SystemExit) as helped:
        main(["--help"])
    assert helped.value.code == 0
    with pytest.raises(SystemExit) as refused:
        main(["--no-such-flag"])
    assert refused.value.code == 2


def test_names_that_rules_are_made_from_are_the_project_s() -> None:
    run = {"platform_target": "trn2", "backend": "simulator"}
    assert list(project.figure_captions(run)) == list(FIGURES)
    assert list(project.table_captions(run)) == tables_of("simulator")
    assert project.kernel_files().keys() == SPECS.keys()
    assert all((ROOT / file).is_file() for file in project.kernel_files().values())
    assert set(project.kernel_files().values()) <= set(project.kernel_sources())
    assert all((ROOT / file).is_file() for file in project.submission_files())
    for module, data in project.READS.items():
        assert (ROOT / data).is_file() and Path(data).name in (ROOT / module).read_text()


def test_an_installed_package_with_the_name_of_ours_is_never_taken(
    fresh: Checkout, tmp_path: Path
) -> None:
    """`kernels` is also a package on PyPI; Snakemake and jobs must find the repository's."""
    for package in ("kernels", "model", "evaluation", "report", "workflow"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text(f"raise ImportError('foreign {package}')")
    program = "import kernels, model\nprint('found', kernels.__file__, model.__file__)\n"
    (fresh.path / "tests" / "where.py").write_text(program)
    with (fresh.path / "Snakefile").open("a") as snakefile:
        snakefile.write("\nrule where:\n    shell: '\"$PYTHON\" tests/where.py'\n")
    output = fresh.run("where", PYTHONPATH=str(tmp_path))
    found = [str(fresh.path / part / "__init__.py") for part in ("kernels", "model")]
    assert " ".join(["found", *found]) in output


def test_a_checkout_in_an_awkward_place_works(tmp_path: Path) -> None:
    checkout = copy_repository(tmp_path / "with space and 'quotes'")
    checkout.run("results/compiled/baseline/manifest.json")


def test_a_place_that_snakemake_cannot_work_in_is_named(tmp_path: Path) -> None:
    checkout = copy_repository(tmp_path / "a{b}")
    assert f"Move this folder: {checkout.path}" in checkout.run("--dry-run", fails=True)


def test_another_working_folder_is_refused(fresh: Checkout, tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "config.yaml").write_text("backend: simulator\n")
    output = fresh.run("--dry-run", "--directory", str(tmp_path), fails=True)
    assert f"First: cd {fresh.path}" in output


def test_the_front_door_installs_the_tex_that_the_workflow_asks_for() -> None:
    front_door = (ROOT / "run").read_text()
    assert f'TEX_PACKAGES="{build.TEX_PACKAGES}"' in front_door
    assert f'TEX_FILES="{" ".join(preflight.TEX_FILES)}"' in front_door


def test_conda_files_state_the_locked_versions() -> None:
    locks = "".join((ROOT / "envs" / name).read_text() for name in ("cpu.txt", "torch-cpu.txt"))
    locked = dict(re.findall(r"^([a-z0-9_.-]+)==([0-9.]+)", locks.lower(), re.M))
    text = (ROOT / "envs" / "cpu.yaml").read_text()
    stated = dict(re.findall(r"^  - ([a-z0-9_-]+)=([0-9.]+)$", text, re.M))
    other_names = {
        "matplotlib-base": "matplotlib",
        "pytorch-cpu": "torch",
        "snakemake-minimal": "snakemake",
    }
    assert stated.pop("python") == "3.11"
    for package, version in stated.items():
        name = other_names.get(package, package)
        assert version == locked.get(name, locked.get(name.replace("_", "-"))), package


def test_the_workflow_is_formatted() -> None:
    command = [sys.executable, "-m", "snakefmt", "--check", "Snakefile", "workflow"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_workflow_has_no_lint(finished: Checkout) -> None:
    assert "Congratulations" in finished.run("--lint")
