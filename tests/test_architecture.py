"""The rules of the house: which part may import which, and what every source file must satisfy."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PARTS = (
    "nki_sim", "kernels", "model", "evaluation", "prediction", "report", "tuning", "validation",
    "workflow",
)  # fmt: skip
MAY_IMPORT = {
    "nki_sim": set(),
    "kernels": set(),
    "model": {"kernels"},
    "evaluation": {"kernels", "model", "nki_sim"},
    "report": {"evaluation"},
    "prediction": {"evaluation", "kernels", "model", "nki_sim"},
    "tuning": {"evaluation", "kernels", "nki_sim"},
    "validation": {"evaluation", "nki_sim"},
    "workflow": {"evaluation", "kernels", "model", "report"},
}
# The report knows records only: of `evaluation` it may see what reads and writes them.
REPORT_MAY_SEE = {"evaluation.files", "evaluation.printed", "evaluation.records"}
HOST_FUNCTION_LINES, KERNEL_FUNCTION_LINES = 50, 120


def tracked(pattern: str) -> list[Path]:
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", pattern],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return [ROOT / line for line in listing.splitlines() if (ROOT / line).is_file()]


def sources() -> list[Path]:
    return tracked("*.py")


def imported_modules(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("part", PARTS)
def test_imports_point_one_way(part: str) -> None:
    for path in (ROOT / part).rglob("*.py"):
        for module in imported_modules(path):
            top = module.split(".")[0]
            if top in PARTS and top != part:
                assert top in MAY_IMPORT[part], f"{path.relative_to(ROOT)} imports {module}"
            if part == "report" and top == "evaluation" and module != "evaluation":
                assert module.startswith(tuple(REPORT_MAY_SEE)), f"{path} imports {module}"


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_functions_stay_readable(path: Path) -> None:
    relative = path.relative_to(ROOT).as_posix()
    kernel = relative.startswith("kernels/nki_")
    limit = KERNEL_FUNCTION_LINES if kernel else HOST_FUNCTION_LINES
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            docstring = ast.get_docstring(node, clean=False) or ""
            size = node.end_lineno - node.lineno + 1 - len(docstring.splitlines())
            assert size <= limit, f"{relative}:{node.lineno} {node.name} has {size} lines of code"


def test_workflow_alone_knows_snakemake() -> None:
    for path in sources():
        if path.relative_to(ROOT).parts[0] != "tests":
            assert not any(m.split(".")[0] == "snakemake" for m in imported_modules(path)), path


def test_no_path_of_one_machine_is_in_the_sources() -> None:
    markers = ("/wo" + "rk/", "/ro" + "ot/", "/home/ubu" + "ntu")
    for path in tracked("*"):
        if path.suffix in {".png", ".pdf", ".safetensors", ".pb"} or path.name == "LICENSE":
            continue
        text = path.read_text(encoding="utf-8")
        for marker in markers:
            assert marker not in text, f"{path.relative_to(ROOT)} holds {marker}"
