"""Checkouts in which the workflow runs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from checkout import EVERYTHING, Checkout, copy_repository


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout in which everything has been built; a test leaves it as it found it."""
    checkout = copy_repository(tmp_path_factory.mktemp("workflow") / "finished")
    checkout.run(*EVERYTHING)
    return checkout


@pytest.fixture
def begun(finished: Checkout, tmp_path: Path) -> Checkout:
    """A checkout in which the model has been made and whatever no model decides, and no more."""
    later = ("compiled", "evaluations", "path_checks", "benchmark_results.json", "submission*")
    printed = ("figures", "technical_report.tex", "technical_report.pdf")
    ignored = shutil.ignore_patterns(*later, *printed)
    return Checkout(shutil.copytree(finished.path, tmp_path / "begun", ignore=ignored))


@pytest.fixture
def fresh(tmp_path: Path) -> Checkout:
    """A checkout in which nothing has been built."""
    return copy_repository(tmp_path / "fresh")
