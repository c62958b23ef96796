"""A copy of the repository in which the workflow runs, with stand-ins for the programs."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.workflow.forked import Run

ROOT = Path(__file__).resolve().parents[2]
STANDIN = Path(__file__).with_name("standin.py")
TIMEOUT_S = 300.0
EVERYTHING = ("all", "results/submission_verified.json")
_NOT_SOURCES = (
    ".*",
    "results",
    "logs",
    "__pycache__",
    "technical_report.tex",
    "technical_report.numbers.json",
    "technical_report.pdf",
)
_JOBS = {
    r"results/model_manifest\.json": "make_tiny_model",
    r"results/compiled/(\w+)/manifest\.json": r"compile_\1",
    r"results/evaluations/(\w+)/prompt_(\d+)\.\w+": r"evaluate_\1 \2",
    r"results/path_checks/(\w+)\.json": r"check_path \1",
    r"results/kernel_tests/(\w+)\.json": r"test_kernel \1",
    r"results/predictions/(\w+)\.json": r"predict_latency \1",
    r"results/validation/latency\.\w+": "validate_latency",
    r"results/tuning/(\w[\w-]*)\.json": r"tune_variant \1",
    r"results/tuning_ladder\.json": "collect_ladder",
    r"results/benchmark_results\.json": "aggregate_results",
    r"results/tables/(\w+)\.\w+": r"tabulate \1",
    r"report/figures/(\w+)\.\w+": r"plot_figure \1",
    r"report/technical_report\.(tex|numbers\.json)": "render_report",
    r"report/technical_report\.pdf": "build_pdf",
    r"results/submission\.zip": "archive",
    r"results/submission_verified\.json": "verify_archive",
}


@dataclass(frozen=True)
class Checkout:
    """A copy of the repository's sources, and what a test does with it."""

    path: Path

    def start(self, *arguments: str, **environment: str) -> Run:
        """Start Snakemake here, with these variables beside those of this process."""
        foreign = ("SNAKEMAKE", "PYTHON")
        clean = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
        return Run(["--cores", "2", *arguments], self.path, clean | environment)

    def run(self, *arguments: str, fails: bool = False, **environment: str) -> str:
        """Run Snakemake to its end and return its output; its status must be as expected."""
        run = self.start(*arguments, **environment)
        assert (run.wait(TIMEOUT_S) != 0) == fails, run.output()
        return run.output()

    def stale(self, *arguments: str) -> set[str]:
        """Return the jobs that a run would carry out now, as `rule` or `rule wildcards`."""
        table = self.run("--summary", *EVERYTHING, *arguments)
        rows = [line.split("\t") for line in table.splitlines()]
        plans = {row[0]: row[5] for row in rows if len(row) == 6}
        assert plans.pop("output_file") == "plan", table
        return {_job(output) for output, plan in plans.items() if plan != "no update"}

    @contextmanager
    def changed(self, file: str, change: Callable[[str], str]) -> Iterator[None]:
        """Have `file` changed for a while; its content and times come back afterwards."""
        path = self.path / file
        before, status = path.read_bytes(), path.stat()
        text = before.decode()
        assert change(text) != text or change is touch, f"{file} was not changed"
        path.write_text(change(text))
        try:
            yield
        finally:
            path.write_bytes(before)
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    def whole_products(self) -> dict[str, bytes]:
        """Return every file that the workflow made, by path, but those that a kill cut off."""
        made = [*self.path.glob("results/**/*"), *self.path.glob("report/figures/*")]
        made += self.path.glob("report/technical_report.[tp][ed][xf]")
        return {
            file.relative_to(self.path).as_posix(): file.read_bytes()
            for file in sorted(made)
            if file.is_file() and file.suffix != ".part"
        }


def touch(text: str) -> str:
    """Change nothing: writing the same text again makes a file newer."""
    return text


def copy_repository(destination: Path) -> Checkout:
    """Copy the sources, with stand-ins for the programs that jobs run."""
    shutil.copytree(ROOT, destination, ignore=shutil.ignore_patterns(*_NOT_SOURCES))
    for figure in (destination / "report").glob("figures/*.p*"):
        figure.unlink()
    shutil.copyfile(STANDIN, destination / "sitecustomize.py")
    return Checkout(destination)


def _job(output: str) -> str:
    for pattern, job in _JOBS.items():
        if match := re.fullmatch(pattern, output):
            return match.expand(job)
    raise AssertionError(f"no rule of these tests makes {output}")
