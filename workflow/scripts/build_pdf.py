"""Rule build_pdf: typeset the report; its date is the record's, for equal bytes of equal inputs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from evaluation.files import read_json
from report.build import TexError, build_pdf, epoch_of


def main(arguments: list[str] | None = None) -> None:
    """Run the rule."""
    parser = argparse.ArgumentParser(prog="python3 -m workflow.scripts.build_pdf")
    parser.add_argument("--record", type=Path, required=True, help="benchmark_results.json")
    parser.add_argument("--tex", type=Path, required=True, help="LaTeX source")
    parser.add_argument("--output", type=Path, required=True, help="PDF to write")
    options = parser.parse_args(arguments)
    epoch = epoch_of(read_json(options.record)["timestamp"])
    try:
        for box in build_pdf(options.tex, options.output, epoch):
            print(box)
    except TexError as error:
        sys.exit(f"build_pdf: {error}")


if __name__ == "__main__":
    main()
