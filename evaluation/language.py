"""The language check: the kernels' sources against what each release's compiler accepts.

The simulator runs any Python, the compiler does not; a kernel that only the simulator can run is
refused before anything is traced.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from evaluation.provenance import REPOSITORY


class LanguageError(RuntimeError):
    """A kernel's source that the compiler of some release refuses."""


def kernel_sources() -> list[Path]:
    """Return the files in which the kernels of `kernels.specs` are, each once."""
    from kernels.specs import SPECS

    return sorted({REPOSITORY / "kernels" / spec.file for spec in SPECS.values()})


def check_language(files: Iterable[Path]) -> dict[str, Any]:
    """Return {"sdk_versions": checked for, "warnings": texts}; LanguageError lists every error."""
    from nki_sim import lint

    findings = [finding for file in files for finding in lint.check(file)]
    errors = [str(finding) for finding in findings if finding.is_error]
    if errors:
        lines = "".join(f"\n  {error}" for error in errors)
        raise LanguageError(f"the compiler refuses what these lines are written in:{lines}")
    return {"sdk_versions": list(lint.VERSIONS), "warnings": [str(found) for found in findings]}
