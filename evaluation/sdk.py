"""The Neuron SDK as this Python has it: versions of its packages, the release, the devices.

Nothing of the SDK is imported, so that asking works anywhere. `envs/neuron.yaml` states which
versions make up a release.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

RELEASES_FILE = Path(__file__).resolve().parent.parent / "envs" / "neuron.yaml"
PACKAGES = (
    "torch-neuronx",
    "neuronx-distributed",
    "neuronx-distributed-inference",
    "neuronx-cc",
    "libneuronxla",
    "nki",
    "torch-xla",
    "torch",
    "transformers",
)
"""Distributions on which a compiled model depends."""

REQUIRED = ("torch-neuronx", "neuronx-distributed", "neuronx-distributed-inference", "neuronx-cc")
"""Those without which nothing can be compiled for a device."""

UNKNOWN = "unknown"
_INSTANCE_FILE = Path("/sys/devices/virtual/dmi/id/product_name")
_DEVICES = Path("/dev")


def installed() -> dict[str, str]:
    """Return {package: version} of those of `PACKAGES` that are installed."""
    return {name: version for name in PACKAGES if (version := version_of(name)) is not None}


def missing() -> list[str]:
    """Return what this Python and this machine lack to drive a device, in words."""
    lacking = [f"the package {name}" for name in REQUIRED if version_of(name) is None]
    if not devices():
        lacking.append("a Neuron device (/dev/neuron0)")
    return lacking


def version_of(package: str) -> str | None:
    """Return the version of an installed distribution, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


@cache
def releases() -> dict[str, dict[str, str]]:
    """Return {release: {package: version prefix}} from `envs/neuron.yaml`, oldest first."""
    content: Mapping[str, Any] = yaml.safe_load(RELEASES_FILE.read_text(encoding="utf-8"))
    return {str(release): dict(packages) for release, packages in content["releases"].items()}


def release_of(versions: Mapping[str, str]) -> str:
    """Return the SDK release that has this version of NxD Inference, or "unknown"."""
    own = versions.get("neuronx-distributed-inference", "")
    for release, packages in releases().items():
        if is_version(own, packages["neuronx-distributed-inference"]):
            return release
    return UNKNOWN


def strangers(versions: Mapping[str, str]) -> list[str]:
    """Return, in words, each package that is not of the release that NxD Inference belongs to."""
    release = release_of(versions)
    return [
        f"{package} {versions[package]} is not of SDK {release}, which has {wanted}"
        for package, wanted in releases().get(release, {}).items()
        if package in versions and not is_version(versions[package], wanted)
    ]


def is_version(version: str, prefix: str) -> bool:
    """Say whether a version is the one that `prefix` names, part by part: 0.7 is not 0.70."""
    return f"{version}.".replace("+", ".").startswith(f"{prefix}.")


def devices() -> int:
    """Return how many Neuron devices this machine has."""
    return len([path for path in _DEVICES.glob("neuron*") if path.name[6:].isdigit()])


def instance_type() -> str:
    """Return the EC2 instance type, as the machine's firmware states it, or "unknown"."""
    try:
        name = _INSTANCE_FILE.read_text(encoding="utf-8").strip()
    except OSError:
        return UNKNOWN
    return name if name.startswith("trn") else UNKNOWN
