"""The import closure: on a small tree, and on this project against what Python really loads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from checkout import ROOT

from evaluation.imports import closure, module_name
from evaluation.provenance import variant_sources
from workflow.project import (
    WITHOUT,
    driver_files,
    kernel_sources,
    kernel_test_files,
    program_files,
)

TREE = {
    "main.py": "import a.b\nfrom c import thing, sub\nimport json, nothing_of_ours\n",
    "a/__init__.py": "",
    "a/b.py": "from . import sibling\nfrom .deep.er import x\nfrom .. import beyond\n",
    "a/sibling.py": "from a.b import y\n",
    "a/unused.py": "",
    "a/deep/__init__.py": "from ..lifted import z\n",
    "a/deep/er.py": "",
    "a/lifted.py": "",
    "c/__init__.py": "thing = 1\n",
    "c/sub.py": "def late():\n    if True:\n        import d\n",
    "d.py": (
        "from typing import TYPE_CHECKING\nimport typing, importlib\n"
        "if TYPE_CHECKING:\n    import only_types\nelse:\n    import really\n"
        "if typing.TYPE_CHECKING:\n    import only_types\n"
        "if not TYPE_CHECKING:\n    import also\n"
        "importlib.import_module('named')\n__import__('dunder')\n"
        "try:\n    import tried\nexcept ImportError:\n    tried = None\n"
    ),
    **{f"{name}.py": "" for name in ("only_types", "really", "also", "named", "dunder", "tried")},
    "namespace/inner.py": "from namespace import *\n",
    "program.py": "from namespace.inner import f\nfrom namespace import inner\n",
    "json.py": "",
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name, text in TREE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_every_kind_of_import_is_followed(tree: Path) -> None:
    assert closure(tree, "main.py") == sorted(
        TREE.keys() - {"a/unused.py", "only_types.py", "namespace/inner.py", "program.py"}
    )


def test_a_package_without_init_is_followed(tree: Path) -> None:
    assert closure(tree, "program.py") == ["namespace/inner.py", "program.py"]


def test_what_a_program_lies_in_is_imported_with_it(tree: Path) -> None:
    assert closure(tree, "a/deep/er.py") == [
        "a/__init__.py", "a/deep/__init__.py", "a/deep/er.py", "a/lifted.py"]  # fmt: skip


def test_a_module_that_is_cut_takes_along_what_it_alone_leads_to(tree: Path) -> None:
    whole, without = closure(tree, "main.py"), closure(tree, "main.py", without=["c.sub"])
    gone = {"c/sub.py", "d.py", "really.py", "also.py", "named.py", "dunder.py", "tried.py"}
    assert set(whole) - set(without) == gone
    assert closure(tree, "main.py", without=["a", "c"]) == ["json.py", "main.py"]


def test_a_missing_program_and_a_broken_module_are_named(tree: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.py"):
        closure(tree, "none.py")
    (tree / "d.py").write_text("import (")
    with pytest.raises(SyntaxError) as caught:
        closure(tree, "d.py")
    assert str(caught.value.filename).endswith("d.py")


def test_module_name() -> None:
    assert module_name("kernels/nki_kernels.py") == "kernels.nki_kernels"


OPENED = """
import importlib.util, json, os, runpy, sys
root, opened = os.getcwd() + os.sep, set()
def note(event, arguments):
    if event == "open" and isinstance(arguments[0], str):
        path = os.path.realpath(arguments[0])
        compiled = path.startswith(root) and path.endswith(".pyc")
        opened.add(importlib.util.source_from_cache(path) if compiled else path)
sys.addaudithook(note)
target = sys.argv.pop(1)
try:
    run = runpy.run_module if target.startswith("workflow.") else runpy.run_path
    run(target, run_name="__main__")
except SystemExit as end:
    print(end, file=sys.stderr)
print(json.dumps(sorted(path.removeprefix(root) for path in opened if path.startswith(root))))
"""
"""Runs a program and prints which files below the working folder it opened, compiled or not."""


def opened_by(*command: str, folder: Path = ROOT) -> set[str]:
    """Return the project's files that a program opens, sources of modules included."""
    environment = os.environ | {"PYTHONPATH": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", OPENED, *command],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    files = json.loads(done.stdout.splitlines()[-1])
    ours = {file for file in files if not file.startswith((".", "results/", "tests/"))}
    return {file for file in ours if (folder / file).is_file()}


SCRIPTS = sorted(p.stem for p in (ROOT / "workflow/scripts").glob("*.py") if p.stem != "__init__")
AT_START = {"nki_sim/__init__.py", "nki_sim/install.py"}
"""What the environment itself imports into every Python, so that `import nki` works."""


@pytest.mark.parametrize("script", SCRIPTS)
def test_what_a_script_loads_is_among_the_inputs_of_its_rule(script: str) -> None:
    opened = opened_by(f"workflow.scripts.{script}", "--help")
    assert f"workflow/scripts/{script}.py" in opened, "the hook sees nothing"
    assert opened - AT_START <= set(program_files(f"workflow/scripts/{script}.py"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint, made by the real program, whose opened files are looked at as well."""
    folder = tmp_path_factory.mktemp("checkpoint")
    flags = ["--directory", str(folder), "--seed", "0", "--manifest", str(folder / "m.json")]
    opened = opened_by("workflow.scripts.make_tiny_model", *flags)
    assert opened - AT_START <= set(program_files("workflow/scripts/make_tiny_model.py"))
    return folder


@pytest.fixture(scope="module")
def opened_by_main(model: Path) -> dict[tuple[str, str], set[str]]:
    """What main.py opens in each step and variant, really run; baseline first, as nki needs it."""
    opened = {}
    for variant, switches in (
        ("baseline", []),
        ("nki", ["--enable-nki", "--baseline-path", str(model / "baseline")]),
    ):
        folder = model / variant
        paths = ["--model-path", str(model), "--compiled-model-path", str(folder)]
        opened["compile", variant] = opened_by("main.py", "--compile-only", *switches[:1], *paths)
        flags = ["--mode", "evaluate_single", "--prompt-id", "0", "--max-new-tokens", "2"]
        flags += ["--timed-runs", "1", "--output", str(folder / "prompt_0.json")]
        opened["evaluate", variant] = opened_by(
            "main.py", *flags, *switches, *paths, "--skip-compile"
        )
        assert (folder / "manifest.json").exists() and (folder / "prompt_0.json").exists()
    return opened


@pytest.mark.parametrize("variant", ["baseline", "nki"])
@pytest.mark.parametrize("step", ["compile", "evaluate"])
def test_what_main_opens_is_among_the_inputs_of_its_rules(
    step: str, variant: str, opened_by_main: dict[tuple[str, str], set[str]]
) -> None:
    """What is left out on purpose may be imported, but must be listed as that."""
    opened = opened_by_main[step, variant]
    listed = {*WITHOUT[step], *WITHOUT[variant], *WITHOUT["simulator"]}
    left_out = {file for file in opened if any(_lies_in(file, module) for module in listed)}
    shown_or_hashed = {"config/prompts.txt", "config/baselines.yaml"}
    assert opened - left_out - AT_START - shown_or_hashed <= set(driver_files(step, variant))
    if variant == "baseline":  # transformers tries to import a `kernels` of its own, and finds ours
        assert {f for f in opened if f.startswith("kernels/")} <= {"kernels/__init__.py"}


def _lies_in(file: str, module: str) -> bool:
    return f"{module_name(file)}.".startswith(f"{module}.")


def test_what_a_kernel_s_test_opens_is_among_the_inputs_of_its_rule(tmp_path: Path) -> None:
    flags = ["--kernel", "top8", "--json", str(tmp_path / "top8.json")]
    opened = opened_by("test_nki_kernels.py", *flags)
    assert "kernels/nki_moe_kernels.py" in opened
    assert opened <= set(kernel_test_files("top8"))


@pytest.mark.parametrize("variant", ["baseline", "nki"])
@pytest.mark.parametrize("step", ["compile", "evaluate"])
def test_what_a_result_names_as_its_sources_makes_it_stale(step: str, variant: str) -> None:
    named = {file for part in variant_sources(variant).values() for file in part}
    assert named and named <= set(driver_files(step, variant))


def test_the_baseline_does_not_depend_on_kernels() -> None:
    parts = {file.split("/")[0] for file in driver_files("evaluate", "baseline")}
    assert "model" in parts and not parts & {"kernels", "nki_sim"}


def test_a_kernel_s_test_depends_on_its_own_file_among_the_kernels() -> None:
    files = set(kernel_test_files("rope")) & set(kernel_sources())
    assert files == {"kernels/nki_attention_kernels.py", "kernels/nki_common.py"}
