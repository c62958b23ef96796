"""What a run will need that this machine may lack, checked before the first job."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from evaluation.sdk import REQUIRED
from report.build import INSTALL_TEX
from report.fields import wrap
from report.tex import UntypesettableText, escape

TEX_FILES = (
    "siunitx.sty",
    "booktabs.sty",
    "microtype.sty",
    "hyperref.sty",
    "lmodern.sty",
    "hyperxmp.sty",
)

NEURON_PACKAGES = {"neuron": REQUIRED, "neuron-simulator": ()}
"""Distributions that a backend needs beside `nki`, as pip names them."""

_MISSING = """
import importlib.metadata, importlib.util, sys
def absent(name):
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return True
for name in filter(absent, sys.argv[1:]):
    print(name)
# No source says which distribution brings the module in the first release with it, SDK 2.27.
nki = importlib.util.find_spec("nki")
simulator = type(getattr(nki, "loader", None)).__module__.startswith("nki_sim")
if absent("nki") and (nki is None or simulator):
    print("nki")
"""


class PreflightError(RuntimeError):
    """A run that could not end well; nothing has been started."""


def require_tex() -> None:
    """Raise PreflightError, with the command that helps, unless the report can be typeset."""
    if shutil.which("latexmk") is None:
        missing = ["latexmk"]
    else:
        missing = [name for name in TEX_FILES if not _known_to_tex(name)]
    if missing:
        raise PreflightError(
            f"the PDF cannot be built: {', '.join(missing)} not found. As root:\n"
            f"  {INSTALL_TEX}\n"
            "Everything but the PDF can be built without: ask for results/benchmark_results.json."
        )


def require_printable(team: dict[str, Any]) -> None:
    """Raise PreflightError, naming the field and the character, unless the report can print it."""
    try:
        for text in _texts(wrap(team, "team")):
            escape(text)
    except UntypesettableText as error:
        raise PreflightError(
            f"the report cannot be typeset: {error}.\n"
            "Everything else can be built as it is: ask for results/benchmark_results.json."
        ) from None


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)


def require_sdk(backend: str, python: str) -> None:
    """Raise PreflightError unless `python` has what the backend needs of the Neuron SDK."""
    if backend not in NEURON_PACKAGES:
        return
    wanted = NEURON_PACKAGES[backend]
    asked = subprocess.run([python, "-c", _MISSING, *wanted], capture_output=True, text=True)
    if asked.returncode or asked.stdout:
        lacking = ", ".join(asked.stdout.split()) or asked.stderr.strip()
        raise PreflightError(
            f"backend {backend} needs the Neuron SDK, and {python} lacks: {lacking}. Set "
            "neuron.python in config/config.yaml to the interpreter of a Neuron environment (on "
            "AWS's images /opt/aws_neuronx_venv_pytorch_*_nxd_inference/bin/python), or use "
            "backend: simulator."
        )


def require_health(python: str, flags: Sequence[str], root: Path) -> None:
    """Raise PreflightError with all that the doctor finds, unless a device run can end well."""
    command = [python, "main.py", "--mode", "doctor", *flags]
    paths = [str(root), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]  # as jobs have it
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    looked = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    if looked.returncode:
        raise PreflightError(
            "this machine is not ready for the device; nothing was started.\n"
            f"{looked.stdout}{looked.stderr}"
        )


def require_quiet(lock: Path) -> None:
    """Raise PreflightError while a job of an earlier, killed run is still at work.

    Every job holds a shared lock on the file `lock` for as long as a process of it lives.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PreflightError(
                "a job of an earlier run that was killed is still working in this folder, and "
                "both would write the same files. Wait for it, or end it: "
                f"kill {' '.join(_holders(lock)) or '(processes of another user)'}"
            ) from None


def require(rules: Collection[str], backend: str, python: str, lock: Path) -> None:
    """Check what the jobs of these rules need; raises PreflightError."""
    require_quiet(lock)
    if "build_pdf" in rules:
        require_tex()
    require_sdk(backend, python)


def _holders(lock: Path) -> list[str]:
    """Return the processes that have the file open, as far as this user may see them (Linux)."""
    found = set()
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if link.readlink() == lock.resolve():
                found.add(link.parts[2])
    return sorted(found - {str(os.getpid())}, key=int)


def _known_to_tex(file: str) -> bool:
    return subprocess.run(["kpsewhich", file], capture_output=True).returncode == 0
