"""One variant: whether it agrees with the oracle, and its modelled time."""

from __future__ import annotations

from typing import Any

from kernels.variants import Variant
from kernels.verification import Verification, verify

from .workloads import CORES, checked_cases, described, launch_of, modelled, spec_of

Result = dict[str, Any]


def evaluate(variant: Variant) -> Result:
    """The result of a variant, for JSON.

    A variant that is wrong, or that the kernel or the simulator refuses, is a result as well: it
    says what was found, and has no time.
    """
    workload, unit = described(variant.kernel)
    result: Result = {
        "variant": variant.name,
        "kernel": variant.kernel,
        "settings": dict(variant.settings),
        "basis": "modelled",
        "workload": workload,
        "unit": unit,
        "checks": [],
        "passed": False,
        "problem": "",
        "times": {},
    }
    try:
        result["checks"] = _checks(variant)
        result["problem"] = "; ".join(c["message"] for c in result["checks"] if not c["passed"])
        if not result["problem"]:
            times = modelled(variant.kernel, variant.settings)
            result["times"] = {platform: time.as_dict() for platform, time in times.items()}
            result["passed"] = True
    except Exception as error:  # whatever a variant does wrong belongs into its result
        result["problem"] = f"{type(error).__name__}: {error}"
    return result


def _checks(variant: Variant) -> list[Result]:
    spec = spec_of(variant.kernel)
    launch = launch_of(variant.kernel, variant.settings)
    return [
        _check(verify(spec, case, dtype, launch, cores=CORES))
        for dtype in spec.dtypes
        for case in checked_cases(variant.kernel)
    ]


def _check(found: Verification) -> Result:
    return {
        "case": found.case,
        "dtype": found.dtype,
        "passed": found.passed,
        "max_abs_error": found.max_abs_error,
        "max_ulp_error": found.max_ulp_error,
        "message": found.message,
    }
