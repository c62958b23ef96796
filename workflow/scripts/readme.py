"""Rule readme: README's generated parts, its badges and its pictures, from record and report."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from evaluation.files import write_atomically
from report.fields import ReportError
from report.readme import documents


def main(arguments: list[str] | None = None) -> None:
    """Run the rule: everything is made before the first file is written."""
    parser = argparse.ArgumentParser(prog="python3 -m workflow.scripts.readme")
    parser.add_argument("--record", type=Path, required=True, help="benchmark_results.json")
    parser.add_argument("--report", type=Path, required=True, help="technical_report.pdf")
    parser.add_argument("--figures", type=Path, required=True, help="folder of the figures")
    parser.add_argument("--root", type=Path, required=True, help="folder of README and docs")
    options = parser.parse_args(arguments)
    readme = (options.root / "README.md").read_text(encoding="utf-8")
    try:
        made = documents(options.record, options.report, options.figures, readme)
    except ReportError as error:
        sys.exit(f"readme: {error}")
    for path, content in made.items():
        write_atomically(options.root / path, content)


if __name__ == "__main__":
    main()
