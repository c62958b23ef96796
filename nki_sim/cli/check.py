"""``check``: the language check, then a trace at the shapes with all of the simulator's checks."""

from __future__ import annotations

import argparse
import inspect

from ..errors import SimulationError
from ..lint import VERSIONS, Finding, check
from ..lint.check import plain_function
from ..lint.versions import parse
from ..trace import record
from .output import collected_warnings, explain_error, short_path, show_source, show_warnings
from .target import UsageError, kernels_in, load, prepare, split


def main(arguments: argparse.Namespace) -> int:
    """Run both checks; 1 when either finds an error."""
    wrong = _language(arguments)
    if not arguments.shapes and _needs_shapes(arguments.target):
        print("trace: not run; name one kernel and give its arguments with --shapes")
        return int(wrong)
    return int(_trace(arguments)) or int(wrong)


def _language(arguments: argparse.Namespace) -> bool:
    """Print the findings; whether there is an error."""
    path, name = split(arguments.target)
    try:
        versions = parse(filter(None, arguments.versions.split(","))) or VERSIONS
        findings = check(f"{path}:{name}" if name else path, versions)
    except (ValueError, SyntaxError) as error:
        raise UsageError(str(error)) from error
    errors = [f for f in findings if f.is_error]
    shown = errors if arguments.quiet else findings
    for finding in shown:
        print(_describe(finding))
    print(f"language: SDK {', '.join(versions)}: {_count(len(errors), len(findings))}")
    return bool(errors)


def _describe(finding: Finding) -> str:
    where = f"{short_path(finding.file)}:{finding.line}:{finding.column}"
    return (
        f"{where}: {finding.severity} [{finding.rule}] {finding.what}\n"
        f"{show_source(finding.file, finding.line)}\n"
        f"  remedy: {finding.remedy} (SDK {', '.join(finding.versions)})"
    )


def _count(errors: int, findings: int) -> str:
    if not findings:
        return "nothing found"
    return f"{errors} errors, {findings - errors} warnings"


def _needs_shapes(target: str) -> bool:
    """Whether there is something to say before a trace: which kernel, on which arguments."""
    if not split(target)[1] and len(kernels_in(target)) > 1:
        return True
    parameters = inspect.signature(plain_function(load(target)[2])).parameters.values()
    return any(p.default is p.empty for p in parameters)


def _trace(arguments: argparse.Namespace) -> bool:
    """Run the kernel; whether it is wrong."""
    target = prepare(arguments.target, arguments.shapes, arguments.seed, arguments.lnc)
    error: Exception | None = None
    with record() as recording, collected_warnings() as raised:
        try:
            target.kernel(**target.arguments)
        except Exception as caught:
            error = caught
    print(show_warnings(raised, recording.launches), end="")
    if error is not None:
        print(explain_error(error))
        kind = "not modelled" if type(error).__name__ == "NotModelled" else "refused"
        kind = kind if isinstance(error, SimulationError) else "failed"
        print(f"trace: {target.described()}: {kind}")
        return True
    count = sum(sum(launch.counts.values()) for launch in recording.launches)
    print(f"trace: {target.described()}: {count} instructions, all legal")
    return False
