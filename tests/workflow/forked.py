"""Snakemake in a fork of a process that has loaded it: a run is spared a second or two."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["snakemake.cli"])


class Run:
    """What `python -m snakemake` does in a folder, as the leader of a process group of its own.

    The process that is forked knows Snakemake and nothing of the project.
    """

    def __init__(
        self, arguments: Sequence[str], folder: Path, environment: Mapping[str, str]
    ) -> None:
        """Start it with these variables and no others."""
        self._log = tempfile.NamedTemporaryFile()  # noqa: SIM115 (it goes when this object does)
        words = (arguments, folder, environment, self._log.name)
        self._process = _FORKS.Process(target=_snakemake, args=words)
        self._process.start()
        self.pid = self._process.pid

    @property
    def status(self) -> int | None:
        """The exit status, below zero for a signal; None while it runs."""
        return self._process.exitcode

    def wait(self, timeout_s: float) -> int:
        """Return the exit status; a run that does not end in time is killed with its jobs."""
        self._process.join(timeout_s)
        if self.status is None:
            os.killpg(self.pid, signal.SIGKILL)
            raise TimeoutError(self.output())
        return self.status

    def output(self) -> str:
        """Return what it and its jobs have printed so far."""
        return Path(self._log.name).read_text()


def _snakemake(
    arguments: Sequence[str], folder: Path, environment: Mapping[str, str], log: str
) -> None:
    gc.freeze()
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # even if whoever tests ignores it
    with open(log, "wb") as stream:
        os.dup2(stream.fileno(), sys.stdout.fileno())
        os.dup2(stream.fileno(), sys.stderr.fileno())
    named = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    of_tests = {p for p in sys.path if Path(p).is_relative_to(ROOT / "tests")} | {str(ROOT)}
    sys.path[:] = [str(folder), *named, *(p for p in sys.path if p not in of_tests)]
    from snakemake.cli import main

    main(arguments)
