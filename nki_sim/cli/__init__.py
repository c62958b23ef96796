"""The command line: ``python -m nki_sim check|run|profile|explain|table|rules``.

Exit codes: 0 when all is well, 1 when the kernel is wrong, 2 when the command is.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import SimulationError
from .output import explain_error
from .target import UsageError

PLATFORMS = ("trn1", "trn2", "trn3")

_EPILOG = """\
A target is FILE:kernel, or FILE when it holds one kernel. After --shapes, one NAME=VALUE for each
parameter without a default:
  x=128x2048:bf16      a tensor, standard normal numbers (types: f32 bf16 f16 i32 u8 e4m3 ...)
  x=64:i32:0..99       a tensor of one dimension, with a range for its values
  x=saved.npy          a tensor from a file (saved.npy:bf16 for a type that NumPy lacks)
  eps=1e-6  n=8  dims=(2,4)  mode=fast   constants
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = _parser().parse_args(argv)
    try:
        with _platform(getattr(arguments, "platform", None)):
            return int(_command(arguments.command)(arguments))
    except UsageError as error:
        print(f"nki_sim: {error}", file=sys.stderr)
        return 2
    except SimulationError as error:
        print(explain_error(error))
        return 1


def _command(name: str):  # type: ignore[no-untyped-def]
    """The function behind a command, imported when it is wanted."""
    from importlib import import_module

    return import_module(f".{name}", __name__).main


@contextlib.contextmanager
def _platform(name: str | None) -> Iterator[None]:
    """Simulate a platform while the command runs."""
    variable = "NEURON_PLATFORM_TARGET_OVERRIDE"
    before = os.environ.get(variable)
    if name is not None:
        os.environ[variable] = name
    try:
        yield
    finally:
        if name is not None:
            os.environ.pop(variable)
            if before is not None:
                os.environ[variable] = before


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m nki_sim",
        description="Check, run and profile NKI kernels on a simulated NeuronCore.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    check = _with_target(commands, "check", "would the compiler and the hardware take it?")
    check.add_argument(
        "--versions", default="", help="SDK releases, e.g. 2.28,2.31 (default: all known)"
    )
    check.add_argument("--quiet", action="store_true", help="errors only, no warnings")
    run = _with_target(commands, "run", "run it and describe the results")
    run.add_argument("--save", metavar="PREFIX", help="write the results to PREFIX0.npy, ...")
    run.add_argument("--pdb", action="store_true", help="on an error, debug where it happened")
    profile = _with_target(commands, "profile", "what it executes, moves and holds")
    profile.add_argument("--lines", type=int, default=20, help="how many source lines to list")
    profile.add_argument(
        "--no-data", action="store_true", help="trace shapes only: fast, for large kernels"
    )
    profile.add_argument("--trace", type=Path, metavar="FILE.json", help="for ui.perfetto.dev")
    profile.add_argument("--timeline", type=Path, metavar="FILE.pdf|png", help="draw the schedule")
    explain = commands.add_parser("explain", help="an instruction, an error or a rule, in words")
    explain.add_argument("names", nargs="+", metavar="NAME")
    commands.add_parser("table", help="the table of modelled instructions, as Markdown")
    commands.add_parser("rules", help="the table of the language check's rules, as Markdown")
    return parser


def _with_target(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, purpose: str
) -> argparse.ArgumentParser:
    command = commands.add_parser(
        name,
        help=purpose,
        description=purpose,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("target", metavar="FILE:kernel")
    command.add_argument("--shapes", nargs="+", default=[], metavar="NAME=VALUE")
    command.add_argument("--seed", type=int, default=0, help="of the random inputs")
    command.add_argument("--lnc", type=int, choices=(1, 2), help="launch as kernel[LNC]")
    command.add_argument("--platform", choices=PLATFORMS, help="default: trn2")
    return command
