"""A machine with the double of the Neuron SDK, for this process or for those that it starts."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from evaluation import driver, own_process, sdk
from tests.model import nxdi_double

ROOT = Path(__file__).resolve().parents[2]
VERSIONS = {
    "2.28": {
        "torch-neuronx": "2.8.0.2.10.1",
        "neuronx-distributed": "0.15.22259",
        "neuronx-distributed-inference": "0.8.16251",
        "neuronx-cc": "2.22.1",
        "nki": "0.2.0",
        "transformers": "4.57.6",
    },
    "2.29": {
        "torch-neuronx": "2.9.0.2.13.1",
        "neuronx-distributed": "0.18.27753",
        "neuronx-distributed-inference": "0.9.17334",
        "neuronx-cc": "2.24.5133.0",
        "nki": "0.3.0",
        "transformers": "4.57.6",
    },
}

# Run by every Python that is started with it on its path: a device, and the double's release.
SITE_CUSTOMIZE = """
import os, sys
from pathlib import Path
from neuronx_distributed import release
release.choose(os.environ["NXDI_DOUBLE_RELEASE"])
from evaluation import sdk
sdk._DEVICES = Path(os.environ["NXDI_DOUBLE_DEVICES"])
if "doctor" in sys.orig_argv:
    from evaluation import doctor_device
    doctor_device.DRIVER_VERSION_FILE = sdk._DEVICES / "neuron0"
"""


@contextmanager
def in_this_process(
    monkeypatch: pytest.MonkeyPatch, folder: Path, release: str = "2.29"
) -> Iterator[None]:
    """Make this process see SDK and device; the baseline's own process is played here, too."""
    devices = folder / "dev"
    devices.mkdir(parents=True, exist_ok=True)
    (devices / "neuron0").touch()
    monkeypatch.setattr(sdk, "_DEVICES", devices)
    monkeypatch.setattr(sdk, "version_of", VERSIONS[release].get)

    def run_here(arguments: Sequence[str], what: str) -> None:
        status = driver.main(arguments)
        if status:
            raise driver.DriverError(f"the baseline's evaluation of {what}: status {status}")

    monkeypatch.setattr(own_process, "_run", run_here)
    with nxdi_double.installed(release):
        yield


def environment(folder: Path, release: str = "2.29", **variables: str) -> dict[str, str]:
    """Variables under which a started Python sees the double's SDK and a device."""
    site, devices = folder / "site", folder / "dev"
    for path in (site, devices):
        path.mkdir(parents=True, exist_ok=True)
    (devices / "neuron0").touch()
    (site / "sitecustomize.py").write_text(SITE_CUSTOMIZE)
    for package, version in VERSIONS[release].items():
        described = site / f"{package.replace('-', '_')}-{version}.dist-info"
        described.mkdir(exist_ok=True)
        (described / "METADATA").write_text(f"Name: {package}\nVersion: {version}\n")
    paths = [str(site), str(nxdi_double.SITE), str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "NXDI_DOUBLE_RELEASE": release,
        "NXDI_DOUBLE_DEVICES": str(devices),
        **variables,
    }


def start(
    arguments: Sequence[str], variables: dict[str, str], cwd: Path
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "main.py"), *arguments]
    return subprocess.run(
        command, cwd=cwd, env=variables, capture_output=True, text=True, timeout=200
    )
