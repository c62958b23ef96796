"""``python -m tuning``: evaluates one variant of a kernel, or collects the results of all."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from kernels.variants import variants
from nki_sim.install import install


def main() -> int:
    """Run one command and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tuning", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("variant", help="evaluate one variant")
    one.add_argument("name", choices=sorted(variants()), metavar="NAME", help="one of `list`")
    one.add_argument("--output", type=Path, required=True, help="JSON")
    every = commands.add_parser("collect", help="put all results into one table")
    every.add_argument("files", type=Path, nargs="+", help="JSON files of all variants")
    every.add_argument("--output", type=Path, required=True, help="JSON")
    every.add_argument("--table", type=Path, required=True, help="the same as Markdown")
    steps = commands.add_parser("ladder", help="put the results of the ladders' steps together")
    steps.add_argument("files", type=Path, nargs="+", help="JSON files of these variants")
    steps.add_argument("--output", type=Path, required=True, help="JSON")
    commands.add_parser("list", help="print the variants' names")
    options = parser.parse_args()
    os.environ["NKI_SIMULATOR"] = "1"
    install()
    if options.command == "list":
        print("\n".join(variants()))
        return 0
    run = {"variant": _variant, "collect": _collect, "ladder": _ladder}
    return run[options.command](options)


def _variant(options: argparse.Namespace) -> int:
    from .evaluation import evaluate

    result = evaluate(variants()[options.name])
    _write(options.output, json.dumps(result, indent=1) + "\n")
    for platform, found in result["times"].items():
        print(f"{options.name}: {found['time_us']['nominal']:.2f} {result['unit']} on {platform}")
    if result["problem"]:
        print(f"{options.name} is broken: {result['problem']}", file=sys.stderr)
    return 0


def _collect(options: argparse.Namespace) -> int:
    from .table import TuningError, collect, markdown

    results: list[dict[str, Any]] = [json.loads(file.read_text()) for file in options.files]
    try:
        table = collect(results)
    except TuningError as error:
        print(error, file=sys.stderr)
        return 1
    _write(options.table, markdown(table))
    _write(options.output, json.dumps(table, indent=1) + "\n")
    print(markdown(table))
    return 0


def _ladder(options: argparse.Namespace) -> int:
    from .table import TuningError, ladders

    try:
        found = ladders([json.loads(file.read_text()) for file in options.files])
    except TuningError as error:
        print(error, file=sys.stderr)
        return 1
    _write(options.output, json.dumps(found, indent=1) + "\n")
    for kernel, one in found["kernels"].items():
        for step in one["steps"]:
            times = ", ".join(f"{p} {t['nominal']:.1f} us" for p, t in step["time_us"].items())
            print(f"{kernel}: {step['step']}: {times}")
    return 0


def _write(path: Path, text: str) -> None:
    """Write a file as a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text)
    partial.replace(path)


if __name__ == "__main__":
    sys.exit(main())
