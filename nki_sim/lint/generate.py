"""Write ``signatures.txt``: which names and parameters each release documents.

Usage: ``python -m nki_sim.lint.generate LISTING.json``. The listing maps a version to modules,
those to names, and those to a list of parameters (``"axis"``, ``"offset=0"``), to
``{"class": [members]}`` or to ``"value"``. What comes out are the facts that the check needs, our
own way: one line per name and change, without defaults.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .versions import VERSIONS

TABLE = Path(__file__).with_name("signatures.txt")
HEADER = """\
# What the releases of NKI document: name, the SDK version from which the entry holds, the entry.
# (a, b=) a function, `=` marks what may be left out; {a b} a class and its members; value; gone.
# Written by `python -m nki_sim.lint.generate`.
"""


def entry(documented: Any) -> str:
    """One name's documentation in the table's notation."""
    if documented is None:
        return "gone"
    if isinstance(documented, list):
        parameters = [p if p.startswith("*") else _parameter(p) for p in documented]
        return f"({', '.join(parameters)})"
    if isinstance(documented, Mapping):
        return "{" + " ".join(m for m in documented["class"] if not m.startswith("_")) + "}"
    return "value"


def _parameter(documented: str) -> str:
    name, has_default, _ = documented.partition("=")
    return name + "=" * bool(has_default)


def lines(listing: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[str]:
    """The table's lines, by module and name."""
    by_version = {v.rpartition(".")[0] if v.count(".") == 2 else v: m for v, m in listing.items()}
    names = sorted({(m, n) for v in VERSIONS for m in by_version[v] for n in by_version[v][m]})
    out = []
    for module, name in names:
        last = "gone"
        for version in VERSIONS:
            now = entry(by_version[version].get(module, {}).get(name))
            if now != last:
                out.append(f"{module}.{name} {version} {now}")
            last = now
    return out


def main(argv: list[str]) -> int:
    """Regenerate the table from a listing."""
    if len(argv) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    TABLE.write_text(HEADER + "\n".join(lines(json.loads(Path(argv[0]).read_text()))) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
