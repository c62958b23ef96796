"""Every command in README and docs is run: here, or by continuous integration itself.

Those of nki_sim's README stand beside their output and are run in tests/nki_sim.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import prepared

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted(ROOT.glob("*/README.md")),
]
CI = (ROOT / ".ci" / "run").read_text()


def commands() -> list[tuple[str, str]]:
    fence = re.compile(r"^```(?:bash|sh)\n(.*?)^```", re.S | re.M)
    found = []
    for document in DOCUMENTS:
        for block in fence.findall(document.read_text()):
            found += [(document.name, line.strip()) for line in block.splitlines() if line.strip()]
    return found


def is_run_by_ci(command: str) -> bool:
    return any(line.split(" | ")[0] == command for line in CI.splitlines())


def in_this_environment(command: str) -> list[str]:
    """The command's words, with .venv/bin/X as the X of the environment that runs the tests."""
    words = shlex.split(command)
    program = Path(words[0])
    if program.parent != Path(".venv/bin"):
        return words
    module = [] if program.name == "python3" else ["-m", program.name]
    return [sys.executable, *module, *words[1:]]


@pytest.fixture(scope="module")
def built_checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository in which the workflow has run, on a few tokens of two prompts."""
    checkout = tmp_path_factory.mktemp("checkout") / "repository"
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for name in listing.splitlines():
        if (ROOT / name).is_file():
            (checkout / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, checkout / name)
    prompts = checkout / "config" / "prompts.txt"
    prompts.write_text("\n\n".join(prompts.read_text().split("\n\n")[:2]))
    settings = checkout / "config" / "config.yaml"
    text = settings.read_text()
    text = re.sub(r"max_new_tokens: \S+", "max_new_tokens: 4", text)
    settings.write_text(re.sub(r"timed_runs: \S+", "timed_runs: 1", text))
    prepared.lay(checkout / "results")
    snakemake = [sys.executable, "-m", "snakemake", "--cores", "2"]
    done = subprocess.run(snakemake, cwd=checkout, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return checkout


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("document", "command"), commands())
def test_command_works(document: str, command: str, built_checkout: Path) -> None:
    """The command as written, in a checkout whose workflow has run (see `built_checkout`)."""
    if is_run_by_ci(command):
        pytest.skip("run by .ci/run itself")
    words = in_this_environment(command)
    done = subprocess.run(words, cwd=built_checkout, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, f"{document}: {command}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_that_a_document_links_exist(document: Path) -> None:
    text = re.sub(r"`[^`]*`", "", document.read_text())  # `kernel[2](...)` is no link
    for target in re.findall(r"\]\(([^)#:\s]+)\)", text):
        assert (document.parent / target).exists(), f"{document.name} links {target}"


def test_the_report_of_a_real_run_is_a_pdf_of_its_record(built_checkout: Path) -> None:
    assert (built_checkout / "report" / "technical_report.pdf").read_bytes().startswith(b"%PDF-")
    record = built_checkout / "results" / "benchmark_results.json"
    check = "from evaluation.records import load_record; import sys; load_record(sys.argv[1])"
    subprocess.run([sys.executable, "-c", check, str(record)], cwd=built_checkout, check=True)
