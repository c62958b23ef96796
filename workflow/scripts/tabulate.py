"""Rule tabulate: write one table of the results from the record, as CSV and as HTML."""

from __future__ import annotations

import argparse
from pathlib import Path

from report.table_files import write_table
from report.tables import TABLES


def main(arguments: list[str] | None = None) -> None:
    """Run the rule."""
    parser = argparse.ArgumentParser(prog="python3 -m workflow.scripts.tabulate")
    parser.add_argument("--name", choices=list(TABLES), required=True, help="which table")
    parser.add_argument("--record", type=Path, required=True, help="benchmark_results.json")
    parser.add_argument("--csv", type=Path, required=True, help="CSV to write")
    parser.add_argument("--html", type=Path, required=True, help="page to write")
    options = parser.parse_args(arguments)
    write_table(options.name, options.record, options.csv, options.html)


if __name__ == "__main__":
    main()
