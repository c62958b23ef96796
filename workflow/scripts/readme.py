"""Rule readme: README's block of results and its picture, from the record and the report."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from evaluation.files import write_atomically, write_json
from report.fields import ReportError
from report.readme import extract, picture, with_block


def main(arguments: list[str] | None = None) -> None:
    """Run the rule."""
    parser = argparse.ArgumentParser(prog="python3 -m workflow.scripts.readme")
    parser.add_argument("--record", type=Path, required=True, help="benchmark_results.json")
    parser.add_argument("--report", type=Path, required=True, help="technical_report.pdf")
    parser.add_argument("--readme", type=Path, required=True, help="README to write the block into")
    parser.add_argument("--png", type=Path, required=True, help="picture to write")
    parser.add_argument("--output", type=Path, required=True, help="what the block says, to write")
    options = parser.parse_args(arguments)
    try:
        found = extract(options.record)
        text = with_block(options.readme.read_text(encoding="utf-8"), found)
        picture(options.report, options.png, found["record_sha256"])
    except ReportError as error:
        sys.exit(f"readme: {error}")
    write_atomically(options.readme, text)
    write_json(options.output, found)


if __name__ == "__main__":
    main()
