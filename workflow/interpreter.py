"""The interpreter of the steps that need the Neuron SDK, and what that one has installed.

It is found by Snakemake's own Python, which has no SDK: nothing of it is imported here.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from glob import glob
from typing import Any

import yaml

from evaluation.sdk import PACKAGES, RELEASES_FILE

_TELL = """
import importlib.metadata, json, sys
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
"""


def model_python(backend: str, configured: str | None) -> str:
    """Return the Python of the steps that touch the model.

    On the simulator that is Snakemake's own. Else it is the one that the configuration names, or
    the newest environment of AWS's images, or Snakemake's own, where the SDK may be installed, too.
    """
    if backend == "simulator":
        return sys.executable
    return configured or newest_image_python() or sys.executable


def newest_image_python() -> str | None:
    """Return the interpreter of the newest Neuron environment on an AWS image, if there is one."""
    pattern: str = yaml.safe_load(RELEASES_FILE.read_text(encoding="utf-8"))["image_python"]
    return max(glob(pattern), key=_numbers, default=None)


def sdk_versions(python: str) -> dict[str, str]:
    """Return {package: version} of the SDK's packages in an interpreter; empty if it does not run.

    What was compiled and measured with others is stale.
    """
    try:
        told = subprocess.run(
            [python, "-c", _TELL, *PACKAGES], capture_output=True, text=True, timeout=60, check=True
        )
        found: dict[str, str] = json.loads(told.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return {}
    return found


def _numbers(path: str) -> tuple[list[int], Any]:
    """Order 2_10 behind 2_9."""
    return [int(digits) for digits in re.findall(r"\d+", path)], path
