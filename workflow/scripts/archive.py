"""Rule archive: pack the submission, in the same bytes for the same content."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from evaluation.bundle import BundleError, write_archive
from evaluation.records import RecordError

ROOT = Path(__file__).resolve().parents[2]


def main(arguments: list[str] | None = None) -> None:
    """Run the rule."""
    parser = argparse.ArgumentParser(prog="python3 -m workflow.scripts.archive")
    parser.add_argument("--record", type=Path, required=True, help="benchmark_results.json")
    parser.add_argument("--tex", type=Path, required=True, help="LaTeX source of the report")
    parser.add_argument("--pdf", type=Path, required=True, help="the report")
    parser.add_argument("--output", type=Path, required=True, help="archive to write")
    options = parser.parse_args(arguments)
    try:
        write_archive(options.output, ROOT, options.record, options.tex, options.pdf)
    except (BundleError, RecordError) as error:
        sys.exit(f"archive: {error}")


if __name__ == "__main__":
    main()
