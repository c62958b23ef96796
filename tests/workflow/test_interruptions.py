"""Runs that are killed, interrupted or failing: the next plain run ends with the right results."""

from __future__ import annotations

import os
import random
import re
import signal
import time
from pathlib import Path

import pytest
from checkout import EVERYTHING, Checkout

from report.figures import FIGURES
from tests.workflow.forked import Run

FIGURE = next(iter(FIGURES))
KINDS = {
    "make_tiny_model": "results/model_manifest.json",
    "compile_baseline": "results/compiled/baseline/manifest.json",
    "compile_nki": "results/compiled/nki/manifest.json",
    "test_nki_kernels": "results/kernel_tests/rmsnorm.json",
    "evaluate_baseline": "results/evaluations/baseline/prompt_1.json",
    "evaluate_nki": "results/evaluations/nki/prompt_1.json",
    "check_path": "results/path_checks/rows_float32.json",
    "prediction": "results/predictions/trn3.json",
    "validation": "results/validation/latency.json",
    "aggregate_results": "results/benchmark_results.json",
    "plot_figure": f"report/figures/{FIGURE}.pdf",
    "tabulate": "results/tables/prompts.html",
    "render_report": "report/technical_report.tex",
    "build_pdf": "report/technical_report.pdf",
    "archive": "results/submission.zip",
    "verify_archive": "results/submission_verified.json",
}
"""What each kind of job makes, in an order in which no target needs a later one."""

PAUSE_S = 0.08
DEADLINE_S = 120.0


def start_and_wait_for(checkout: Checkout, kind: str, signs: Path) -> Run:
    """Start a slow run that needs a job of this kind; return as soon as that is at work."""
    checkout.path.joinpath(KINDS[kind]).unlink(missing_ok=True)
    signs.mkdir(exist_ok=True)
    sign = signs / kind
    sign.unlink(missing_ok=True)
    slow = {"STANDIN_STARTED": str(signs), "STANDIN_PAUSE_S": str(PAUSE_S)}
    run = checkout.start(KINDS[kind], **slow)
    deadline = time.monotonic() + DEADLINE_S
    while not sign.exists():
        assert run.status is None and time.monotonic() < deadline, run.output()
        time.sleep(0.01)
    return run


def start_and_hold(checkout: Checkout, signs: Path) -> Run:
    """Start a run and return while a job of it is at work and will be until the group is killed."""
    run = start_and_wait_for(checkout, "make_tiny_model", signs)
    os.kill(int((signs / "make_tiny_model").read_text()), signal.SIGSTOP)
    return run


def end_by(run: Run, number: signal.Signals) -> None:
    os.killpg(run.pid, number)
    assert run.wait(DEADLINE_S) != 0


def test_each_kind_of_job_may_be_killed_at_any_moment(
    fresh: Checkout, finished: Checkout, tmp_path: Path
) -> None:
    """One checkout, killed within every kind of job in turn; at the end nothing shows of it."""
    moments = random.Random(1)
    for kind in KINDS:
        run = start_and_wait_for(fresh, kind, tmp_path / "signs")
        time.sleep(moments.uniform(0, 5 * PAUSE_S))
        end_by(run, signal.SIGKILL)
        for lock in (fresh.path / ".snakemake").glob("locks/*"):
            lock.unlink()  # what --unlock does
    fresh.run(*EVERYTHING)
    assert fresh.stale() == set()
    assert fresh.whole_products() == finished.whole_products()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_goes_on_without_further_ado(
    begun: Checkout, finished: Checkout, tmp_path: Path, number: signal.Signals
) -> None:
    for kind in ("compile_nki", "evaluate_baseline"):
        end_by(start_and_wait_for(begun, kind, tmp_path / "signs"), number)
    begun.run(*EVERYTHING)
    assert begun.whole_products() == finished.whole_products()


def test_a_run_does_not_start_beside_a_job_that_outlived_its_own(
    begun: Checkout, finished: Checkout, tmp_path: Path
) -> None:
    run = start_and_hold(begun, tmp_path / "signs")
    try:
        os.kill(run.pid, signal.SIGKILL)
        run.wait(DEADLINE_S)
        begun.run("--unlock")
        output = begun.run(*EVERYTHING, fails=True)
        assert "a job of an earlier run that was killed is still working" in output
        job = (tmp_path / "signs" / "make_tiny_model").read_text()
        assert job in re.search(r"end it: kill ([\d ]+)", output)[1].split()
    finally:
        os.killpg(run.pid, signal.SIGKILL)
    begun.run(*EVERYTHING)
    assert begun.whole_products() == finished.whole_products()


def test_two_runs_do_not_collide(begun: Checkout, tmp_path: Path) -> None:
    run = start_and_hold(begun, tmp_path / "signs")
    try:
        assert "LockException" in begun.run(*EVERYTHING, fails=True)
        begun.run("--dry-run")
    finally:
        end_by(run, signal.SIGKILL)


def test_a_failing_job_leaves_no_output_and_shows_its_log(begun: Checkout) -> None:
    output = begun.run(*EVERYTHING, fails=True, STANDIN_FAILS="compile_nki")
    assert "stand-in: compile_nki fails as asked" in output
    assert not (begun.path / "results/compiled/nki/manifest.json").exists()
    log = (begun.path / "logs/compile/nki.log").read_text()
    assert "stand-in: compile_nki fails as asked" in log
    begun.run(*EVERYTHING)
