"""``python -m validation --output FILE.json``: predicts every published point and compares."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from evaluation.files import write_atomically, write_json
from evaluation.provenance import modelled_inputs, validation_files
from nki_sim.install import install


def main() -> None:
    """Run the chosen points, write what was asked for, print the errors."""
    parser = argparse.ArgumentParser(
        prog="python -m validation", description=str(__doc__).splitlines()[0]
    )
    parser.add_argument("--output", type=Path, required=True, help="JSON: points and errors")
    parser.add_argument("--table", type=Path, help="the same as Markdown")
    for kind in ("pdf", "png"):
        parser.add_argument(f"--{kind}", type=Path, help=f"figure as {kind.upper()}")
    parser.add_argument("--only", default="", help="points whose group or id contains this")
    options = parser.parse_args()
    os.environ["NKI_SIMULATOR"] = "1"
    install()
    from .comparison import compare, load_points, summary
    from .report import figure, markdown
    from .workloads import WORKLOADS

    rows = []
    for point in load_points():
        if options.only in point.group or options.only in point.id:
            rows.append(compare(point, WORKLOADS))
            print(f"{point.id}: {100 * rows[-1]['error']:+.1f} %", flush=True)
    if not rows:
        parser.error(f"no point matches {options.only!r}")
    result = {
        "schema_version": 1,
        "basis": "modelled",
        "points": rows,
        "summary": summary(rows),
        "inputs": modelled_inputs(validation_files()),
    }
    write_json(options.output, result)
    if options.table:
        write_atomically(options.table, markdown(result))
    for path in filter(None, (options.pdf, options.png)):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}{path.suffix}")
        figure(result, partial)
        partial.replace(path)
    print(markdown({**result, "points": []}))


if __name__ == "__main__":
    main()
