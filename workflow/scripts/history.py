"""Rule history: file the record with those of earlier runs, compare them, write table and plot."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from evaluation.files import write_atomically, write_json
from evaluation.history import file_record, read_history
from evaluation.history_table import history, markdown, regressions
from evaluation.records import RecordError
from report.history import plot


def main(arguments: list[str] | None = None) -> None:
    """Run the rule."""
    parser = argparse.ArgumentParser(prog="python3 -m workflow.scripts.history")
    parser.add_argument("--record", type=Path, required=True, help="benchmark_results.json")
    parser.add_argument("--records", type=Path, required=True, help="folder of earlier ones")
    parser.add_argument("--output", type=Path, required=True, help="history as JSON, to write")
    parser.add_argument("--table", type=Path, required=True, help="table to write")
    parser.add_argument("--pdf", type=Path, required=True, help="PDF to write")
    parser.add_argument("--png", type=Path, required=True, help="PNG to write")
    options = parser.parse_args(arguments)
    try:
        file_record(options.record, options.records)
        content = history(read_history(sorted(options.records.glob("*.json"))))
    except RecordError as error:
        sys.exit(f"history: {error}")
    plot(content, options.pdf, options.png)
    write_atomically(options.table, markdown(content))
    write_json(options.output, content)
    print("\n".join(regressions(content)) or "the latest record is in nothing worse")


if __name__ == "__main__":
    main()
