"""Snakemake in a fork of a process that has loaded it: a run is spared a second or two."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["snakemake.cli"])


def run(
    arguments: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    log: Path,
    timeout_s: int,
) -> int:
    """Do what `python -m snakemake` does in `folder`, its output in `log`; return its status.

    The process that is forked knows Snakemake and nothing of the project.
    """
    process = _FORKS.Process(target=_snakemake, args=(arguments, folder, environment, log))
    process.start()
    process.join(timeout_s)
    if process.exitcode is None:
        os.killpg(process.pid, signal.SIGKILL)
        raise TimeoutError(log.read_text())
    return process.exitcode


def _snakemake(
    arguments: Sequence[str], folder: Path, environment: Mapping[str, str], log: Path
) -> None:
    gc.freeze()
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    with log.open("wb") as stream:
        os.dup2(stream.fileno(), sys.stdout.fileno())
        os.dup2(stream.fileno(), sys.stderr.fileno())
    of_tests = [path for path in sys.path if Path(path).is_relative_to(ROOT / "tests")]
    sys.path[:] = [str(folder), *(p for p in sys.path if p not in of_tests and p != str(ROOT))]
    from snakemake.cli import main

    main(arguments)
