"""The README's console examples and generated tables: read, run and written again.

``python -m tests.nki_sim.readme_examples`` rewrites them after a change of what is printed.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
from pathlib import Path

from nki_sim import table
from nki_sim.cli import main
from nki_sim.lint import rules

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "nki_sim" / "README.md"
_BLOCK = re.compile(r"(?<=```console\n).*?(?=```)", re.DOTALL)
_PREFIX = "python -m nki_sim "


def examples() -> list[tuple[str, str]]:
    """Commands, and what the README says that they print."""
    found = []
    for block in _BLOCK.findall(README.read_text()):
        for part in ("\n" + block).split("\n$ ")[1:]:
            command, _, printed = part.partition("\n")
            assert command.startswith(_PREFIX), command
            found.append((command.removeprefix(_PREFIX), printed.strip("\n")))
    return found


def printed_by(command: str) -> str:
    """What a command prints, run in this process (whose folder is the project's root)."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        main(shlex.split(command))
    return out.getvalue().strip("\n")


def _rewritten(block: re.Match[str]) -> str:
    commands = ("\n" + block[0]).split("\n$ ")[1:]
    parts = []
    for one in commands:
        command = one.partition("\n")[0]
        parts.append(f"$ {command}\n{printed_by(command.removeprefix(_PREFIX))}\n")
    return "\n".join(parts)


def rewrite() -> None:
    """Bring everything generated in the README up to date."""
    text = _BLOCK.sub(_rewritten, README.read_text())
    for name, markdown in (("table", table.markdown()), ("rules", rules.markdown())):
        begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->"
        before, rest = text.split(begin)
        text = before + begin + markdown + end + rest.split(end, 1)[1]
    README.write_text(text)


if __name__ == "__main__":
    os.chdir(ROOT)
    os.environ.pop("NEURON_PLATFORM_TARGET_OVERRIDE", None)
    rewrite()
