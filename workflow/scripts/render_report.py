"""Rule render_report: write the report's LaTeX source from the record and the template."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from report.fields import ReportError
from report.render import render_file


def main(arguments: list[str] | None = None) -> None:
    """Run the rule."""
    parser = argparse.ArgumentParser(prog="python3 -m workflow.scripts.render_report")
    parser.add_argument("--record", type=Path, required=True, help="benchmark_results.json")
    parser.add_argument("--figures", type=Path, required=True, help="folder of the figures")
    parser.add_argument("--numbers", type=Path, required=True, help="list of its numbers to write")
    parser.add_argument("--output", type=Path, required=True, help="LaTeX source to write")
    options = parser.parse_args(arguments)
    try:
        render_file(options.record, options.figures, options.output, options.numbers)
    except ReportError as error:
        sys.exit(f"render_report: {error}")


if __name__ == "__main__":
    main()
